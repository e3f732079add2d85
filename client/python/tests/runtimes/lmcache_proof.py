"""Proves `larder.lmcache` with LMCache's own server and connector under vLLM, on a CPU.

What a reader would get wrong: LMCache keeps what it has in its own memory first. So every claim
about Larder has a fresh LMCache server as well as a fresh engine: they share only the node.

    python lmcache_proof.py --models DIR --work DIR [--only cold,zeros,…]   # 8 to 20 minutes
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from node_process import Node, free_port
from vllm_driver import HERE, Answer, Objects, Proof

PROMPTS = [0, 1, 2]
MANY = list(range(24))
FULL = 640
"""Tokens of a prompt in whole objects: five of 128."""
SPACE = {"revision": "1", "layout": "lmcache"}
SERVER_SECONDS_MAX = 300
CONNECT_SECONDS = 1.0


class Server:
    """One LMCache server, from its start to its end, with nothing in its memory."""

    def __init__(self, proof: Proof, name: str, node: Node, kill: int = 0) -> None:
        self.record = proof.work / f"{name}.record"
        self.record.unlink(missing_ok=True)
        self.record.touch()
        self._log = proof.work / f"{name}.server.log"
        self.port, http = free_port(), free_port()
        adapter = {
            "type": "native_plugin",
            "module_path": "lmcache_hooks",
            "class_name": "RecordingClient",
            "adapter_params": {
                "endpoint": node.endpoint,
                "revision": SPACE["revision"],
                "connect_timeout": CONNECT_SECONDS,
            },
            "max_capacity_gb": 0,
        }
        command = [sys.executable, "-m", "lmcache.cli.main", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--http-port", str(http), "--l1-size-gb", "1"]
        command += ["--disable-metrics"]
        command += ["--eviction-policy", "LRU", "--chunk-size", "128", "--max-workers", "2"]
        command += ["--supported-transfer-mode", "engine_driven"]
        command += ["--l2-adapter", json.dumps(adapter)]
        environment = {
            **os.environ,
            "LMCACHE_TRACK_USAGE": "false",
            "LMCACHE_PROOF_RECORD": str(self.record),
            "LMCACHE_PROOF_KILL": str(kill),
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        }
        began = time.monotonic()
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() - began > SERVER_SECONDS_MAX:
                self.stop()
                raise SystemExit(f"lmcache: server {name!r} does not serve: {self._log}")
            time.sleep(0.2)

    def lines(self) -> list[dict[str, Any]]:
        """What the client in the server wrote down so far."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def open_seconds(self) -> float:
        """How long LMCache waited for the client to be made."""
        return sum(line["seconds"] for line in self.lines() if line["operation"] == "open")

    def keys(self, operation: str) -> list[str]:
        """The keys of all batches of an operation so far, each once."""
        found = (
            key for line in self.lines() if line["operation"] == operation for key in line["keys"]
        )
        return list(dict.fromkeys(found))

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def server(proof: Proof, name: str, node: Node, kill: int = 0) -> Iterator[Server]:
    running = Server(proof, name, node, kill)
    try:
        yield running
    finally:
        running.stop()


def engine(proof: Proof, name: str, through: Server, prompts: list[int] = PROMPTS) -> Answer:
    transfer = {
        "kv_connector": "LMCacheMPConnector",
        "kv_role": "kv_both",
        # In production: "lmcache.integration.vllm.lmcache_mp_connector".
        "kv_connector_module_path": "lmcache_hooks",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "lmcache.mp.host": "tcp://127.0.0.1",
            "lmcache.mp.port": through.port,
        },
    }
    # LMCache stores behind the last step; it gets some seconds for it.
    batches = [{"prompts": prompts, "settle_seconds": 4.0}]
    return proof.engine(name, {"model": str(proof.model), "kv": transfer, "batches": batches})


def prove(proof: Proof, only: set[str]) -> None:
    plain = proof.engine("plain", {"model": str(proof.model), "batches": [{"prompts": PROMPTS}]})
    want = plain.texts()
    whole = [FULL] * len(PROMPTS)
    with Node() as node:
        with server(proof, "cold", node) as first:
            cold = engine(proof, "cold", first)
            keys = first.keys("set")
        holds = cold.texts() == want and cold.cached() == [0] * len(PROMPTS)
        proof.claim("cold: same text, nothing loaded", holds)
        proof.claim("cold: every full object is stored", len(keys) == 15, f"{len(keys)} objects")
        with server(proof, "fresh", node) as second:
            fresh = engine(proof, "fresh", second)
            loaded = len(second.keys("get"))
        holds = fresh.texts() == want and fresh.cached() == whole and loaded == len(keys)
        detail = f"{fresh.cached()} tokens, {loaded} objects"
        proof.claim("fresh server and engine: same text, loaded from Larder", holds, detail)
        if "zeros" in only:
            prove_zeros(proof, node, keys, want)
        if "kill" in only:
            with server(proof, "kill", node, kill=node.pid) as third:
                killed = engine(proof, "kill", third)
                asked = len(third.keys("get"))
            holds = killed.texts() == want and asked > 0 and sum(killed.cached()) == 0
            detail = f"{asked} objects were to be loaded, {killed.cached()} tokens came"
            proof.claim("node killed between lookup and load: recomputed", holds, detail)
    if "unreachable" in only:
        with Node() as node:
            node.kill()
            with server(proof, "unreachable", node) as alone:
                without = engine(proof, "unreachable", alone)
            holds = without.texts() == want and sum(without.cached()) == 0
            proof.claim("node unreachable: server and engine serve", holds)
            opened = alone.open_seconds()
            holds = 0 < opened < CONNECT_SECONDS + 0.5
            proof.claim("node unreachable: start held up for", holds, f"{opened:.3f} s")
    if "evict" in only:
        with Node("16MiB") as small:
            with server(proof, "fill", small) as filling:
                filled = engine(proof, "fill", filling, MANY)
                stored = len(filling.keys("set"))
            latest = MANY[-3:]
            with server(proof, "kept", small) as keeping:
                kept = engine(proof, "kept", keeping, [*latest, *PROMPTS])
        # Batches of 24 and of 6 compute in other shapes: logprobs may differ in the last place.
        holds = kept.tokens() == filled.tokens()[-3:] + filled.tokens()[:3]
        detail = f"{stored} objects of 256 KiB into 16 MiB, then {kept.cached()} tokens"
        proof.claim("full cache, evicting: same text", holds and stored >= 100, detail)
        proof.claim("full cache, evicting: something is loaded", sum(kept.cached()) > 0)


def prove_zeros(proof: Proof, node: Node, keys: list[str], want: Any) -> None:
    objects = Objects(node.endpoint, SPACE, keys)
    objects.put_zeros()
    with server(proof, "zeros", node) as third:
        zeroed = engine(proof, "zeros", third)
    objects.put_back()
    differ = [a != b for a, (b, _) in zip(zeroed.tokens(), want, strict=True)]
    holds = all(differ) and zeroed.cached() == [FULL] * len(PROMPTS)
    proof.claim("negative control: stored bytes are zeros, text differs", holds, str(differ))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=pathlib.Path, required=True, help="made by models.py")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="for logs")
    parser.add_argument("--only", default="zeros,kill,unreachable,evict")
    given = parser.parse_args()
    proof = Proof("lmcache", given.models / "llama", given.work / "lmcache")
    prove(proof, set(given.only.split(",")))
    return proof.end()


if __name__ == "__main__":
    sys.exit(main())
