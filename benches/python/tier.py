"""What vLLM's offload tier costs on top of the copy: `larder.vllm_tier` beside bare gets, one node.

What a reader would get wrong: the tier is the real class, called in the order in which vLLM's
scheduler calls it, but there is no engine. CPU is that of this process's calls into the tier (or
the client), and of all its other threads, the kernel's share included. What this thread does
between the calls, which is vLLM's part, is not in it, nor is the node's, which is the same for all.
An engine sleeps between its steps, and so do all ways but Rust's, whose GB/s are therefore others.
Rounds are interleaved, and the ratio is the median of the ratios of rounds of one number.

Needs an environment that has vLLM, which need not find a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from speed import BUILT, MIB, start_node
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
from vllm.v1.kv_offload.tiering.base import TransferJob

import larder
from larder.vllm_tier import LarderTier

TOKENS = 16
# Of rows and of objects, each: colder than any cache.
SET_BYTES = 512 * MIB
# Wide: a row that does not come in time would be a wrong figure, not a slow one.
TIMEOUT = 30.0
# Between two looks of the scheduler: a short step of an engine that has other requests to serve.
STEP_SECONDS = 0.005
GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way in one round.

    Attributes:
        cpu: in seconds a GiB.
        speed: GB/s, in requests one after another.
        wrong: rows with a wrong byte.
    """

    cpu: float
    speed: float
    wrong: int


