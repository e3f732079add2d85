"""`larder.vllm_ec` without an engine: the scheduler's and the workers' side over a real node.

What a reader would get wrong: here vLLM's scheduler is played by these tests, in the order in which
vLLM calls; that vLLM calls so is shown by `vllm_ec_proof.py`.
"""

from __future__ import annotations

import struct
import time
import types
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("vllm")
torch = pytest.importorskip("torch")

from node_process import Node
from vllm.distributed.ec_transfer.ec_connector.base import ECConnectorRole

from larder._staging import ALIGN_BYTES, Room
from larder.vllm_ec import LarderEncoderCache, pack_shape, shape_of

ROWS, WIDTH = 8, 16
OUTPUT_BYTES = ROWS * WIDTH * 2


@pytest.fixture
def node() -> Iterator[Node]:
    with Node("64MiB") as node:
        yield node


def engine_config(endpoint: str, *, workers: int = 1, role: str = "ec_both", **extra: Any) -> Any:
    """What the connector reads of vLLM's configuration."""
    return types.SimpleNamespace(
        instance_id=uuid.uuid4().hex[:5],
        ec_transfer_config=types.SimpleNamespace(
            engine_id=str(uuid.uuid4()),
            is_ec_producer=role != "ec_consumer",
            is_ec_consumer=role != "ec_producer",
            ec_connector_extra_config={
                "endpoint": endpoint,
                "revision": "1",
                "staging_bytes": 1 << 20,
                "fetch_timeout": 1.0,
                "connect_timeout": 0.5,
                **extra,
            },
        ),
        parallel_config=types.SimpleNamespace(
            world_size=workers, pipeline_parallel_size=1, data_parallel_index=0, rank=0
        ),
        model_config=types.SimpleNamespace(
            model="models/eye",
            dtype=torch.bfloat16,
            quantization=None,
            hf_overrides={},
            multimodal_config=types.SimpleNamespace(),
        ),
    )


class Engine:
    """A scheduler's connector and its workers', as in as many processes."""

    def __init__(self, endpoint: str, *, attached: int | None = None, **options: Any) -> None:
        config = engine_config(endpoint, **options)
        workers = config.parallel_config.world_size
        self.workers = []
        for rank in range(workers if attached is None else attached):
            config.parallel_config.rank = rank
            self.workers.append(LarderEncoderCache(config, ECConnectorRole.WORKER))
        config.parallel_config.rank = 0
        self.scheduler = LarderEncoderCache(config, ECConnectorRole.SCHEDULER)

    def wait(self, *names: str, rows: int = ROWS) -> bool:
        """Asks until the request is not deferred; whether all items are there."""
        asked = request(*names, rows=rows)
        ends = time.monotonic() + 10
        while not self.scheduler.ensure_cache_available(asked, 0):
            assert time.monotonic() < ends, "deferred for ever"
            time.sleep(0.002)
        return all(self.scheduler.has_cache_item(name) for name in names)

    def schedule(self, *names: str) -> Any:
        """A step that uses the items, up to what workers are sent."""
        asked = request(*names)
        for index in range(len(names)):
            self.scheduler.update_state_after_alloc(asked, index)
        return self.scheduler.build_connector_meta(None)

    def load(self, meta: Any, rank: int = 0) -> dict[str, Any]:
        cache: dict[str, Any] = {}
        self.workers[rank].bind_connector_metadata(meta)
        self.workers[rank].start_load_caches(cache)
        self.workers[rank].clear_connector_metadata()
        return cache

    def save(self, outputs: dict[str, Any]) -> None:
        for name in outputs:
            self.workers[0].save_caches(outputs, name)

    def close(self) -> None:
        for worker in self.workers:
            worker.shutdown()
        self.scheduler.shutdown()
        self.scheduler.shutdown()


def request(*names: str, rows: int = ROWS) -> Any:
    features = [
        types.SimpleNamespace(
            identifier=name, mm_position=types.SimpleNamespace(offset=10 * i, length=10)
        )
        for i, name in enumerate(names)
    ]
    return types.SimpleNamespace(mm_features=features, get_num_encoder_embeds=lambda index: rows)


def output(seed: int, rows: int = ROWS) -> Any:
    return torch.full((rows, WIDTH), float(seed), dtype=torch.bfloat16)


def filled(node: Node, count: int) -> dict[str, Any]:
    outputs = {f"item-{i}": output(i + 1) for i in range(count)}
    engine = Engine(node.endpoint)
    engine.save(outputs)
    engine.close()
    return outputs


def test_another_engine_loads_what_one_encoded(node: Node) -> None:
    outputs = filled(node, 3)
    engine = Engine(node.endpoint)
    assert engine.wait(*outputs)
    loaded = engine.load(engine.schedule(*outputs))
    assert loaded.keys() == outputs.keys()
    assert all(torch.equal(loaded[name], outputs[name]) for name in outputs)
    counted = engine.scheduler.get_ec_connector_stats()
    assert counted.data == {"staged": 3, "loaded": 3, "loaded_bytes": 3 * OUTPUT_BYTES}
    engine.close()


def test_yes_is_only_for_what_was_fetched(node: Node) -> None:
    filled(node, 1)
    engine = Engine(node.endpoint)
    assert not engine.scheduler.has_cache_item("item-0")
    assert not engine.scheduler.ensure_cache_available(request("item-0"), 0)
    assert engine.wait("item-0")
    assert not engine.wait("item-9")
    # Verdicts are kept: nobody is deferred again.
    assert engine.scheduler.ensure_cache_available(request("item-0", "item-9"), 0)
    engine.close()


