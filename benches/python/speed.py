"""How much Python adds: the package `larder` beside the Rust client, on one node, in one run.

What a reader would get wrong: rounds are interleaved and medians are told, because the machine is
shared. Keys, addresses and sizes go in as lists, as most callers have them, and as arrays. Gets are
measured in new processes, in Rust (`larder-bench load`) and in Python: which pages a process got
makes more of a difference than the language. A job is submitted in two
states: with the caches as a copy of the same batch left them, and warm, of objects that are not
there. In both it wakes the thread that does it; what that alone costs is a row of its own.
"""

import argparse
import json
import mmap
import os
import random
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


def python_get(address: str, budget: float) -> tuple[float, float]:
    """The same of the package."""
    said = subprocess.run(
        [sys.executable, __file__, "--gets-from", address, "--seconds", str(budget)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    gb_s, cpu_us = json.loads(said.stdout)
    return gb_s, cpu_us


def rows_of(keys: Sequence[bytes]) -> memoryview:
    """Keys of one width, as an array."""
    return memoryview(b"".join(keys)).cast("B", (len(keys), len(keys[0])))


class Python:
    """The package, with objects stored and memory registered."""

    def __init__(self, address: str) -> None:
        self.client = larder.connect(address, path="shm", deadline=10)
        self.store = self.client.namespace(tenant="bench", model="python")
        self.keys = [b"object %025d" % n for n in range(4 * BATCH)]
        self.chain = [b"small %026d" % n for n in range(KEYS_OF_MATCH)]
        self.chain_rows = rows_of(self.chain)
        # Colder than the caches, as much as the Rust client has, and used in turn.
        self.memory = mmap.mmap(-1, 2 * BATCH * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, len(self.memory), mmap.PAGESIZE):
            self.memory[page] = 1  # there, as memory of a runtime is
        self.registered = self.client.register(self.memory)
        self.turn = 0

    def store_all(self) -> None:
        """What all gets and matches find."""
        source = bytes(range(256)) * 4096
        for first in range(0, len(self.keys), 16):
            keys = self.keys[first : first + 16]
            assert self.store.put(keys, [source] * len(keys)) == [0] * len(keys)
        assert set(self.store.put(self.chain, [b"x" * 100] * KEYS_OF_MATCH)) == {0}

    def batch(self) -> tuple[list[bytes], list[int], list[int]]:
        """Keys, addresses and sizes of the next batch: drawn as the Rust client draws them."""
        self.turn += 1
        base = self.registered.address + self.turn % 2 * BATCH * MIB
        ptrs = [base + n * MIB for n in range(BATCH)]
        first = random.randrange(len(self.keys))
        keys = [self.keys[(first + n) % len(self.keys)] for n in range(BATCH)]
        return keys, ptrs, [MIB] * BATCH

    def get(self) -> None:
        """One batch into registered memory."""
        assert self.store.batch_get_into(*self.batch()) == [MIB] * BATCH

    def match(self) -> None:
        """A chain of 1,000 keys, as a list."""
        assert self.store.match(self.chain).leading == KEYS_OF_MATCH

    def match_rows(self) -> None:
        """The same, as an array."""
        assert self.store.match(self.chain_rows).leading == KEYS_OF_MATCH

    def submit(
        self, objects: int, rounds: int, as_arrays: bool = False, are_there: bool = True
    ) -> list[float]:
        """How long it takes to hand over a get of so many objects."""
        took = []
        for _ in range(rounds):
            keys, ptrs, sizes = (part[:objects] for part in self.batch())
            if not are_there:
                keys = [b"missing" + key[7:] for key in keys]
            batch: list[Any] = [keys, ptrs, sizes]
            if as_arrays:
                batch = [rows_of(keys), array("Q", ptrs), array("Q", sizes)]
            began = time.perf_counter()
            job = self.store.submit_get_ptrs(*batch)
            took.append(time.perf_counter() - began)
            done = self.store.wait(job, 10)
            assert done is not None and done.ok == are_there
        return took

    def gets(self, budget: float) -> tuple[float, float]:
        """GB/s and CPU microseconds an object of batches one after another."""
        for _ in range(4):
            self.get()  # all that the node shares is mapped
        cpu = time.process_time()
        took = seconds_of(self.get, budget)
        cpu = time.process_time() - cpu
        objects = len(took) * BATCH
        return objects * MIB / sum(took) / 1e9, cpu * 1e6 / objects

    def wake(self, rounds: int) -> list[float]:
        """How long it takes to wake somebody where a job of one batch would be submitted."""
        sleeper = Sleeper()
        took = []
        for _ in range(rounds):
            self.get()
            took.append(sleeper.wake())
        return took


class Sleeper:
    """A process that sleeps in a read: what it costs to wake whoever does what one submits."""

    def __init__(self) -> None:
        loop = "import os\nwhile os.read(0, 1): pass"
        self.process = subprocess.Popen([sys.executable, "-c", loop], stdin=subprocess.PIPE)
        time.sleep(1)  # until it reads

    def wake(self) -> float:
        """How long the write took that woke it."""
        assert self.process.stdin is not None
        began = time.perf_counter()
        os.write(self.process.stdin.fileno(), b"1")
        return time.perf_counter() - began


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--gets-from", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.gets_from is not None:
        print(json.dumps(Python(args.gets_from).gets(args.seconds)))
        return
    figures: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as directory:
        node, address = start_node(Path(directory))
        try:
            python = Python(address)
            python.store_all()
            rust_get(address, 0.2)
            for round_number in range(args.rounds):
                print(f"round {round_number + 1} of {args.rounds}", file=sys.stderr)
                clients = [("python", python_get), ("rust", rust_get)]
                for name, gets in clients if round_number % 2 else reversed(clients):
                    gb_s, cpu_us = gets(address, args.seconds)
                    add(f"{name}_gb_s", gb_s)
                    add(f"{name}_cpu_us", cpu_us)
                add("match_us", statistics.median(seconds_of(python.match, args.seconds / 2)) * 1e6)
                took = seconds_of(python.match_rows, args.seconds / 2)
                add("match_rows_us", statistics.median(took) * 1e6)
                for objects, rounds in ((1, 300), (BATCH, 30)):
                    for kind, as_arrays in (("", False), ("_arrays", True)):
                        for state, are_there in (("", True), ("_warm", False)):
                            took = python.submit(objects, rounds, as_arrays, are_there)
                            name = f"submit_{objects}{kind}{state}_us"
                            add(name, statistics.median(took) * 1e6)
                add("wake_us", statistics.median(python.wake(30)) * 1e6)
        finally:
            node.terminate()
            node.wait()
    middle = {name: statistics.median(values) for name, values in figures.items()}
    speeds = zip(figures["python_gb_s"], figures["rust_gb_s"], strict=True)
    ratio = statistics.median(python / rust for python, rust in speeds)

    def pair(name: str) -> str:
        return f"{middle[f'{name}_us']:.1f} / {middle[f'{name}_warm_us']:.1f}"

    lines = [
        ("get of 128 x 1 MiB into registered memory, x the Rust client", ">= 0.95", f"{ratio:.2f}"),
        ("  GB/s, Python / Rust", "", f"{middle['python_gb_s']:.1f} / {middle['rust_gb_s']:.1f}"),
        ("  CPU us an object, Python / Rust", "",
         f"{middle['python_cpu_us']:.1f} / {middle['rust_cpu_us']:.1f}"),
        ("match of 1,000 keys, us", "<= 200", f"{middle['match_us']:.0f}"),
        ("  as the rows of an array", "<= 200", f"{middle['match_rows_us']:.0f}"),
        ("submit of a job of 1 object, us, caches cold / warm", "<= 10", pair("submit_1")),
        (f"submit of a job of {BATCH} objects, us", "<= 10", pair(f"submit_{BATCH}")),
        ("  as arrays", "<= 10", pair(f"submit_{BATCH}_arrays")),
        ("a bare write that wakes a sleeping process, us, cold", "", f"{middle['wake_us']:.1f}"),
    ]  # fmt: skip
    print("| what | aim | measured |\n|---|---|---|")
    for line in lines:
        print("| " + " | ".join(line) + " |")
    if args.json is not None:
        args.json.write_text(json.dumps({"medians": middle, "ratio": ratio, "rounds": figures}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
