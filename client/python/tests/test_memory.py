"""Registered memory: named by address, and given back when nothing uses it."""

import ctypes
import gc
import mmap
import threading
import time
import weakref
from array import array
from typing import Any

import numpy as np
import pytest
from node_process import Node

import larder
from larder import InvalidArgument, Status


def test_registering_again_is_the_same(client: larder.Client) -> None:
    region = np.zeros(4096, dtype=np.uint8)
    first, second = client.register(region), client.register(region)
    by_address = client.register(region.ctypes.data, 4096)
    assert first.address == second.address == by_address.address == region.ctypes.data
    assert first.length == len(second) == 4096
    assert first.unregister() and second.unregister() and by_address.unregister(0)


def test_what_is_not_registered_is_named(client: larder.Client, store: larder.Store) -> None:
    region = np.zeros(4096, dtype=np.uint8)
    at = region.ctypes.data
    calls: list[Any] = [store.batch_get_into, store.batch_put_from]
    calls += [store.submit_get_ptrs, store.submit_put_ptrs]

    def refused(ptrs: Any, sizes: Any, why: str) -> None:
        for call in calls:
            with pytest.raises(InvalidArgument, match=why):
                call(["a", "b"], ptrs, sizes)

    refused([at, at], [1, 1], r"ptrs\[0\]\[0\]: .*not registered")
    with client.register(region, 4000) as memory:
        refused([at, [at + 1, at + 3999]], [1, [2, 2]], r"ptrs\[1\]\[1\]: .*not registered")
        refused([at, at - 1], [1, 1], r"ptrs\[1\]\[0\]: .*not registered")
        refused([at, at], [1, "1"], r"sizes\[1\]: neither an integer")
        refused([at, at], [1, 1.0], r"sizes\[1\]: neither an integer")
        refused([[at, at + 1], at + 2], [[1], 1], r"ptrs\[0\]: 2 for 1 sizes")
        refused([at], [1], r"ptrs: 1 for 2 keys")
        refused([at, -1], [1, 1], r"ptrs\[1\]")
        with pytest.raises(InvalidArgument, match="overlap"):
            store.batch_get_into(["a", "b"], [at, at + 99], [100, 100])
        assert store.batch_put_from(["a", "b"], [at, at + 99], [100, 100]) == [Status.OK] * 2
        assert store.batch_get_into(["a", "b"], [at, at + 100], [100, 100]) == [100, 100]
        assert "4000 bytes" in repr(memory)
    refused([at, at], [1, 1], "not registered")


def test_addresses_come_in_arrays_too(client: larder.Client, store: larder.Store) -> None:
    region = np.arange(64, dtype=np.uint8)
    memory = client.register(region)
    ptrs = [memory.address + at for at in (0, 16, 40)]
    sizes = [16, 8, 24]
    words: list[Any] = [np.uint64, np.int64, ">u8"]
    arrays: list[Any] = [np.array(ptrs, dtype=word) for word in words]
    arrays += [array("Q", ptrs), memoryview(array("L", ptrs)), np.repeat(arrays[0], 2)[::2]]
    lengths: list[Any] = [np.array(sizes), np.array(sizes, dtype=np.int32), array("I", sizes), sizes]
    whole = bytes(region)
    for form in arrays:
        for length in lengths:
            assert store.batch_put_from(["a", "b", "c"], form, length) == [Status.OK] * 3
            region[:] = 0
            assert store.batch_get_into(["a", "b", "c"], form, length) == sizes
            assert bytes(region) == whole[:24] + bytes(16) + whole[40:]
            region[:] = np.frombuffer(whole, dtype=np.uint8)
    job = store.submit_get_ptrs(["a", "b", "c"], arrays[0], lengths[0])
    done = store.wait(job, 10)
    assert done is not None and done.ok and done.sizes == sizes
    assert store.batch_get_into([], arrays[0][:0], lengths[0][:0]) == []


def test_rows_of_addresses_are_pieces(client: larder.Client, store: larder.Store) -> None:
    region = np.arange(64, dtype=np.uint8)
    at = client.register(region).address
    ptrs = np.array([[at, at + 32], [at + 8, at + 40]], dtype=np.uint64)
    listed: list[Any] = ptrs.tolist()
    sizes: list[Any] = [8, np.full((2, 2), 8), [[8, 8], [8, 8]]]
    for form in (ptrs, listed):
        for size in sizes:
            assert store.batch_put_from(["a", "b"], form, size) == [Status.OK] * 2
            assert store.get_one("a") == bytes([*range(8), *range(32, 40)])
            assert store.get_one("b") == bytes([*range(8, 16), *range(40, 48)])


