"""What a process may rely on: nothing starts at import, forks are noticed, others go on."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from node_process import Node

import larder
from larder import Status

CHECK_IMPORT = """
import os, sys
before = set(os.listdir("/proc/self/fd"))
import larder
assert len(os.listdir("/proc/self/task")) == 1, "a thread"
assert set(os.listdir("/proc/self/fd")) == before, "a descriptor"
assert not {"numpy", "torch", "ctypes", "hashlib", "pickle"} & set(sys.modules), "a module"
"""


def test_importing_starts_nothing() -> None:
    subprocess.run([sys.executable, "-c", CHECK_IMPORT], check=True, timeout=60)


def test_a_forked_child_is_refused_and_does_not_hang(
    client: larder.Client, store: larder.Store, in_child: Callable[[Callable[[], bool]], bool]
) -> None:
    store.put(["a"], [b"x" * 100_000])
    store.event_fd()
    memory = client.register(bytearray(100))
    (lease,) = store.lease(["a"])
    assert isinstance(lease, larder.Lease)
    job = store.submit_batch_exists(["a"])
    calls: list[Callable[[], Any]] = [
        lambda: store.get(["a"]),
        lambda: store.get_one("a"),
        lambda: store.get_into(["a"], [bytearray(1)]),
        lambda: store.put(["a"], [b"x"]),
        lambda: store.match(["a"]),
        lambda: store.batch_exists_prefix(["a"]),
        lambda: store.remove(["a"]),
        lambda: store.touch(["a"]),
        lambda: store.lease(["a"]),
        lambda: store.submit_batch_get(["a"], [bytearray(1)]),
        lambda: store.submit_batch_set(["a"], [b"x"]),
        lambda: store.submit_batch_exists(["a"]),
        lambda: store.submit_batch_delete(["a"]),
        lambda: store.batch_get_into(["a"], [memory.address], [1]),
        lambda: store.batch_put_from(["a"], [memory.address], [1]),
        lambda: store.submit_get_ptrs(["a"], [memory.address], [1]),
        lambda: store.submit_put_ptrs(["a"], [memory.address], [1]),
        store.drain_completions,
        store.drain,
        store.drain_all,
        lambda: store.wait(job),
        lambda: store.poll(job),
        lambda: store.cancel(job),
        store.event_fd,
        store.bump,
        store.close,
        lambda: store.closed,
        lambda: client.namespace(model="m"),
        client.stats,
        lambda: client.register(bytearray(1)),
        lambda: client.shared_memory(4096),
        memory.unregister,
        lease.view,
        lease.close,
        lambda: client.closed,
        client.close,
    ]

    def all_are_refused() -> bool:
        for call in calls:
            try:
                call()
                return False
            except larder.Forked as refusal:
                assert "connect again" in str(refusal)
        return True

    assert in_child(all_are_refused)
    # The parent has noticed nothing.
    assert store.get_one("a") == b"x" * 100_000 and lease.verify()
    assert store.wait(job, 10) is not None


def test_a_forked_child_may_drop_everything_and_connect_again(
    node: Node, in_child: Callable[[Callable[[], bool]], bool]
) -> None:
    held: list[Any] = []
    client = larder.connect(node.seed("shm"), path="shm", deadline=5.0)
    store = client.namespace(model="fork")
    store.put(["a"], [b"x" * 100_000])
    held += [client, store, client.register(bytearray(10)), client.shared_memory(4096)]
    held += store.lease(["a"])
    store.submit_batch_get(["a"], [bytearray(100_000)])
    del client, store

    def drops_and_connects() -> bool:
        held.clear()
        with larder.connect(node.endpoint, path="tcp", deadline=5.0) as own:
            return own.namespace(model="fork").get_one("a") == b"x" * 100_000

    assert in_child(drops_and_connects)
    assert in_child(drops_and_connects)
    assert held[1].get_one("a") == b"x" * 100_000
    held.clear()


@pytest.mark.parametrize(
    "wait",
    [
        lambda store, job, memory: store.get(["a"], timeout=0.3),
        lambda store, job, memory: store.match(["a"], timeout=0.3),
        lambda store, job, memory: store.put(["a"], [b"x"], timeout=0.3),
        lambda store, job, memory: store.get_into(["a"], [bytearray(1)], timeout=0.3),
        lambda store, job, memory: store.remove(["a"], timeout=0.3),
        lambda store, job, memory: store.wait(job, 0.3),
        lambda store, job, memory: store.drain_all(0.3),
        lambda store, job, memory: memory.unregister(0.3),
        lambda store, job, memory: store.close(),
    ],
)
def test_other_threads_go_on_while_one_waits(own_node: Node, wait: Callable[..., Any]) -> None:
    with larder.connect(own_node.endpoint, path="tcp", deadline=30.0) as client:
        store = client.namespace(model="waits")
        memory = client.register(bytearray(10))
        own_node.pause()
        try:
            job = store.submit_get_ptrs(["a"], [memory.address], [10])
            began, ticks = time.monotonic(), 0
            thread = threading.Thread(target=wait, args=(store, job, memory))
            thread.start()
            while thread.is_alive():
                time.sleep(0.001)
                ticks += 1
            assert ticks > 10 or time.monotonic() - began < 0.1, "the interpreter stood still"
        finally:
            own_node.resume()


def test_a_node_that_is_silent_or_gone_is_a_status(own_node: Node) -> None:
    with larder.connect(own_node.endpoint, path="tcp", deadline=0.1) as client:
        store = client.namespace(model="gone")
        store.put(["a"], [b"1"])
        own_node.pause()
        try:
            began = time.monotonic()
            assert store.get(["a"]) == [None]
            assert store.put(["a"], [b"2"])[0] in (Status.DEADLINE, Status.UNAVAILABLE)
            found = store.match(["a"])
            assert found.leading == 0
            assert found.statuses[0] in (Status.DEADLINE, Status.UNAVAILABLE)
            assert time.monotonic() - began < 3
        finally:
            own_node.resume()
        own_node.kill()
        into = bytearray(1)
        with pytest.raises(larder.Unavailable):
            client.namespace(model="gone too")
        assert store.get(["a"]) == [None] and store.lease(["a"])[0] == Status.UNAVAILABLE
        assert store.get_into(["a"], [into])[0] in (Status.UNAVAILABLE, Status.DEADLINE)
        assert store.put(["a"], [b"3"])[0] in (Status.UNAVAILABLE, Status.DEADLINE)
        assert store.remove(["a"])[0] in (Status.UNAVAILABLE, Status.DEADLINE)
        assert store.batch_exists_prefix(["a"]) == 0
        done = store.wait(store.submit_batch_get(["a"], [into]), 10)
        assert done is not None and done.statuses[0] in (Status.UNAVAILABLE, Status.DEADLINE)
        into.append(0)
        (shard,) = client.stats()
        assert shard["error"] and shard["counters"] == {}


CHECK_EXIT = """
import sys, threading, larder
client = larder.connect(sys.argv[1], path=sys.argv[2], deadline=30.0)
store = client.namespace(model="exit")
store.put(["a"], [b"x" * 100_000])
memory, shared = client.register(bytearray(1000)), client.shared_memory(4096)
leases, view = store.lease(["a"]), shared.view()
print("ready", flush=True)
sys.stdin.readline()
jobs = [store.submit_batch_get(["a"], [bytearray(100_000)]) for _ in range(10)]
jobs.append(store.submit_get_ptrs(["a"], [memory.address], [1000]))
threading.Thread(target=store.get, args=(["a"],), daemon=True).start()
"""


@pytest.mark.parametrize("path", ["tcp", "shm"])
def test_a_program_that_closes_nothing_ends(own_node: Node, path: str) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", CHECK_EXIT, own_node.seed(path), path]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as program:
        assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        own_node.pause()
        try:
            _, said = program.communicate(b"\n", timeout=20)
        finally:
            own_node.resume()
    assert (program.returncode, said) == (0, b"")


CHECK_FORK_EXIT = """
import gc, os, sys, time, larder
client = larder.connect(sys.argv[1], path=sys.argv[2], deadline=5.0)
store = client.namespace(model="fork exit")
store.put(["a"], [b"x" * 100_000])
memory, shared = client.register(bytearray(100_000)), client.shared_memory(4096)
leases, view = store.lease(["a"]), shared.view()
children = []
for turn in range(20):
    jobs = [store.submit_batch_get(["a"], [bytearray(100_000)]) for _ in range(3)]
    jobs.append(store.submit_get_ptrs(["a"], [memory.address], [100_000]))
    child = os.fork()
    if child == 0:
        # Some drop everything, some leave that to the interpreter.
        if turn % 2:
            del client, store, memory, shared, leases, view
            gc.collect()
        sys.exit(7)
    children.append(child)
    assert store.drain_all(10) and all(done.ok for done in store.drain())