def test_items_behind_the_request_are_not_fetched(node: Node) -> None:
    engine = Engine(node.endpoint)
    assert engine.scheduler.ensure_cache_available(request("item-0"), 10)
    assert engine.scheduler.ensure_cache_available(request("item-0", "item-1"), 20)
    engine.close()


def test_output_of_another_shape_is_not_used(node: Node) -> None:
    filled(node, 1)
    engine = Engine(node.endpoint)
    assert not engine.wait("item-0", rows=ROWS + 1)
    engine.close()


def test_object_without_a_shape_is_not_used(node: Node) -> None:
    engine = Engine(node.endpoint)
    engine.scheduler._scheduler.link.stores.writes.put(["item-0"], [bytes(OUTPUT_BYTES)])
    assert not engine.wait("item-0")
    engine.close()


def test_staged_bytes_stay_until_every_worker_has_them(node: Node) -> None:
    outputs = filled(node, 3)
    engine = Engine(node.endpoint, workers=2, staging_bytes=OUTPUT_BYTES)
    assert engine.wait("item-0")
    meta = engine.schedule("item-0")
    assert not engine.wait("item-1")
    assert torch.equal(engine.load(meta, 0)["item-0"], outputs["item-0"])
    assert not engine.wait("item-2"), "the other worker has not copied item-0 yet"
    assert torch.equal(engine.load(meta, 1)["item-0"], outputs["item-0"])
    time.sleep(5.1)
    assert engine.wait("item-1")
    assert not engine.scheduler.has_cache_item("item-0")
    assert torch.equal(engine.load(engine.schedule("item-1"), 1)["item-1"], outputs["item-1"])
    engine.close()


def test_yes_holds_for_the_step_it_was_said_in(node: Node) -> None:
    filled(node, 2)
    engine = Engine(node.endpoint, staging_bytes=OUTPUT_BYTES)
    assert engine.wait("item-0")
    assert not engine.wait("item-1"), "item-0 was promised to this step"
    assert engine.scheduler.has_cache_item("item-0")
    engine.close()


def test_worker_that_never_attached_turns_loading_off(node: Node) -> None:
    filled(node, 1)
    engine = Engine(node.endpoint, workers=2, attached=1)
    assert not engine.wait("item-0")
    engine.close()


def test_node_killed_while_fetching_means_not_cached(node: Node) -> None:
    filled(node, 1)
    engine = Engine(node.endpoint)
    prefetch = engine.scheduler._scheduler.prefetch

    def shape_then_kill(meta: bytes, length: int) -> Any:
        node.kill()
        return shape_of(meta, length)

    prefetch._shape_of = shape_then_kill
    began = time.monotonic()
    assert not engine.wait("item-0")
    assert time.monotonic() - began < 2.5
    engine.close()


def test_without_a_node_nothing_is_deferred(node: Node) -> None:
    node.kill()
    engine = Engine(node.endpoint)
    assert engine.scheduler.ensure_cache_available(request("item-0"), 0)
    assert not engine.scheduler.has_cache_item("item-0")
    engine.save({"item-0": output(1)})
    engine.close()


def test_another_revision_or_model_shares_nothing(node: Node) -> None:
    filled(node, 1)
    for others in ({"revision": "2"}, {"model": "models/other"}, {"tenant": "other"}):
        engine = Engine(node.endpoint, **others)
        assert not engine.wait("item-0")
        engine.close()


def test_consumer_stores_nothing_and_producer_loads_nothing(node: Node) -> None:
    consumer = Engine(node.endpoint, role="ec_consumer")
    consumer.save({"item-0": output(1)})
    consumer.close()
    engine = Engine(node.endpoint)
    assert not engine.wait("item-0")
    engine.close()
    producer = Engine(node.endpoint, role="ec_producer")
    producer.save({"item-1": output(1)})
    assert producer.wait() and not producer.scheduler.has_cache_item("item-1")
    producer.close()
    engine = Engine(node.endpoint)
    assert engine.wait("item-1")
    engine.close()


def test_shapes_survive_and_nonsense_does_not() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn):
        tensor = torch.zeros(3, 5, dtype=torch.float32).to(dtype)
        meta = pack_shape(tensor)
        assert meta is not None and len(meta) <= 64
        assert shape_of(meta, tensor.nbytes) == ((3, 5), str(dtype).removeprefix("torch."))
        assert shape_of(meta, tensor.nbytes + 1) is None
    assert pack_shape(torch.zeros(2, 3, 4)) is None
    for meta in (b"", b"LEC1", b"LEC1" + struct.pack("<II", 1, 1) + b"load", b"\xff" * 64):
        assert shape_of(meta, 1) is None


def test_room_joins_what_is_given_back() -> None:
    room = Room(4 * ALIGN_BYTES + 1)
    places = [room.take(ALIGN_BYTES - 1) for _ in range(4)]
    assert places == [0, ALIGN_BYTES, 2 * ALIGN_BYTES, 3 * ALIGN_BYTES]
    assert room.take(1) is None
    for place in (1, 3, 0, 2):
        room.give(place * ALIGN_BYTES, 1)
    assert room.take(4 * ALIGN_BYTES) == 0