def test_arrays_that_are_no_addresses_are_refused(
    client: larder.Client, store: larder.Store
) -> None:
    region = np.zeros(64, dtype=np.uint8)
    at = client.register(region).address
    good = np.array([at, at + 32], dtype=np.uint64)
    cases: list[tuple[Any, Any, str]] = [
        (good, good.astype(np.float64), r"sizes\[0\]: neither an integer"),
        (good.astype(np.float64), 1, r"ptrs\[0\]: neither an integer"),
        (good.astype(object), [33, 1], "overlap"),
        (good, np.array([33, 1]), "overlap"),
        (good, np.array([1, 33]), r"ptrs\[1\]\[0\]: .*not registered"),
        (good, np.array([1, -1]), r"ptrs\[1\]\[0\]: .*not registered"),
        (good, np.array([1, 2**64 - 1], dtype=np.uint64), r"ptrs\[1\]\[0\]: .*not registered"),
        (good[:1], [1], "ptrs: 1 for 2 keys"),
        (good, np.array([1, 1, 1]), "sizes: 3 for 2 keys"),
        (good.reshape(2, 1), np.ones((2, 2), dtype=np.int64), r"ptrs\[0\]: 1 for 2 sizes"),
        (good.reshape(1, 2), 1, "ptrs: 1 for 2 keys"),
        (np.zeros((2, 513), dtype=np.uint64), 0, r"ptrs\[0\]: 513 pieces"),
        (np.zeros((2, 1, 1), dtype=np.uint64), 1, r"ptrs\[0\]: neither an integer"),
        (good, -1, "sizes: no length"),
        (good, 2**64, "sizes: no length"),
    ]
    for ptrs, sizes, why in cases:
        with pytest.raises(InvalidArgument, match=why):
            store.batch_get_into(["a", "b"], ptrs, sizes)