for child in children:
    until = time.monotonic() + 10
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < until, "a child hangs"
        time.sleep(0.001)
    assert os.waitstatus_to_exitcode(done[1]) == 7
assert store.get_one("a") == b"x" * 100_000 and leases[0].verify()
"""


@pytest.mark.parametrize("path", ["tcp", "shm"])
def test_forked_children_end_as_any_process_does(node: Node, path: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", CHECK_FORK_EXIT, node.seed(path), path]
    subprocess.run(command, check=True, timeout=60)


def test_closing_while_others_call_raises_closed(node: Node) -> None:
    paths: list[Literal["tcp", "shm"]] = ["tcp", "shm"]
    for path in paths:
        client = larder.connect(node.seed(path), path=path, deadline=5.0)
        store = client.namespace(model="closing")
        body = os.urandom(200_000)
        store.put(["a"], [body])
        ends: list[Any] = []

        def call(which: int, store: larder.Store = store, body: bytes = body) -> None:
            into = bytearray(len(body))

            def get_into() -> bool:
                (answer,) = store.get_into(["a"], [into])
                return answer == Status.CLOSED or (answer == len(body) and into == body)

            calls: list[Callable[[], Any]] = [
                lambda: store.get_one("a") in (body, None),
                get_into,
                lambda: all(isinstance(it, int) or it.verify() for it in store.lease(["a"])),
                lambda: store.wait(store.submit_batch_get(["a"], [into])) is not None,
            ]
            try:
                while True:
                    assert calls[which]() is not False
            except larder.Error as end:
                ends.append(type(end))

        threads = [threading.Thread(target=call, args=(which % 4,)) for which in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        client.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert ends == [larder.Closed] * 8


def test_ctrl_c_ends_a_wait(own_node: Node) -> None:
    import signal

    with larder.connect(own_node.endpoint, path="tcp", deadline=30.0) as client:
        store = client.namespace(model="interrupt")
        own_node.pause()
        try:
            job = store.submit_batch_exists(["a"])
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                store.wait(job)
            assert time.monotonic() - began < 5
        finally:
            own_node.resume()


def test_statuses_are_those_of_the_client() -> None:
    """The numbers are an interface: one table for all languages."""
    table = Path(__file__).resolve().parents[2] / "src" / "number.rs"
    told = re.findall(r"pub const (\w+): i32 = (-?\d+);", table.read_text())
    ours = [(status.name, str(int(status))) for status in Status]
    raised = ("INVALID_ARGUMENT", "FORKED", "SYSTEM")
    assert ours == [status for status in told if status[0] not in raised]
    assert len(told) == len(ours) + len(raised)


def test_closing_a_client_ends_its_threads(node: Node) -> None:
    def threads() -> int:
        return sum(
            open(f"/proc/self/task/{task}/comm").read().startswith("larder")
            for task in os.listdir("/proc/self/task")
        )

    def await_threads(count: int) -> None:
        # A thread gives itself its name, a moment after it was started.
        until = time.monotonic() + 10
        while threads() != count:
            assert time.monotonic() < until, f"{threads()} threads, not {count}"
            time.sleep(0.001)

    began = threads()
    client = larder.connect(node.endpoint, path="tcp")
    store = client.namespace(model="threads", threads=2)
    await_threads(began + 1)
    store.event_fd()
    await_threads(began + 3)
    client.close()
    assert store.closed
    with pytest.raises(larder.Closed):
        store.get(["a"])
    del store
    await_threads(began)
