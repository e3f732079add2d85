"""How clients and stores end: what is under way is answered, and nothing hangs, breaks or leaks."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import larder
from larder import Status

WAYS = ["tcp", "shm"]
BODY = bytes(range(256)) * 400


def connect(node: Any, path: Any) -> larder.Client:
    seed = node.seed(path)
    return larder.connect(seed, path=path, deadline=60.0)


def in_threads(calls: list[Callable[[], Any]]) -> tuple[list[threading.Thread], dict[int, Any]]:
    """Starts each call on a thread of its own; what they answer or raise, by their place."""
    answers: dict[int, Any] = {}

    def run(at: int) -> None:
        try:
            answers[at] = calls[at]()
        except larder.Error as error:
            answers[at] = type(error)

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    return threads, answers


def join(threads: list[threading.Thread]) -> None:
    until = time.monotonic() + 20
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive(), "a call hangs"


@pytest.mark.parametrize("path", WAYS)
def test_closing_a_client_answers_calls_that_wait(own_node: Any, path: str) -> None:
    client = connect(own_node, path)
    store, region = client.namespace(model="closing"), bytearray(100)
    memory, into = client.register(region), bytearray(100)
    own_node.pause()
    try:
        job = store.submit_get_ptrs(["a"], [memory.address], [50])
        calls: list[Callable[[], Any]] = [
            lambda: store.get(["a"]),
            lambda: store.get_one("a"),
            lambda: store.get_into(["a"], [into]),
            lambda: store.batch_get_into(["a"], [memory.address + 50], [50]),
            lambda: store.put(["a"], [BODY]),
            lambda: store.match(["a"]).statuses,
            lambda: store.lease(["a"]),
            lambda: store.remove(["a"]),
            lambda: store.wait(job),
            lambda: client.namespace(model="closing too"),
            lambda: client.stats()[0]["error"],
            store.bump,
        ]
        threads, answers = in_threads(calls)
        time.sleep(0.3)
        assert not answers, "nobody is there to answer"
        client.close()
        join(threads)
    finally:
        own_node.resume()
    closed = [Status.CLOSED]
    assert [answers[at] for at in range(8)] == [[None], None, *[closed] * 6]
    assert answers[8].statuses == [Status.CANCELLED]
    assert answers[9] is answers[11] is larder.Closed and "closed" in answers[10]
    # All memory came home.
    region.append(1)
    into.append(1)
    assert store.closed and client.closed


@pytest.mark.parametrize("path", WAYS)
def test_everything_says_that_it_is_closed(node: Any, path: str) -> None:
    client = connect(node, path)
    store = client.namespace(model="closed")
    memory = client.register(bytearray(10))
    assert store.put(["a"], [BODY]) == [Status.OK]
    (lease,) = store.lease(["a"])
    job = store.submit_batch_exists(["a"])
    client.close()
    calls: list[Callable[[], Any]] = [
        lambda: store.get(["a"]),
        lambda: store.get_one("a"),
        lambda: store.get_into(["a"], [bytearray(1)]),
        lambda: store.batch_get_into(["a"], [memory.address], [1]),
        lambda: store.put(["a"], [b"x"]),
        lambda: store.batch_put_from(["a"], [memory.address], [1]),
        lambda: store.match(["a"]),
        lambda: store.touch(["a"]),
        lambda: store.lease(["a"]),
        lambda: store.remove(["a"]),
        lambda: store.submit_batch_get(["a"], [bytearray(1)]),
        lambda: store.submit_batch_set(["a"], [b"x"]),
        lambda: store.submit_batch_exists(["a"]),
        lambda: store.submit_batch_delete(["a"]),
        lambda: store.submit_get_ptrs(["a"], [memory.address], [1]),
        lambda: store.submit_put_ptrs(["a"], [memory.address], [1]),
        store.event_fd,
        store.bump,
        client.stats,
        lambda: client.namespace(model="m"),
        lambda: client.register(bytearray(1)),
        lambda: client.shared_memory(4096),
    ]
    for call in calls:
        with pytest.raises(larder.Closed):
            call()
    # What was there stays, and what is over is over.
    done = store.wait(job, 10)
    assert done is not None and done.statuses[0] in (Status.OK, Status.CANCELLED)
    assert store.drain() == [] and store.drain_all(0) and store.poll(job) is None
    assert not store.cancel(job) and memory.unregister(0)
    assert isinstance(lease, larder.Lease) and lease.verify() and lease.view() == BODY
    lease.close()
    for _ in range(2):
        store.close()
        client.close()


@pytest.mark.parametrize("path", WAYS)
def test_closing_a_store_leaves_the_others(node: Any, path: str) -> None:
    with connect(node, path) as client:
        one, other = client.namespace(model="one"), client.namespace(model="other")
        other.put(["a"], [BODY])
        jobs = [one.submit_batch_set(["a"], [BODY]) for _ in range(50)]
        one.close()
        assert one.closed and not other.closed and not client.closed
        assert {done.job for done in one.drain()} == set(jobs)
        assert other.get_one("a") == BODY
        done = other.wait(other.submit_batch_exists(["a"]), 10)
        assert done is not None and done.ok


@pytest.mark.parametrize("path", WAYS)
def test_many_may_close_at_once_and_all_wait_for_the_jobs(node: Any, path: str) -> None:
    for turn in range(10):
        client = connect(node, path)
        stores = [client.namespace(model="many", threads=1 + turn % 2) for _ in range(2)]
        regions = [bytearray(len(BODY)) for _ in range(40)]
        stores[0].put(["a"], [BODY])
        jobs = [stores[at % 2].submit_batch_get(["a"], [it]) for at, it in enumerate(regions)]

        def close(at: int, client: larder.Client = client, stores: Any = stores) -> bool:
            (client if at % 2 else stores[0]).close()
            return at % 2 == 0 or all(store.drain_all(0) for store in stores)

        threads, answers = in_threads([partial(close, at) for at in range(6)])
        join(threads)
        assert answers == dict.fromkeys(range(6), True)
        done = [done for store in stores for done in store.drain()]
        assert len(done) == len(jobs)
        for it in regions:
            it.append(1)


def test_jobs_are_not_begun_while_a_store_is_closed(node: Any) -> None:
    """Whoever is about to submit the first job either does it in time or is refused."""
    with connect(node, "tcp") as client:
        for _ in range(200):
            store = client.namespace(model="first job")
            threads, answers = in_threads([lambda: store.submit_batch_exists(["a"]), store.close])
            join(threads)
            assert answers[1] is None
            assert answers[0] is larder.Closed or [it.job for it in store.drain()] == [answers[0]]