def test_an_object_may_lie_in_several_memories(client: larder.Client, store: larder.Store) -> None:
    """A layer each, as where a runtime allocates them one by one."""
    layers = [np.full(512, at, dtype=np.uint8) for at in range(8)]
    memories = [client.register(layer) for layer in layers]
    ptrs, sizes = [[memory.address for memory in memories]], [[512] * 8]
    assert store.batch_put_from(["a"], ptrs, sizes) == [Status.OK]
    assert store.get_one("a") == b"".join(bytes([at]) * 512 for at in range(8))
    for layer in layers:
        layer[:] = 99
    assert store.batch_get_into(["a"], ptrs, sizes) == [4096]
    assert [layer[0] for layer in layers] == list(range(8))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((b"read-only",), "read-only"),
        ((4096,), "length: an address needs one"),
        ((0, 10), "no memory"),
        ((4096, 0), "no memory"),
        ((2**64 - 8, 16), "no memory"),
        ((-1, 16), "no address"),
        ((bytearray(4), 5), "length: 5 of 4"),
        ((np.int64(4096), 16), "read-only"),
        (("text",), "neither a buffer"),
        ((2**63 + 4096, 16), "nothing is mapped at 0x8000000000001000"),
        ((0xDEADBEEFDEADBEEF, 16), "nothing is mapped at 0xdeadbeefdeadbeef"),
        ((4096, 2**63), "more than can be addressed"),
        ((2**64, 16), "no address"),
    ],
)
def test_what_is_no_memory_is_refused(client: larder.Client, arguments: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        client.register(*arguments)


def test_an_address_where_something_else_is_is_refused(client: larder.Client) -> None:
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    region = mmap.mmap(-1, 4 * page)
    at = np.frombuffer(region, dtype=np.uint8).ctypes.data

    def refused(address: int, length: int, why: str) -> None:
        with pytest.raises(InvalidArgument, match=f"^{length} bytes at {address:#x} are .*{why}$"):
            client.register(address, length)

    def protect(index: int, rights: int) -> None:
        assert libc.mprotect(ctypes.c_void_p(at + index * page), page, rights) == 0

    assert client.register(at, 4 * page).unregister()
    protect(1, mmap.PROT_READ)
    protect(3, 0)
    refused(at, 4 * page, f"what is at {at + page:#x} is read-only")
    refused(at + 2 * page + 5, 2 * page - 5, f"what is at {at + 3 * page:#x} may not be read")
    assert client.register(at + 2 * page, page).unregister()
    for index in (1, 3):
        protect(index, mmap.PROT_READ | mmap.PROT_WRITE)
    assert client.register(at + 1, 4 * page - 1).unregister()
    refused(at, 2**46, "0x[0-9a-f]+.*")


class Owner:
    """Whose memory it is."""


def kept_until_unregistered(
    memory: larder.Memory, region: bytearray, owner: "weakref.ref[Owner]"
) -> None:
    gc.collect()
    assert owner() is not None
    with pytest.raises(BufferError):
        region.append(1)
    assert memory.unregister()
    region.append(1)
    assert owner() is None


def test_memory_is_kept_until_it_is_unregistered(tcp_client: larder.Client) -> None:
    owner, region = Owner(), bytearray(100)
    gone = weakref.ref(owner)
    memory = tcp_client.register(region, keep=owner)
    del owner
    kept_until_unregistered(memory, region, gone)
    # A client that is closed lets go of everything.
    tcp_client.register(region)
    tcp_client.close()
    region.append(1)


def test_unregistering_waits_for_what_is_in_flight(own_node: Node) -> None:
    with larder.connect(own_node.endpoint, path="tcp", deadline=30.0) as client:
        store = client.namespace(model="flight")
        region = bytearray(100)
        memory = client.register(region)
        own_node.pause()
        try:
            job = store.submit_get_ptrs(["a"], [memory.address], [100])
            assert not memory.unregister(0.05)
            with pytest.raises(BufferError):
                region.append(1)
            threading.Timer(0.1, lambda: store.cancel(job)).start()
            began = time.monotonic()
            assert memory.unregister(10) and time.monotonic() - began < 5
            region.append(1)
        finally:
            own_node.resume()


def test_shared_memory_is_written_and_put(client: larder.Client, store: larder.Store) -> None:
    memory = client.shared_memory(1 << 20)
    view = memoryview(memory.view())
    assert len(view) == memory.length == 1 << 20 and not view.readonly and view[0] == 0
    view[:] = body = np.random.default_rng(4).bytes(1 << 20)
    assert store.batch_put_from(["a"], [memory.address], [1 << 20]) == [Status.OK]
    assert store.put(["b"], [view[: 1 << 19]]) == [Status.OK]
    view[:] = bytes(1 << 20)
    assert store.batch_get_into(["a"], [memory.address], [1 << 20]) == [1 << 20]
    assert view == body and store.get_one("b") == body[: 1 << 19]
    address = memory.address
    assert memory.unregister()
    del memory
    gc.collect()
    assert view[:10] == body[:10], "a view keeps the memory"
    with pytest.raises(InvalidArgument):
        store.batch_get_into(["a"], [address], [1 << 20])
    with pytest.raises(InvalidArgument):
        client.shared_memory(0)
    with pytest.raises(InvalidArgument):
        client.register(bytearray(1)).view()


def test_memory_in_two_registrations_is_free_only_for_both(own_node: Any) -> None:
    """A job that has a part of it has it, by whichever registration it was found."""
    with larder.connect(own_node.endpoint, path="tcp", deadline=30.0) as client:
        store = client.namespace(model="overlap")
        region, other = bytearray(1000), bytearray(1000)
        at = np.frombuffer(region, dtype=np.uint8).ctypes.data
        whole, aside = client.register(region), client.register(other)
        part = client.register(at + 500, 100)
        own_node.pause()
        try:
            job = store.submit_get_ptrs(["a"], [at + 550], [10])
            assert aside.unregister(0), "nothing is under way there"
            assert not part.unregister(0.05) and not whole.unregister(0.05)
            with pytest.raises(BufferError):
                region.append(1)
            store.cancel(job)
            assert store.drain_all(10) and whole.unregister(0) and part.unregister(0)
            region.append(1)
        finally:
            own_node.resume()


def test_what_is_registered_again_is_kept_by_both(tcp_client: larder.Client) -> None:
    """The first was an address alone: the memory may not be that any more."""
    owner, region = Owner(), bytearray(100)
    gone = weakref.ref(owner)
    at = np.frombuffer(region, dtype=np.uint8).ctypes.data
    memory = tcp_client.register(at, 100)
    assert tcp_client.register(region, keep=owner).address == at
    for _ in range(1000):
        tcp_client.register(region, keep=owner)
    del owner
    kept_until_unregistered(memory, region, gone)


def test_a_package_without_network_cards_says_so(own_node: Node) -> None:
    memory = bytearray(1 << 16)
    with larder.connect(own_node.endpoint, path="tcp") as client:
        assert not client.register(memory).exposed
        assert not client.shared_memory(1 << 16).exposed
    wanted = [{"path": "rdma"}, {"rdma_device": "rxe0"}, {"path": "rdma", "rdma_device": "rxe0"}]
    for how in wanted:
        with pytest.raises((larder.InvalidArgument, larder.OsError)):
            larder.connect(own_node.endpoint, **how)  # type: ignore[arg-type]
