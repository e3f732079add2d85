"""Jobs: submitted at once, their completions taken later, by whichever of the ways."""

import select
import threading
import time

import numpy as np
import pytest
from node_process import Node

import larder
from larder import Status


def is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def await_readable(descriptor: int) -> None:
    assert select.select([descriptor], [], [], 10)[0], "no completion in 10 s"


def test_lmcache_finds_what_it_calls(store: larder.Store) -> None:
    descriptor = store.event_fd()
    keys = [f"model@{0x01000100:08x}@0@{at:064x}" for at in range(4)]
    bodies = [memoryview(bytearray([at]) * 1000) for at in range(3)]
    put = store.submit_batch_set(keys[:3], bodies)
    await_readable(descriptor)
    assert store.drain_completions() == [(put, True, "", [True] * 3)]
    found = store.submit_batch_exists(keys)
    await_readable(descriptor)
    assert store.drain_completions() == [(found, True, "", [True] * 3 + [False])]
    into = [memoryview(bytearray(1000)) for _ in range(4)]
    got = store.submit_batch_get(keys, into)
    await_readable(descriptor)
    assert store.drain_completions() == [(got, False, "", [True] * 3 + [False])]
    assert into[:3] == bodies
    again = store.submit_batch_set(keys[:3], bodies, if_absent=True)
    await_readable(descriptor)
    assert store.drain_completions() == [(again, True, "", [True] * 3)]
    gone = store.submit_batch_delete(keys[:3])
    await_readable(descriptor)
    assert store.drain_completions() == [(gone, True, "", [True] * 3)]
    assert store.drain_completions() == [] and not is_readable(descriptor)
    store.close()


def test_the_descriptor_is_readable_while_completions_wait(store: larder.Store) -> None:
    descriptor = store.event_fd()
    assert not is_readable(descriptor)
    jobs = [store.submit_batch_exists(["a"]) for _ in range(3)]
    assert store.drain_all(10)
    assert is_readable(descriptor)
    first = store.wait(jobs[0], 10)
    assert first is not None and first.job == jobs[0] and is_readable(descriptor)
    assert [completion.job for completion in store.drain()] == jobs[1:]
    assert not is_readable(descriptor) and store.poll(jobs[0]) is None
    last = store.submit_batch_exists(["a"])
    await_readable(descriptor)
    assert store.poll(last) is not None and not is_readable(descriptor)


def test_completions_tell_each_key(store: larder.Store) -> None:
    put = store.wait(store.submit_batch_set(["a", "b"], [b"x" * 10, b"y" * 20], metas=[b"", b"m"]))
    assert put is not None and (put.op, put.ok, put.error, put.bytes) == ("set", True, "", 30)
    assert put.statuses == [Status.OK] * 2 and put.sizes == [10, 20]
    into = [bytearray(10), bytearray(10), bytearray(1)]
    got = store.wait(store.submit_batch_get(["a", "b", "c"], into))
    assert got is not None and (got.op, got.ok, got.bytes) == ("get", False, 10)
    assert got.statuses == [Status.OK, Status.MISS_SIZE, Status.MISS] and got.sizes == [10, 0, 0]
    there = store.wait(store.submit_batch_exists(["b", "c"]))
    assert there is not None and (there.op, there.sizes) == ("exists", [20, 0])
    gone = store.wait(store.submit_batch_delete(["a", "c"]))
    assert gone is not None and (gone.op, gone.sizes, gone.bytes) == ("delete", [], 0)
    assert gone.statuses == [Status.OK, Status.MISS]
    kept = store.wait(store.submit_batch_set(["b"], [b"z"], if_absent=True))
    assert kept is not None and kept.statuses == [Status.EXISTS] and kept.bytes == 0
    assert store.wait(12345) is None and store.poll(put.job) is None and not store.cancel(put.job)