class Rows:
    """vLLM's own host memory, objects of as many bytes on a node, and what each of them holds."""

    def __init__(self, row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self.count = SET_BYTES // row_bytes
        self.engine_id = f"bench-{uuid.uuid4().hex}"
        self.region = SharedOffloadRegion(self.engine_id, self.count, None, row_bytes, row_bytes)
        # Mapped, so its name is not needed, and nothing is left if this is killed.
        os.unlink(self.region.mmap_path)
        self.region._creator = False
        self.view = self.region.create_kv_memoryview()
        self.words = np.asarray(self.view).view(np.uint64)
        self.pattern = np.random.default_rng(1).integers(0, 1 << 63, row_bytes // 8, np.uint64)
        self.keys = [
            OffloadKey(make_offload_key(number.to_bytes(32, "big"), 0))
            for number in range(self.count)
        ]

    def fill(self) -> None:
        """Each row with what the object of its number holds."""
        for number in range(self.count):
            np.bitwise_xor(self.pattern, np.uint64(number), out=self.words[number])

    def wrong(self, rows: Sequence[int], numbers: Sequence[int]) -> int:
        """How many of `rows` differ from the objects of `numbers` in any byte."""
        return sum(
            not np.array_equal(self.words[row] ^ np.uint64(number), self.pattern)
            for row, number in zip(rows, numbers, strict=True)
        )

    def spec(self) -> types.SimpleNamespace:
        """What the tier reads of vLLM's spec, for one full-attention group on one GPU."""
        config = OffloadingConfig(
            groups=(OffloadingGroupConfig(TOKENS, ("layers.0",), 0),),
            worker_kv_bytes_per_block=self.row_bytes,
            enable_kv_cache_events=False,
            extra_config={},
            engine_id=self.engine_id,
            model=OffloadingModelConfig("bench", "bfloat16"),
            cache=OffloadingCacheConfig(TOKENS, 1),
            parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, True),
            kv_cache_layout="LBHNC",
        )
        return types.SimpleNamespace(
            config=config,
            replicated_layout=False,
            kv_events_config=OffloadingKVEventsConfig(False, False),
        )

    def close(self) -> None:
        del self.view, self.words
        self.region.cleanup()


class Loads:
    """One request after another, each of `batch` objects into as many rows, by several ways."""

    def __init__(self, rows: Rows, address: str, path: str, batch: int) -> None:
        self.rows, self.batch = rows, batch
        self.tier = LarderTier(
            rows.spec(), rows.view, "LarderTier", endpoint=address, revision="1", path=path,
            connect_timeout=10.0, lookup_timeout=TIMEOUT, load_timeout=TIMEOUT,
            store_timeout=TIMEOUT, on_reset="keep",
        )  # fmt: skip
        assert self.tier._link.stores is not None, "the node was not reached"
        self.client = larder.connect(address, path=path, deadline=TIMEOUT)
        self.base = int(np.asarray(rows.view).ctypes.data)
        self.memory = self.client.register(self.base, rows.view.nbytes)
        # The same objects: the tier's namespace.
        self.store = self.client.namespace(**self.tier._namespace)
        self.numbers = itertools.count()
        self.inside = 0.0
        self.turn = 0

    def fill(self) -> None:
        """Stores all objects, as vLLM does."""
        self.rows.fill()
        for first in range(0, self.rows.count, self.batch):
            chunks = range(first, min(first + self.batch, self.rows.count))
            context = self.request(chunks)
            self.tier.submit_store(self.job(chunks, chunks, False, context))
            assert self.finished().success, "the node did not take all"
            self.tier.on_request_finished(context)

    def warm_up(self) -> None:
        """Everything once by each client, and then whatever they do once in the background.

        A client maps the node's memory piece by piece: 2 GiB of it are much CPU, once.
        """
        for way in (self.by_tier, self.by_get):
            for _ in range(self.rows.count // self.batch):
                way(*self.next())
        quiet = 0
        while quiet < 5:
            before = time.process_time()
            time.sleep(0.1)
            quiet = quiet + 1 if time.process_time() - before < 0.002 else 0

    def next(self) -> tuple[list[int], list[int]]:
        """Numbers of the objects and of the rows of the next request, no row for its own object."""
        first = self.turn * self.batch % self.rows.count
        self.turn += 1
        numbers = [(first + n) % self.rows.count for n in range(self.batch)]
        return numbers, [(number + self.rows.count // 2) % self.rows.count for number in numbers]

    def request(self, numbers: Sequence[int]) -> ReqContext:
        context = ReqContext(f"request-{next(self.numbers)}")
        for place, number in enumerate(numbers):
            context.set_offload_key_position(self.rows.keys[number], (place + 1) * TOKENS)
        self.tier.on_new_request(context)
        return context

    def job(
        self, numbers: Sequence[int], rows: Sequence[int], is_load: bool, context: ReqContext
    ) -> TransferJob:
        return TransferJob(
            job_id=next(self.numbers),
            keys=[self.rows.keys[number] for number in numbers],
            chunk_ids=np.array(rows, dtype=np.int32),
            is_promotion=is_load,
            req_context=context,
        )

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """What is called inside is the tier's, or the client's."""
        before = time.thread_time()
        yield
        self.inside += time.thread_time() - before

    def finished(self) -> Any:
        """Step by step until the tier reports its only job."""
        while True:
            with self.counted():
                results = list(self.tier.get_finished_jobs())
            if results:
                return results[0]
            self.step()

    def step(self) -> None:
        with self.counted():
            self.tier.on_schedule_end(ScheduleEndContext((), ()))
        time.sleep(STEP_SECONDS)

    # The ways, from the whole of what vLLM asks to the bare copy.

    def by_tier(self, numbers: list[int], rows: list[int]) -> None:
        """Lookups of all keys until the nodes were heard, the load, its report."""
        keys = [self.rows.keys[number] for number in numbers]
        context = self.request(numbers)
        while True:
            with self.counted():
                tuple(self.tier.get_finished_jobs())
                found = {self.tier.lookup(key, context) for key in keys}
            if LookupResult.RETRY not in found:
                break
            self.step()
        assert found == {LookupResult.HIT}, found
        self.load(numbers, rows, context)
        with self.counted():
            self.tier.on_request_finished(context)

    def by_load(self, numbers: list[int], rows: list[int]) -> None:
        """The same without the lookups."""
        self.load(numbers, rows, self.request(numbers))

    def load(self, numbers: list[int], rows: list[int], context: ReqContext) -> None:
        job = self.job(numbers, rows, True, context)
        with self.counted():
            self.tier.submit_load(job)
        result = self.finished()
        assert result.success, result

    def by_get(self, numbers: list[int], rows: list[int]) -> None:
        """A get of Python's into the same rows, in the caller's thread, and then a step's sleep.

        A copy that comes after a sleep costs a seventh more CPU by itself.
        """
        keys = [self.rows.keys[number] for number in numbers]
        ptrs = [self.base + row * self.rows.row_bytes for row in rows]
        sizes = [self.rows.row_bytes] * len(rows)
        with self.counted():
            written = self.store.batch_get_into(keys, ptrs, sizes)
        assert written == sizes, written
        time.sleep(STEP_SECONDS)

    def measure(self, way: Callable[[list[int], list[int]], None], seconds: float) -> Measured:
        """Requests for so long; all rows of the last ones checked, outside of what is counted."""
        done: dict[int, int] = {}
        self.rows.words.fill(0)
        moved = 0
        self.inside = 0.0
        others, began = time.process_time() - time.thread_time(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            numbers, rows = self.next()
            way(numbers, rows)
            done.update(zip(rows, numbers, strict=True))
            moved += len(rows) * self.rows.row_bytes
        took = time.perf_counter() - began
        cpu = self.inside + time.process_time() - time.thread_time() - others
        wrong = self.rows.wrong(list(done), list(done.values()))
        return Measured(cpu / moved * GIB, moved / took / 1e9, wrong)

    def close(self) -> None:
        self.tier.shutdown()
        self.memory.unregister()
        self.store.close()
        self.client.close()


def rust(rows: Rows, address: str, path: str, batch: int, seconds: float) -> Measured:
    """The Rust client's gets of as many objects of the same length, in a process of its own."""
    said = subprocess.run(
        [BUILT / "larder-bench", "load", "--node", address, "--path", path, "--op", "get",
         "--size", f"{rows.row_bytes}B", "--keys", str(rows.count), "--batch", str(batch),
         "--seconds", str(seconds), "--deadline", f"{TIMEOUT:.0f}s", "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    result = json.loads(said.stdout)
    assert result["misses"] == 0 and result["errors"] == 0, result
    moved = result["objects"] * result["size"]
    return Measured(result["client_cpu_us"] / 1e6 / moved * GIB, result["bytes_per_s"] / 1e9, 0)


# The whole of it, that without the lookups, bare gets from Python, and from Rust.
WAYS = ("tier", "load", "get", "rust")
RATIOS = ("load_to_get", "tier_to_get", "tier_to_rust")


def measure_all(rows: Rows, address: str, path: str, args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of all ways, there and back, and their medians."""
    rounds: dict[str, list[Measured]] = {way: [] for way in WAYS}
    loads = Loads(rows, address, path, args.batch)
    try:
        loads.fill()
        ways = {
            "tier": lambda: loads.measure(loads.by_tier, args.seconds),
            "load": lambda: loads.measure(loads.by_load, args.seconds),
            "get": lambda: loads.measure(loads.by_get, args.seconds),
            "rust": lambda: rust(rows, address, path, args.batch, args.seconds),
        }
        loads.warm_up()
        for number in range(args.rounds):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                rounds[way].append(ways[way]())
            print(f"{path} {rows.row_bytes} round {number + 1} of {args.rounds}", file=sys.stderr)
    finally:
        loads.close()

    def ratio(way: str, other: str) -> float:
        pairs = zip(rounds[way], rounds[other], strict=True)
        return statistics.median(one.cpu / two.cpu for one, two in pairs)

    return {
        "path": path,
        "row_bytes": rows.row_bytes,
        "batch": args.batch,
        "cpu_s_per_gib": {way: middle(rounds[way], "cpu") for way in WAYS},
        "gb_per_s": {way: middle(rounds[way], "speed") for way in WAYS},
        "lookup_us_per_key": statistics.median(
            (tier.cpu - load.cpu) / GIB * rows.row_bytes * 1e6
            for tier, load in zip(rounds["tier"], rounds["load"], strict=True)
        ),
        "tier_to_get": ratio("tier", "get"),
        "load_to_get": ratio("load", "get"),
        "tier_to_rust": ratio("tier", "rust"),
        "wrong": sum(one.wrong for way in WAYS for one in rounds[way]),
        "rounds": {way: [dataclasses.asdict(one) for one in rounds[way]] for way in WAYS},
    }


def middle(rounds: list[Measured], what: str) -> float:
    return statistics.median(getattr(one, what) for one in rounds)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="of one way in one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64, help="rows of one request")
    parser.add_argument("--rows", default="2048,256", help="sizes of a row, in KiB")
    parser.add_argument("--paths", default="shm,tcp")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args(arguments)
    results = []
    for row_kib in map(int, args.rows.split(",")):
        for path in args.paths.split(","):
            rows = Rows(row_kib << 10)
            try:
                with tempfile.TemporaryDirectory() as directory:
                    node, address = start_node(Path(directory))
                    try:
                        results.append(measure_all(rows, address, path, args))
                    finally:
                        node.terminate()
                        node.wait()
            finally:
                rows.close()
    print(
        "| path | row | CPU s/GiB: tier, load, get, Rust | load / get | tier / get | tier / Rust |"
    )
    print("|---|---|---|---|---|---|")
    for one in results:
        cpu = ", ".join(f"{one['cpu_s_per_gib'][way]:.3f}" for way in WAYS)
        ratios = " | ".join(f"{one[name]:.3f}" for name in RATIOS)
        print(f"| {one['path']} | {one['row_bytes'] >> 10} KiB | {cpu} | {ratios} |")
    for one in results:
        speed = ", ".join(f"{one['gb_per_s'][way]:.2f}" for way in WAYS)
        print(
            f"{one['path']} {one['row_bytes'] >> 10} KiB: {speed} GB/s; a lookup "
            f"{one['lookup_us_per_key']:.1f} us of CPU a key; {one['wrong']} wrong rows"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1))
    return 1 if any(one["wrong"] for one in results) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
