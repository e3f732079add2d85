"""Arguments of any kind, by a seed: what makes no sense is an exception, and nothing else happens.

What a reader would get wrong: this does not lie about memory. An object that says where its bytes
are is believed, as everywhere in Python, so none here says what is not so.
"""

import array
import ctypes
import gc
import mmap
import random
import time
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import pytest

import larder

ALLOWED = (larder.Error, TypeError, ValueError, OverflowError, MemoryError, BufferError)
SECONDS = 3.0
KEYS = ["a", "b", b"c", "k" * 64, "k" * 65, b"\xff" * 64, "é" * 40, b"\0"]


class Odd:
    """Answers what an object may answer, and none of it is of use."""

    nbytes = "many"
    device = None

    def __init__(self, rng: random.Random) -> None:
        self._answers = rng

    def __len__(self) -> int:
        return self._answers.choice([0, 1, 2**31, 2**62])

    def __iter__(self) -> Iterator[Any]:
        yield self._answers.choice(["a", None, 1])
        raise ValueError("no more of this")

    def __index__(self) -> int:
        return self._answers.choice([0, -1, 2**64, 10**30])

    def __float__(self) -> float:
        return self._answers.choice([0.0, float("nan"), -1.0])

    def __bool__(self) -> bool:
        raise TypeError("neither")

    def data_ptr(self) -> Any:
        raise ValueError("no address")

    @property
    def __array_interface__(self) -> Any:
        said: list[Any] = [None, {}, {"data": None}, {"shape": ()}]
        said += [{"data": (2**64, False), "shape": (1,), "typestr": "|u1"}]
        said += [{"data": (2**64 - 1, False), "shape": (2**62, 8), "typestr": "<f8"}]
        said += [{"data": (4096, False), "shape": (-1,), "typestr": "<f8"}]
        said += [{"data": (4096, False), "shape": (2,), "typestr": "é"}]
        return self._answers.choice(said)


def oddities(rng: random.Random) -> Any:
    """Anything."""
    released = memoryview(bytearray(4))
    released.release()
    grid = np.zeros((8, 8), dtype=np.int32)
    read_only = np.zeros(8)
    read_only.flags.writeable = False
    return rng.choice(
        [
            *[None, True, 0, -1, 1, 255, 256, 2**16, 2**31, 2**63, 2**64, -(2**63), 10**30],
            *[0.0, -0.0, 0.5, -1.5, 1e308, float("inf"), float("-inf"), float("nan"), 1j],
            *["", "a", "\ud800", "k" * 5000, b"", b"a", b"x" * 5000, bytearray(9), [], (), {}],
            *[["a"], ["a", "a"], [None], [[]], [[[]]], [b""], [1], ["a"] * 1000, [-1], [2**64]],
            *[[bytearray(3)], [[bytearray(3)] * 2], [[b"x"] * 513], [released], {"a": 1}, {"a"}],
            *[object(), Odd(rng), [Odd(rng)], int, len, released, memoryview(b"abc"), iter("ab")],
            *[grid, grid[:, ::2], grid.T, [grid.T], [grid[::-1]], [read_only], np.float64(1)],
            *[np.zeros(0), [np.zeros(0)], np.int64(-1), np.array(["a"]), np.array([None])],
            *[array.array("d", [1.0]), mmap.mmap(-1, 100), (ctypes.c_int * 4)()],
            *[(n for n in ["a", "b"]), range(3), range(10**6), larder, larder.Status.OK, set()],
            *[ctypes.c_void_p(1), "ab" * 300, slice(1), NotImplemented, Exception("mine"), ...],
        ]
    )