def test_rows_of_many_pieces_come_back(client: larder.Client, store: larder.Store) -> None:
    """What the tier of an inference runtime does: 128 rows, 160 pieces each, one region."""
    piece, pieces, rows = 256, 160, 128
    region = np.zeros((rows, pieces * 2, piece), dtype=np.uint8)
    region[:, ::2] = np.random.default_rng(3).integers(0, 255, (rows, pieces, piece))
    keys = [b"row-%d" % row for row in range(rows)]
    memory = client.register(region)
    ptrs = [
        [memory.address + (row * pieces * 2 + at * 2) * piece for at in range(pieces)]
        for row in range(rows)
    ]
    sizes = [[piece] * pieces for _ in range(rows)]
    stored = store.wait(store.submit_put_ptrs(keys, ptrs, sizes))
    assert stored is not None and stored.ok and stored.bytes == rows * pieces * piece
    expected = region.copy()
    region[:, ::2] = 0
    # Into other rows than they came from.
    read = store.wait(store.submit_get_ptrs(keys[::-1], ptrs, sizes))
    assert read is not None and read.ok and read.sizes == [pieces * piece] * rows
    assert np.array_equal(region, expected[::-1])
    region[:, ::2] = 0
    assert store.batch_get_into(keys, ptrs, sizes) == [pieces * piece] * rows
    assert np.array_equal(region, expected)
    assert store.batch_put_from(keys, ptrs, sizes, if_absent=True) == [Status.EXISTS] * rows
    views = [[region[row, at * 2] for at in range(pieces)] for row in range(rows)]
    region[:, ::2] = 0
    assert store.get_into(keys, views) == [pieces * piece] * rows
    assert np.array_equal(region, expected)
    assert memory.unregister(1)


def test_buffers_are_kept_until_the_completion_is_taken(store: larder.Store) -> None:
    into = bytearray(10)
    store.put(["a"], [b"0123456789"])
    job = store.submit_batch_get(["a"], [into])
    with pytest.raises(BufferError):
        into.extend(b"more")
    assert store.wait(job) is not None and into == b"0123456789"
    into.extend(b"more")


def test_cancelled_jobs_complete_and_give_their_memory_back(own_node: Node) -> None:
    with larder.connect(own_node.endpoint, path="tcp", deadline=30.0) as client:
        store = client.namespace(model="cancelled")
        store.put(["a"], [b"x" * 100])
        own_node.pause()
        try:
            into = bytearray(100)
            job = store.submit_batch_get(["a", "b"], [into, bytearray(1)])
            time.sleep(0.05)
            assert store.poll(job) is None and store.wait(job, 0.01) is None
            assert not store.drain_all(0.01) and store.cancel(job)
            done = store.wait(job, 10)
            assert done is not None and done.statuses == [Status.CANCELLED] * 2
            into.append(0)
            # Another one, ended by closing.
            job = store.submit_batch_get(["a"], [into])
            store.close()
            done = store.wait(job, 0)
            assert done is not None and done.statuses == [Status.CANCELLED]
        finally:
            own_node.resume()
        with pytest.raises(larder.Closed):
            store.submit_batch_exists(["a"])
        with pytest.raises(larder.Closed):
            store.get(["a"])
        store.close()
        assert store.closed and store.drain() == []


def test_many_threads_submit_and_one_takes(store: larder.Store) -> None:
    """Two controller threads and one that polls, as LMCache has them."""
    descriptor, per_thread = store.event_fd(), 200
    submitted: list[list[int]] = [[], []]

    def submit(which: int) -> None:
        for at in range(per_thread):
            key, body = f"{which}-{at}", bytes([which, at % 256]) * 50
            submitted[which].append(store.submit_batch_set([key], [body]))

    threads = [threading.Thread(target=submit, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    while len(taken) < 2 * per_thread:
        await_readable(descriptor)
        for job, ok, error, bools in store.drain_completions():
            assert (ok, error, bools) == (True, "", [True])
            taken.append(job)
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(submitted[0] + submitted[1])
    assert store.get_one("1-7") == bytes([1, 7]) * 50


def test_no_more_jobs_are_taken_than_can_be_kept(own_node: Node) -> None:
    with larder.connect(own_node.endpoint, path="tcp", deadline=60.0) as client:
        store = client.namespace(model="busy")
        own_node.pause()
        try:
            with pytest.raises(larder.Busy):
                for _ in range(5000):
                    store.submit_batch_exists(["a"])
        finally:
            own_node.resume()
        assert store.drain_all(30) and len(store.drain()) == 4096


def test_a_store_that_is_forgotten_ends_its_jobs(own_node: Node) -> None:
    with larder.connect(own_node.endpoint, path="tcp", deadline=30.0) as client:
        store = client.namespace(model="forgotten")
        into = bytearray(100)
        own_node.pause()
        try:
            store.submit_batch_get(["a"], [into])
            del store
            into.append(1)
        finally:
            own_node.resume()
