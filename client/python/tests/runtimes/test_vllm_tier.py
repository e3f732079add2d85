"""`larder.vllm_tier` under vLLM's own tiering manager, without an engine: seconds, not minutes.

What a reader would get wrong: nothing of vLLM is replaced but the GPU, which these tests play
themselves by writing rows before `complete_store` and reading them after `prepare_load`.

Runs wherever vLLM can be imported, 0.32 and 0.33; a GPU is not needed.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
import types
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("vllm")
pytest.importorskip("torch")

from node_process import Node
from vllm.v1.kv_offload.base import (
    LookupResult,
    OffloadingKVEventsConfig,
    OffloadKey,
    ReqContext,
    ScheduleEndContext,
    make_offload_key,
)
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
from vllm.v1.kv_offload.tiering.manager import (
    CPUPrimaryTierOffloadingManager,
    TieringOffloadingManager,
)

import larder
from larder.vllm_tier import LarderTier

ROWS = 32
ROW_BYTES = 8192
TOKENS = 16
requests = itertools.count()


@pytest.fixture
def node() -> Iterator[Node]:
    with Node("64MiB") as node:
        yield node


def config(**changes: Any) -> OffloadingConfig:
    """What vLLM tells of one full-attention group on `tp` GPUs."""
    tp = changes.pop("tp", 1)
    return OffloadingConfig(
        groups=(OffloadingGroupConfig(TOKENS, ("layers.0", "layers.1"), 0),),
        worker_kv_bytes_per_block=ROW_BYTES // tp,
        enable_kv_cache_events=True,
        extra_config={},
        engine_id=uuid.uuid4().hex,
        model=OffloadingModelConfig("models/tiny", "bfloat16"),
        cache=OffloadingCacheConfig(TOKENS, 1),
        parallel=OffloadingParallelConfig(0, tp, tp, 1, 1, 1, 0, 1, None, True),
        kv_cache_layout="LBHNC",
        **changes,
    )


def primary_tier(settings: OffloadingConfig) -> CPUPrimaryTierOffloadingManager:
    """vLLM's own host memory, of ROWS rows."""
    region = SharedOffloadRegion(settings.engine_id, ROWS, None, ROW_BYTES, ROW_BYTES)
    return CPUPrimaryTierOffloadingManager(ROWS, region)


def offloading_spec(settings: OffloadingConfig) -> Any:
    """What a tier reads of vLLM's spec."""
    return types.SimpleNamespace(
        config=settings,
        replicated_layout=False,
        kv_events_config=OffloadingKVEventsConfig(True, False),
    )


class Engine:
    """vLLM's manager with one tier, and a hand in place of the GPU worker."""

    def __init__(self, endpoint: str, *, settings: OffloadingConfig | None = None, **tier: Any):
        settings = settings or config()
        primary = primary_tier(settings)
        self.view = primary.get_kv_memoryview()
        spec = offloading_spec(settings)
        options = {"revision": "1", "enable_kv_events": True, "lookup_timeout": 2.0, **tier}
        try:
            self.tier = LarderTier(spec, self.view, "LarderTier", endpoint=endpoint, **options)
        except Exception:
            del self.view
            primary.shutdown()
            raise
        self.manager = TieringOffloadingManager(primary, [self.tier])

    def step(self) -> None:
        self.manager.on_schedule_end(ScheduleEndContext((), ()))

    def settle(self) -> None:
        ends = time.monotonic() + 10
        while self.manager.has_pending_work():
            assert time.monotonic() < ends, "jobs do not end"
            self.step()
            time.sleep(0.002)

    def request(self, keys: list[OffloadKey]) -> ReqContext:
        context = ReqContext(f"request-{next(requests)}")
        for place, key in enumerate(keys):
            context.set_offload_key_position(key, (place + 1) * TOKENS)
        self.manager.on_new_request(context)
        return context

    def asked(self, keys: list[OffloadKey]) -> ReqContext:
        """A request whose keys were found, which vLLM has not seen: its next look loads them."""
        context = self.request(keys)
        for key in keys:
            self.manager.lookup(key, context)
        self.step()
        time.sleep(0.3)
        return context

    def await_nodes(self) -> None:
        ends = time.monotonic() + 15
        while self.tier._link.stores is None:
            assert time.monotonic() < ends, "no node was found"
            time.sleep(0.01)

    def store(self, contents: dict[OffloadKey, bytes]) -> None:
        keys = list(contents)
        context = self.request(keys)
        rows = self.manager.prepare_store(keys, context).store_spec.chunk_ids
        flat = self.view.cast("B")
        for row, value in zip(rows, contents.values(), strict=True):
            flat[row * ROW_BYTES : (row + 1) * ROW_BYTES] = value
        flat.release()
        self.manager.complete_store(keys, context, True)
        self.settle()
        self.manager.on_request_finished(context)

    def lookup(self, keys: list[OffloadKey], context: ReqContext) -> list[LookupResult]:
        """Asks step by step until there is an answer for every key."""
        ends = time.monotonic() + 10
        while True:
            found = [self.manager.lookup(key, context) for key in keys]
            self.step()
            if not {LookupResult.RETRY, LookupResult.HIT_PENDING} & set(found):
                return found
            assert time.monotonic() < ends, "vLLM would ask for ever"
            time.sleep(0.002)

    def load(self, keys: list[OffloadKey]) -> list[bytes | None]:
        """The rows of the leading keys, as a worker would copy them."""
        context = self.request(keys)
        found = self.lookup(keys, context)
        hits = list(itertools.takewhile(lambda k: found[keys.index(k)] is LookupResult.HIT, keys))
        values: list[bytes | None] = []
        if hits:
            flat = self.view.cast("B")
            for row in self.manager.prepare_load(hits, context).chunk_ids:
                values.append(bytes(flat[row * ROW_BYTES : (row + 1) * ROW_BYTES]))
            flat.release()
            self.manager.complete_load(hits, context)
        self.manager.on_request_finished(context)
        return values + [None] * (len(keys) - len(hits))

    def close(self) -> None:
        del self.view
        self.manager.shutdown()