class Caller:
    """Makes calls of a client and its store, sensible and not, and says what they may raise."""

    def __init__(self, rng: random.Random, client: Any) -> None:
        self.rng, self.client = rng, client
        self.store: Any = client.namespace(model="any")
        self.region = bytearray(1 << 16)
        self.memory: Any = client.register(self.region)
        self.jobs, self.held = [0], list[Any]()

    def some(self, sensible: Callable[[], Any]) -> Any:
        return oddities(self.rng) if self.rng.random() < 0.25 else sensible()

    def timeout(self) -> Any:
        return self.rng.choice([0, 0.01, 1, None, 1.5, float("inf")])

    def keys(self, count: int) -> list[Any]:
        return [self.rng.choice(KEYS) for _ in range(count)]

    def buffer(self) -> Any:
        length = self.rng.choice([0, 1, 9, 100, 4096, 70_000])
        kinds: list[Callable[[int], Any]] = [bytes, bytearray, np.zeros, lambda n: [bytes(n)] * 2]
        kinds += [lambda n: [bytearray(n), bytearray(3)], lambda n: memoryview(self.region)[:n]]
        return self.rng.choice(kinds)(length)

    def range(self) -> tuple[Any, Any]:
        at = self.memory.address + self.rng.choice([0, 1, 7, 4096, len(self.region), -1])
        length = self.rng.choice([0, 1, 9, 4096, len(self.region), 2**63, 2**64 - 1])
        return ([at, at + 64], [32, length]) if self.rng.random() < 0.3 else (at, length)

    def said(self, count: int) -> dict[str, Any]:
        each: dict[str, Callable[[], Any]] = {
            "timeout": self.timeout,
            "if_absent": lambda: True,
            "metas": lambda: [b"m" * self.rng.choice([0, 64, 65])] * count,
            "ttl": lambda: self.rng.choice([1, 0.001, [5] * count, [None] * count, 1e300]),
            "depths": lambda: [self.rng.choice([0, 65535, 65536])] * count,
            "tags": lambda: [[1, 2**64 - 1], [0] * 5][: self.rng.choice([1, 2])] * count,
            "cost_hints": lambda: range(count),
            "class_hints": lambda: [self.rng.choice([0, 255, 256])] * count,
            "versions": lambda: [self.rng.choice([0, 1, 2**64 - 1])] * count,
            "nonsense": lambda: 1,
        }
        names = self.rng.sample(sorted(each), self.rng.choice([0, 0, 1, 2]))
        return {name: self.some(each[name]) for name in names}

    def call(self) -> Any:
        rng, store, count = self.rng, self.store, self.rng.choice([0, 1, 2, 7])
        keys = self.some(lambda: self.keys(count))
        late = {} if rng.random() < 0.5 else {"timeout": self.some(self.timeout)}
        buffers = self.some(lambda: [self.some(self.buffer) for _ in range(count)])
        ranges = [self.range() for _ in range(count)]
        ptrs = self.some(lambda: [self.some(partial(copy, at)) for at, _ in ranges])
        sizes = self.some(lambda: [self.some(partial(copy, length)) for _, length in ranges])
        said, job = self.said(count), self.some(lambda: rng.choice(self.jobs))
        # Few enough of each for the machine, or far too many.
        threads, lengths = [0, -1, 1, 2, 65536, 2**63, None, "a"], [0, -1, 1, 4096, 2**63, None]
        path: Any = self.some(lambda: "tcp")
        calls: list[Callable[[], Any]] = [
            lambda: store.get(keys, **late),
            lambda: store.get_one(keys, **late),
            lambda: store.get_into(keys, buffers, **late),
            lambda: store.put(keys, buffers, **said),
            lambda: store.batch_get_into(keys, ptrs, sizes, **late),
            lambda: store.batch_put_from(keys, ptrs, sizes, **said),
            lambda: store.match(keys, touch=self.some(lambda: True), with_meta=True, **late),
            lambda: store.batch_exists_prefix(keys, **late),
            lambda: store.touch(keys, **late),
            lambda: store.remove(keys, **late),
            lambda: store.pin(keys, self.some(self.timeout), **late),
            lambda: self.held.append(store.lease(keys, **late)),
            lambda: self.jobs.append(store.submit_batch_get(keys, buffers, **late)),
            lambda: self.jobs.append(store.submit_batch_set(keys, buffers, **said)),
            lambda: self.jobs.append(store.submit_batch_exists(keys, **late)),
            lambda: self.jobs.append(store.submit_batch_delete(keys, **late)),
            lambda: self.jobs.append(store.submit_get_ptrs(keys, ptrs, sizes, **late)),
            lambda: self.jobs.append(store.submit_put_ptrs(keys, ptrs, sizes, **said)),
            lambda: store.wait(job, self.some(self.timeout)),
            lambda: store.poll(job),
            lambda: store.cancel(job),
            lambda: store.drain_all(self.some(self.timeout)),
            lambda: [repr(done) for done in store.drain()],
            store.drain_completions,
            lambda: store.key(self.some(lambda: rng.choice(KEYS))),
            lambda: self.client.stats(**late),
            lambda: repr((self.client, store, self.memory, store.spec, store.event_fd())),
            lambda: self.held.append(self.client.register(oddities(rng))),
            lambda: self.held.append(self.client.register(oddities(rng), oddities(rng))),
            lambda: self.held.append(self.client.shared_memory(rng.choice(lengths))),
            lambda: larder.connect(oddities(rng), connect_timeout=0.01, path=path),
            lambda: self.client.namespace(*[self.some(lambda: "any") for _ in range(7)]),
            lambda: self.client.namespace(part_bytes=oddities(rng)),
            lambda: self.client.namespace(threads=rng.choice(threads)),
            self.use_what_is_held,
        ]
        return rng.choice(calls)()

    def use_what_is_held(self) -> None:
        held = self.held.pop(self.rng.randrange(len(self.held))) if self.held else []
        if isinstance(held, larder.Memory):
            assert held.unregister(10)
            held = []
        for lease in held:
            if isinstance(lease, larder.Lease):
                view = lease.view()
                lease.close()
                assert len(bytes(view)) == len(lease)

    def close(self) -> None:
        self.held.clear()
        assert self.store.drain_all(60)
        self.store.drain()
        assert self.memory.unregister(10)
        self.region.append(1)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_arguments_are_answered_or_refused(client: larder.Client, seed: int) -> None:
    rng = random.Random(seed)
    caller = Caller(rng, client)
    until, kinds = time.monotonic() + SECONDS, dict[str, int]()
    while time.monotonic() < until:
        try:
            caller.call()
            end = "answered"
        except ALLOWED as error:
            end = type(error).__name__
        kinds[end] = kinds.get(end, 0) + 1
    caller.close()
    gc.collect()
    assert client.namespace(model="any").put(["fine"], [b"still"]) == [larder.Status.OK]
    assert {"answered", "InvalidArgument", "TypeError"} <= kinds.keys(), kinds


def test_a_million_keys_are_answered(tcp_client: larder.Client) -> None:
    store = tcp_client.namespace(model="million")
    names = [b"%d" % name for name in range(1_000_000)]
    store.put([b"0", b"999999"], [b"first", b"last"])
    assert len(store.match(names, timeout=60)) == 1_000_000
    assert len(store.get(names, timeout=60)) == 1_000_000
    assert len(store.lease(names, timeout=60)) == 1_000_000
    assert len(store.get_into(names, [bytearray()] * len(names), timeout=60)) == 1_000_000
    job = store.submit_batch_exists(names, timeout=60)
    done = store.wait(job, 60)
    assert done is not None and len(done.statuses) == 1_000_000
    assert len(store.remove(names, timeout=60)) == 1_000_000
