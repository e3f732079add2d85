#!/usr/bin/env python3
"""Small gets alone, and beside large puts at full speed, on one shard: latency of both by turns.

The node has a core to itself. On a machine of two cores both loads share the other one, where puts
yield to gets (`nice`); on a larger one each has its own. Every round starts a fresh node and
measures gets alone and then beside puts, on each path. Writes benches/results/beside.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1:7488"
ADMIN = "127.0.0.1:7489"
KEYS = 2000
# What the small objects and the copies of large ones under way take is a fraction of it.
MEMORY = "1GiB"


def load(
    tools: Path, core: int, arguments: list[str], nice: int = 0
) -> "subprocess.Popen[str]":
    command = [
        *("nice", "-n", str(nice), "taskset", "-c", str(core)),
        *(tools / "larder-bench", "load", "--node", ADDRESS),
        *(*arguments, "--json", "-"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def result(process: "subprocess.Popen[str]") -> dict:
    printed = process.communicate()[0]
    if process.returncode != 0:
        raise SystemExit(f"a load ended with {process.returncode}: {process.args}")
    # A table for people follows.
    return json.JSONDecoder().raw_decode(printed)[0]


def wait_until_ready(node: "subprocess.Popen[str]") -> None:
    assert node.stdout is not None
    for line in node.stdout:
        if line.startswith("ready"):
            return
    raise SystemExit(f"the node ended with {node.wait()} before it was ready")


def turn(arguments: argparse.Namespace, path: str) -> tuple[dict, dict, dict]:
    """Gets alone, gets beside puts, and those puts."""
    core = 1
    put_core = 2 if (os.cpu_count() or 1) > 2 else core
    gets = ["--op", "get", "--path", path, "--size", arguments.small, "--keys", str(KEYS)]
    paced = [*gets, "--rate", str(arguments.rate), "--seconds", str(arguments.seconds)]
    fill = ["--op", "put", "--path", path, "--size", arguments.small, "--keys", str(KEYS)]
    result(load(arguments.tools, core, [*fill, "--seconds", "1"]))
    alone = result(load(arguments.tools, core, paced))
    seconds = str(arguments.seconds + 2)
    puts = ["--op", "put", "--path", path, "--size", arguments.large, "--keys", "200"]
    putting = load(arguments.tools, put_core, [*puts, "--seconds", seconds], nice=19)
    try:
        time.sleep(1)
        beside = result(load(arguments.tools, core, paced))
    except BaseException:
        putting.kill()
        raise
    return alone, beside, result(putting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, default=ROOT / "target/release")
    parser.add_argument("--paths", nargs="+", default=["tcp", "shm"])
    parser.add_argument("--small", default="4KiB", help="length of what is got")
    parser.add_argument("--large", default="2MiB", help="length of what is put")
    parser.add_argument("--rate", type=int, default=300, help="gets in a second")
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=ROOT / "benches/results/beside.json")
    arguments = parser.parse_args()
    turns: dict[str, list[tuple[dict, dict, dict]]] = {path: [] for path in arguments.paths}
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *("taskset", "-c", "0", arguments.tools / "larder-node", "--shards", "1"),
                *("--memory", MEMORY, "--listen", ADDRESS, "--admin", ADMIN),
                *("--uds", f"{folder}/node"),
            ]
            quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            node = subprocess.Popen(command, text=True, **quiet)
            try:
                wait_until_ready(node)
                for path in arguments.paths:
                    turns[path].append(turn(arguments, path))
            finally:
                node.terminate()
                node.wait()
        print(f"round {number + 1} of {arguments.rounds}", flush=True)
    report(arguments, turns)


def report(arguments: argparse.Namespace, turns: dict[str, list[tuple[dict, dict, dict]]]) -> None:
    rows = {}
    print("| path | gets alone, p50 / p99 us | beside puts | p99 beside / alone | puts GB/s |")
    print("|---|---:|---:|---:|---:|")
    for path, of_path in turns.items():
        row: dict[str, float] = {}
        for place, name in enumerate(["alone", "beside"]):
            for part in ["p50_us", "p99_us"]:
                values = [results[place][part] for results in of_path]
                row[f"{name}_{part}"] = statistics.median(values)
                row[f"{name}_{part}_min"], row[f"{name}_{part}_max"] = min(values), max(values)
        # Of what was measured one after the other.
        ratios = [beside["p99_us"] / alone["p99_us"] for alone, beside, _ in of_path]
        row["p99_ratio"] = statistics.median(ratios)
        row["p99_ratio_min"], row["p99_ratio_max"] = min(ratios), max(ratios)
        row["puts_bytes_per_s"] = statistics.median(put["bytes_per_s"] for _, _, put in of_path)
        rows[path] = row
        print(
            f"| {path} | {row['alone_p50_us']:.0f} / {row['alone_p99_us']:.0f} "
            f"| {row['beside_p50_us']:.0f} / {row['beside_p99_us']:.0f} "
            f"| {row['p99_ratio']:.2f} ({row['p99_ratio_min']:.2f} – {row['p99_ratio_max']:.2f}) "
            f"| {row['puts_bytes_per_s'] / 1e9:.2f} |"
        )
    settings = {key: getattr(arguments, key) for key in ["small", "large", "rate", "rounds"]}
    machine = next(iter(turns.values()))[0][0]["machine"]
    written = {"command": "beside", **settings, "paths": rows, "machine": machine}
    arguments.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