def contents(count: int, seed: int = 0) -> dict[OffloadKey, bytes]:
    keys = [make_offload_key(bytes([seed, i]) * 16, 0) for i in range(count)]
    return {key: bytes([seed + 1, i + 1]) * (ROW_BYTES // 2) for i, key in enumerate(keys)}


def stored(node: Node, chunks: dict[OffloadKey, bytes], **options: Any) -> None:
    engine = Engine(node.endpoint, **options)
    engine.store(chunks)
    engine.close()


def test_another_engine_loads_what_one_stored(node: Node) -> None:
    chunks = contents(12)
    writer = Engine(node.endpoint)
    writer.store(chunks)
    events = [e for e in writer.manager.take_events() if e.ownership == "LarderTier"]
    assert [len(e.keys) for e in events] == [12] and not events[0].removed
    writer.close()
    reader = Engine(node.endpoint)
    assert reader.load(list(chunks)) == list(chunks.values())
    stats = reader.tier.get_stats()
    assert stats is not None
    counted = stats.reduce()
    assert counted["vllm:larder_tier_keys:('lookup', 'hit')"] == 12
    assert counted["vllm:larder_tier_keys:('load', 'loaded')"] == 12
    assert counted["vllm:larder_tier_bytes:('load',)"] == 12 * ROW_BYTES
    reader.close()


def test_unknown_keys_are_misses(node: Node) -> None:
    engine = Engine(node.endpoint)
    assert engine.load(list(contents(3))) == [None] * 3
    engine.close()


def test_key_gone_between_lookup_and_load_fails_alone(node: Node) -> None:
    chunks = contents(6)
    keys = list(chunks)
    stored(node, chunks)
    engine = Engine(node.endpoint)
    context = engine.asked(keys)
    engine.tier._link.stores.writes.remove([keys[2]])
    found = engine.lookup(keys, context)
    assert [f is LookupResult.HIT for f in found] == [True, True, False, True, True, True]
    removed = [e for e in engine.manager.take_events() if e.removed]
    assert [list(e.keys) for e in removed] == [[keys[2]]]
    engine.manager.on_request_finished(context)
    engine.close()


def test_object_shorter_than_a_row_is_never_a_row(node: Node) -> None:
    chunks = contents(3)
    keys = list(chunks)
    stored(node, chunks)
    engine = Engine(node.endpoint)
    context = engine.asked(keys)
    engine.tier._link.stores.writes.put([keys[1]], [bytes(ROW_BYTES // 2)])
    found = engine.lookup(keys, context)
    assert [f is LookupResult.HIT for f in found] == [True, False, True]
    engine.manager.on_request_finished(context)
    # Nor is it found by whoever asks after that.
    assert [value is None for value in engine.load(keys)] == [False, True, True]
    engine.close()


def test_node_killed_between_lookup_and_load_is_a_miss(node: Node) -> None:
    chunks = contents(6)
    keys = list(chunks)
    stored(node, chunks)
    engine = Engine(node.endpoint, load_timeout=0.5)
    context = engine.asked(keys)
    node.kill()
    began = time.monotonic()
    assert engine.lookup(keys, context) == [LookupResult.MISS] * 6
    assert time.monotonic() - began < 2.0
    engine.manager.on_request_finished(context)
    engine.close()


def test_without_a_node_all_is_a_miss_until_there_is_one(node: Node) -> None:
    chunks = contents(4)
    node.kill()
    began = time.monotonic()
    engine = Engine(node.endpoint, connect_timeout=0.5)
    assert time.monotonic() - began < 1.5
    engine.store(chunks)
    assert engine.load(list(contents(4, seed=9))) == [None] * 4
    node.start()
    engine.await_nodes()
    later = contents(4, seed=3)
    engine.store(later)
    engine.close()
    reader = Engine(node.endpoint)
    assert reader.load(list(later)) == list(later.values())
    reader.close()


def test_another_topology_revision_or_tenant_shares_nothing(node: Node) -> None:
    chunks = contents(3)
    stored(node, chunks)
    for others in (
        {"settings": config(tp=2)},
        {"revision": "2"},
        {"tenant": "other"},
        {"model": "models/other"},
        {"settings": dataclasses.replace(config(), kv_cache_layout="BLHNC")},
        {"settings": dataclasses.replace(config(), canonical_layout=True)},
    ):
        engine = Engine(node.endpoint, **others)
        assert engine.load(list(chunks)) == [None] * 3, others
        engine.close()


def test_canonical_rows_are_shared_between_topologies(node: Node) -> None:
    chunks = contents(3)
    canonical = [dataclasses.replace(config(tp=tp), canonical_layout=True) for tp in (1, 2)]
    stored(node, chunks, settings=canonical[0])
    engine = Engine(node.endpoint, settings=canonical[1])
    assert engine.load(list(chunks)) == list(chunks.values())
    engine.close()


@pytest.mark.parametrize(("on_reset", "hits"), [("leave", 0), ("keep", 3)])
def test_reset_leaves_the_namespace_unless_told(node: Node, on_reset: str, hits: int) -> None:
    chunks = contents(3)
    engine = Engine(node.endpoint, on_reset=on_reset)
    engine.store(chunks)
    engine.manager.reset_cache()
    if hasattr(engine.manager, "on_reset_flushed"):
        engine.manager.on_reset_flushed()
    engine.await_nodes()
    assert sum(value is not None for value in engine.load(list(chunks))) == hits
    # And it goes on storing, wherever it is.
    more = contents(2, seed=5)
    engine.store(more)
    engine.close()


def test_reset_without_a_node_leaves_the_namespace_too(node: Node) -> None:
    """The weights of what is stored later may not be those of the namespace."""
    node.kill()
    engine = Engine(node.endpoint, connect_timeout=0.2)
    engine.manager.reset_cache()
    if hasattr(engine.manager, "on_reset_flushed"):
        engine.manager.on_reset_flushed()
    node.start()
    engine.await_nodes()
    chunks = contents(2)
    engine.store(chunks)
    other = Engine(node.endpoint)
    assert other.load(list(chunks)) == [None] * 2
    other.close()
    engine.close()


def test_place_beyond_the_deepest_is_stored_as_the_deepest(node: Node) -> None:
    engine = Engine(node.endpoint)
    (key,) = contents(1)
    context = engine.request([key])
    context.set_offload_key_position(key, (1 << 17) * TOKENS)
    assert engine.tier._depths(types.SimpleNamespace(keys=[key], req_context=context)) == [65535]
    engine.manager.on_request_finished(context)
    engine.close()


def test_vllms_factory_makes_it_from_json(node: Node) -> None:
    """With every key that vLLM itself reads of a tier's configuration."""
    settings = config()
    primary = primary_tier(settings)
    description = {
        "type": "LarderTier",
        "module_path": "larder.vllm_tier",
        "endpoint": [node.endpoint],
        "revision": "1",
        "locality": "REMOTE",
        "enable_kv_events": True,
        "backpressure": {
            "backpressure_cls": "EMABackpressureDetector",
            "policy_cls": "DropStorePolicy",
        },
    }
    assert LarderTier.build_metric_definitions(description)
    tier = SecondaryTierFactory.create_secondary_tier(
        description, primary.get_kv_memoryview(), offloading_spec(settings)
    )
    assert isinstance(tier, LarderTier) and tier.bp_detector is not None
    assert tier._link.stores is not None
    tier.shutdown()
    primary.shutdown()


def test_row_longer_than_an_object_is_refused() -> None:
    view = memoryview(bytearray(1)).cast("b")

    class Long:
        """A view of one row, as far as the constructor looks before it refuses."""

        strides = ((64 << 20) + 4096, 1)
        nbytes = view.nbytes

    with pytest.raises(larder.InvalidArgument, match="blocks_per_chunk"):
        LarderTier(offloading_spec(config()), Long(), "LarderTier", revision="1")


def test_what_cannot_work_is_said_at_start(node: Node) -> None:
    with pytest.raises(larder.InvalidArgument, match="revision"):
        Engine(node.endpoint, revision="")
    with pytest.raises(larder.InvalidArgument, match="on_reset"):
        Engine(node.endpoint, on_reset="bump")
    with pytest.raises(larder.InvalidArgument, match="path"):
        Engine(node.endpoint, path="rdma")
    with pytest.raises(TypeError):
        Engine(node.endpoint, no_such_option=1)
