"""`larder.lmcache` under LMCache's own `native_plugin` factory and adapter, from its package.

The adapter has its own threads and descriptors: these tests wait on them as LMCache's controllers
do. Skipped without LMCache: see examples/lmcache/README.md for an install that needs no GPU.
"""

from __future__ import annotations

import os
import select
import time
from typing import Any

import pytest

torch = pytest.importorskip("torch")
os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
l2_adapters = pytest.importorskip("lmcache.v1.distributed.l2_adapters")

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.config import get_l2_adapter_config_class
from lmcache.v1.memory_management import MemoryObjMetadata, TensorMemoryObj
from node_process import Node

import larder.lmcache

BYTES = 40_000
"""Of an object's contents; its slot has ALIGNED."""
ALIGNED = 40_960


def adapter(endpoint: str, **params: Any) -> Any:
    """What `--l2-adapter '{"type": "native_plugin", …}'` makes."""
    config = get_l2_adapter_config_class("native_plugin").from_dict(
        {
            "module_path": "larder.lmcache",
            "class_name": "Client",
            "adapter_params": {"endpoint": endpoint, "revision": "1", **params},
            "max_capacity_gb": 1,
        }
    )
    return l2_adapters.create_l2_adapter(config)


def keys(name: str, count: int) -> list[Any]:
    return [
        ObjectKey(
            chunk_hash=name.encode().ljust(28, b"-") + index.to_bytes(4, "big"),
            model_name="acme/a-model-with-a-name-that-is-longer-than-a-key-of-larder-may-be",
            kv_rank=ObjectKey.ComputeKVRank(2, 1, 2, 1),
        )
        for index in range(count)
    ]


def objects(count: int, fill: int | None = None) -> list[Any]:
    """LMCache's memory objects, in slots of an arena of its alignment."""
    arena = torch.full((count, ALIGNED), 255 if fill is None else fill, dtype=torch.uint8)
    if fill is None:
        arena.random_(0, 256)
    shape = torch.Size([BYTES])
    return [
        TensorMemoryObj(
            slot,
            MemoryObjMetadata(
                shape=shape,
                dtype=torch.uint8,
                address=0,
                phy_size=ALIGNED,
                ref_count=1,
                shapes=[shape],
                dtypes=[torch.uint8],
            ),
            None,
        )
        for slot in arena.unbind(0)
    ]


def contents(held: Any) -> bytes:
    return bytes(memoryview(held.byte_array).cast("B"))


def await_event(descriptor: int, seconds: float = 10.0) -> None:
    assert select.select([descriptor], [], [], seconds)[0], "no event"
    os.eventfd_read(descriptor)


def store(l2: Any, names: list[Any], held: list[Any]) -> Any:
    task = l2.submit_store_task(names, held)
    await_event(l2.get_store_event_fd())
    return l2.pop_completed_store_tasks()[task]


def lookup(l2: Any, names: list[Any]) -> list[bool]:
    task = l2.submit_lookup_and_lock_task(names, {})
    await_event(l2.get_lookup_and_lock_event_fd())
    bitmap = l2.query_lookup_and_lock_result(task)
    l2.submit_unlock(names)
    return [bitmap.test(index) for index in range(len(names))]


def load(l2: Any, names: list[Any], held: list[Any]) -> list[bool]:
    task = l2.submit_load_task(names, held)
    await_event(l2.get_load_event_fd())
    bitmap = l2.query_load_result(task)
    return [bitmap.test(index) for index in range(len(names))]


def test_objects_go_from_one_server_to_another(node: Node) -> None:
    writer, reader = adapter(node.endpoint), adapter(node.endpoint)
    names, sources, targets = keys("go", 129), objects(129), objects(129, fill=7)
    assert lookup(reader, names) == [False] * 129
    stored = store(writer, names[:128], sources[:128])
    assert stored.is_successful()
    assert writer.get_usage().total_bytes_used == 128 * BYTES
    assert lookup(reader, names) == [True] * 128 + [False]
    assert load(reader, names, targets) == [True] * 128 + [False]
    assert all(contents(a) == contents(b) for a, b in zip(sources[:128], targets, strict=False))
    assert set(contents(targets[128])) == {7}, "a miss wrote"
    assert all(set(t.raw_data[BYTES:].tolist()) == {7} for t in targets[:3]), "wrote past the end"
    writer.close()
    reader.close()


def test_deleted_objects_are_gone_and_counted(node: Node) -> None:
    l2 = adapter(node.endpoint, tenant="delete")
    names = keys("delete", 3)
    store(l2, names, objects(3))
    l2.delete(names[1:])
    assert lookup(l2, names) == [True, False, False]
    assert l2.get_usage().total_bytes_used == BYTES
    l2.close()


def test_what_keys_do_not_say_separates_servers(node: Node) -> None:
    names = keys("apart", 1)
    store(adapter(node.endpoint), names, objects(1))
    for difference in ("revision", "tenant", "dtype", "layout", "model", "rank", "extra"):
        other = adapter(node.endpoint, **{difference: "other"})
        assert lookup(other, names) == [False], difference
        other.close()


def test_over_shared_memory_and_a_list_of_nodes(node: Node) -> None:
    l2 = adapter(node.seed("shm"), path="shm", tenant="shm")
    names, sources, targets = keys("shm", 4), objects(4), objects(4, fill=0)
    store(l2, names, sources)
    other = adapter(f"{node.endpoint},{node.endpoint}", tenant="shm")
    assert load(other, names, targets) == [True] * 4
    assert [contents(t) for t in targets] == [contents(s) for s in sources]


def test_a_node_that_dies_makes_misses_in_bounded_time() -> None:
    with Node() as node:
        l2 = adapter(node.endpoint, transfer_deadline=1.0)
        names, targets = keys("dies", 2), objects(2, fill=9)
        store(l2, names, objects(2))
        assert lookup(l2, names) == [True, True]
        node.kill()
        began = time.monotonic()
        assert load(l2, names, targets) == [False, False]
        assert time.monotonic() - began < 2
        assert set(contents(targets[0])) == {9}
        assert lookup(l2, names) == [False, False]
        l2.close()


def test_without_a_node_a_server_starts_and_finds_it_later() -> None:
    with Node() as node:
        node.kill()
        began = time.monotonic()
        l2 = adapter(node.endpoint, retry=0.1, connect_timeout=0.5)
        assert time.monotonic() - began < 2
        names, sources, targets = keys("late", 2), objects(2), objects(2, fill=0)
        assert lookup(l2, names) == [False, False]
        assert load(l2, names, targets) == [False, False]
        store(l2, names, sources)
        l2.delete(names)
        node.start()
        end = time.monotonic() + 20
        while not (store(l2, names, sources) and all(lookup(l2, names))):
            assert time.monotonic() < end, "the node was not found"
            time.sleep(0.05)
        assert load(l2, names, targets) == [True, True]
        assert [contents(t) for t in targets] == [contents(s) for s in sources]
        assert l2.report_status()["is_healthy"]
        l2.close()


def test_a_revision_is_demanded(node: Node) -> None:
    with pytest.raises(larder.InvalidArgument, match="revision"):
        adapter(node.endpoint, revision="")


def test_nothing_of_ours_is_between_a_submit_and_the_store(node: Node) -> None:
    client = larder.lmcache.Client(node.endpoint, revision="1")
    for name in ("get", "set", "exists", "delete"):
        submit = getattr(client, f"submit_batch_{name}")
        assert submit.func.__self__.__class__ is larder.Store
    client.close()
