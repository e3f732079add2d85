"""How much Python adds: the package `larder` beside the Rust client, on one node, in one run.

What a reader would get wrong: rounds are interleaved and medians are told, because the machine is
shared. Keys, addresses and sizes go in as lists, as most callers have them, and as arrays. The Rust client is `larder-bench load`, a process of its own, as this is one.
"""

import argparse
import json
import mmap
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import larder

MIB = 1 << 20
KEYS_OF_MATCH = 1000
BATCH = 128
ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "target" / "release"


def start_node(directory: Path) -> tuple[subprocess.Popen[str], str]:
    """A node on a free port, with a socket in `directory`; it and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [BUILT / "larder-node", "--listen", f"127.0.0.1:{port}", "--shards", "1", "--memory", "2GiB",
         "--uds", directory / "node.sock", "--pin-cores", "off", "--admin", "off", "--log", "error"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    ready = process.stdout.readline()
    words = dict(word.split("=", 1) for word in ready.split() if "=" in word)
    if "node" not in words:
        raise SystemExit(f"the node did not start: {ready!r}")
    return process, words["node"]


def seconds_of(call: Callable[[], object], budget: float) -> list[float]:
    """How long each call took, for `budget` seconds."""
    took = []
    until = time.perf_counter() + budget
    while time.perf_counter() < until:
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return took


def rust_get(address: str, budget: float) -> tuple[float, float]:
    """GB/s and CPU microseconds an object of the Rust client, for the same batches."""
    said = subprocess.run(
        [BUILT / "larder-bench", "load", "--node", address, "--path", "shm", "--size", "1MiB",
         "--keys", str(4 * BATCH), "--batch", str(BATCH), "--seconds", str(budget), "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    result = json.loads(said.stdout)
    return result["bytes_per_s"] / 1e9, result["client_cpu_us"] / result["objects"]


def rows_of(keys: Sequence[bytes]) -> memoryview:
    """Keys of one width, as an array."""
    return memoryview(b"".join(keys)).cast("B", (len(keys), len(keys[0])))


class Python:
    """The package, with objects stored and memory registered."""

    def __init__(self, address: str) -> None:
        self.client = larder.connect(address, path="shm", deadline=10)
        self.store = self.client.namespace(tenant="bench", model="python")
        source = bytes(range(256)) * 4096
        self.keys = [b"object %025d" % n for n in range(4 * BATCH)]
        for first in range(0, len(self.keys), 16):
            keys = self.keys[first : first + 16]
            assert self.store.put(keys, [source] * len(keys)) == [0] * len(keys)
        self.chain = [b"small %026d" % n for n in range(KEYS_OF_MATCH)]
        self.chain_rows = rows_of(self.chain)
        assert set(self.store.put(self.chain, [b"x" * 100] * KEYS_OF_MATCH)) == {0}
        # Colder than the caches: four batches' worth, used in turn.
        self.memory = mmap.mmap(-1, 4 * BATCH * MIB)
        for page in range(0, len(self.memory), mmap.PAGESIZE):
            self.memory[page] = 1  # there, as memory of a runtime is
        self.registered = self.client.register(self.memory)
        self.turn = 0

    def batch(self) -> tuple[list[bytes], list[int], list[int]]:
        """Keys, addresses and sizes of the next batch."""
        self.turn += 1
        first = self.turn % 4 * BATCH
        base = self.registered.address + first * MIB
        ptrs = [base + n * MIB for n in range(BATCH)]
        return self.keys[first : first + BATCH], ptrs, [MIB] * BATCH

    def get(self) -> None:
        """One batch into registered memory."""
        assert self.store.batch_get_into(*self.batch()) == [MIB] * BATCH

    def match(self) -> None:
        """A chain of 1,000 keys, as a list."""
        assert self.store.match(self.chain).leading == KEYS_OF_MATCH

    def match_rows(self) -> None:
        """The same, as an array."""
        assert self.store.match(self.chain_rows).leading == KEYS_OF_MATCH

    def submit(self, objects: int, rounds: int, as_arrays: bool = False) -> list[float]:
        """How long it takes to hand over a get of so many objects."""
        took = []
        for _ in range(rounds):
            batch: list[Any] = [part[:objects] for part in self.batch()]
            if as_arrays:
                batch = [rows_of(batch[0]), array("Q", batch[1]), array("Q", batch[2])]
            began = time.perf_counter()
            job = self.store.submit_get_ptrs(*batch)
            took.append(time.perf_counter() - began)
            done = self.store.wait(job, 10)
            assert done is not None and done.ok
        return took


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args(arguments)
    figures: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as directory:
        node, address = start_node(Path(directory))
        try:
            python = Python(address)
            rust_get(address, 0.2)
            for round_number in range(args.rounds):
                print(f"round {round_number + 1} of {args.rounds}", file=sys.stderr)
                cpu = time.process_time()
                took = seconds_of(python.get, args.seconds)
                add("python_cpu_us", (time.process_time() - cpu) * 1e6 / (len(took) * BATCH))
                add("python_gb_s", len(took) * BATCH * MIB / sum(took) / 1e9)
                rust_gb_s, rust_cpu_us = rust_get(address, args.seconds)
                add("rust_gb_s", rust_gb_s)
                add("rust_cpu_us", rust_cpu_us)
                add("match_us", statistics.median(seconds_of(python.match, args.seconds / 2)) * 1e6)
                took = seconds_of(python.match_rows, args.seconds / 2)
                add("match_rows_us", statistics.median(took) * 1e6)
                add("submit_128_us", statistics.median(python.submit(BATCH, 30)) * 1e6)
                took = python.submit(BATCH, 30, as_arrays=True)
                add("submit_128_arrays_us", statistics.median(took) * 1e6)
                add("submit_1_us", statistics.median(python.submit(1, 300)) * 1e6)
        finally:
            node.terminate()
            node.wait()
    middle = {name: statistics.median(values) for name, values in figures.items()}
    ratio = middle["python_gb_s"] / middle["rust_gb_s"]
    lines = [
        ("get of 128 x 1 MiB into registered memory, x the Rust client", ">= 0.95", f"{ratio:.2f}"),
        ("  GB/s, Python / Rust", "", f"{middle['python_gb_s']:.1f} / {middle['rust_gb_s']:.1f}"),
        ("  CPU us an object, Python / Rust", "",
         f"{middle['python_cpu_us']:.1f} / {middle['rust_cpu_us']:.1f}"),
        ("match of 1,000 keys, us", "<= 200", f"{middle['match_us']:.0f}"),
        ("  as the rows of an array", "<= 200", f"{middle['match_rows_us']:.0f}"),
        ("submit of a job of 1 object, us", "<= 10", f"{middle['submit_1_us']:.1f}"),
        ("submit of a job of 128 objects, us", "<= 10", f"{middle['submit_128_us']:.1f}"),
        ("  as arrays", "<= 10", f"{middle['submit_128_arrays_us']:.1f}"),
    ]  # fmt: skip
    print("| what | aim | measured |\n|---|---|---|")
    for line in lines:
        print("| " + " | ".join(line) + " |")
    if args.json is not None:
        args.json.write_text(json.dumps({"medians": middle, "ratio": ratio, "rounds": figures}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
