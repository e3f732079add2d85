"""What the vLLM proofs share: engines in fresh processes, and what they recorded.

What a reader would get wrong: a claim that does not hold does not stop a proof, but an engine that
does not answer does.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from claims import Claims
from node_process import Node
from vllm_engine import ANSWER

import larder

HERE = pathlib.Path(__file__).resolve().parent
# Of one engine's life. Most take one minute on an idle core; machines are shared.
ENGINE_SECONDS_MAX = 900


def engine_environment() -> dict[str, str]:
    """For an engine on a CPU, in the company of others, that is to find this folder's modules."""
    return {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }


class Proof(Claims):
    """A runtime's claims, and the engines that support them."""

    def __init__(self, runtime: str, model: pathlib.Path, work: pathlib.Path) -> None:
        super().__init__(runtime)
        self.model = model
        self.work = work
        work.mkdir(parents=True, exist_ok=True)

    def engine(
        self,
        name: str,
        job: dict[str, Any],
        *,
        faults: Node | None = None,
        processes: bool = False,
    ) -> Answer:
        """Runs `vllm_engine.py` to its end in a process of its own.

        Its hooks may do harm to the node `faults`. With `processes` its scheduler and its worker
        have processes of their own too.
        """
        directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))
        environment = {
            **engine_environment(),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if processes else "0",
            "PROOF_RECORD": str(directory / "record"),
            "PROOF_FAULT_FILE": str(directory / "fault"),
            "PROOF_NODE_PID": str(faults.pid if faults is not None else 0),
            "PROOF_ENDPOINT": faults.endpoint if faults is not None else "",
        }
        if processes:
            job = {**job, "options": {"distributed_executor_backend": "mp"}}
        # vLLM names files in /dev/shm after it; other engines have theirs there.
        engine_id = f"proof-{directory.name}".replace(" ", "-")
        if "kv" in job:
            job = {**job, "kv": {**job["kv"], "engine_id": engine_id}}
        command = [sys.executable, str(HERE / "vllm_engine.py"), json.dumps(job)]
        began = time.monotonic()
        with open(directory / "log", "w") as log:
            engine = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = engine.wait(ENGINE_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                code = -1
            finally:
                # Its session is its own: whatever it left running goes with it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(engine.pid, signal.SIGKILL)
                engine.wait()
                # A killed engine leaves its rows in /dev/shm.
                for path in glob.glob(f"/dev/shm/vllm_offload_{engine_id}*"):
                    os.unlink(path)
        text = (directory / "log").read_text(errors="replace")
        answers = [line for line in text.splitlines() if line.startswith(ANSWER)]
        if code != 0 or not answers:
            print(text[-6000:], file=sys.stderr)
            raise SystemExit(f"{self.runtime}: engine {name!r} ended with {code}: {directory}/log")
        took = time.monotonic() - began
        print(f"     {self.runtime:<12} engine {name!r} took {took:.0f} s", flush=True)
        return Answer(json.loads(answers[-1].removeprefix(ANSWER)), directory / "record", text)


class Answer:
    """What an engine answered and what its hooks recorded."""

    def __init__(self, answer: dict[str, Any], record: pathlib.Path, log: str) -> None:
        self.batches: list[dict[str, Any]] = answer["batches"]
        self.log = log
        self.events: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        if record.exists():
            for line in record.read_text().splitlines():
                event = json.loads(line)
                self.events[event.pop("event")].append(event)

    def texts(self, batch: int = 0) -> list[tuple[list[int], float]]:
        """Tokens and cumulative logprob of each prompt."""
        return [(a["tokens"], a["logprob"]) for a in self.batches[batch]["answers"]]

    def tokens(self, batch: int = 0) -> list[list[int]]:
        return [a["tokens"] for a in self.batches[batch]["answers"]]

    def cached(self, batch: int = 0) -> list[int]:
        """Prompt tokens that were not computed, of each prompt."""
        return [a["cached"] for a in self.batches[batch]["answers"]]

    def keys(self, event: str) -> list[bytes]:
        """All keys of an event's records, each once, in order."""
        keys = (bytes.fromhex(k) for e in self.events[event] for k in e["keys"])
        return list(dict.fromkeys(keys))


@contextlib.contextmanager
def opened(endpoint: str, namespace: dict[str, Any]) -> Iterator[larder.Store]:
    """The namespace that an engine used, for the driver's own hands."""
    with larder.connect(endpoint, connect_timeout=5.0, deadline=5.0, name="proof") as client:
        store = client.namespace(**namespace)
        try:
            yield store
        finally:
            store.close()


class Objects:
    """What lies under some keys, to be replaced by zeros and put back."""

    def __init__(self, endpoint: str, namespace: dict[str, Any], keys: list[Any]) -> None:
        self._endpoint, self._namespace, self._keys = endpoint, namespace, keys
        with opened(endpoint, namespace) as store:
            self._values = store.get(keys)
            self._metas = store.match(keys, with_meta=True).metas
        assert None not in self._values, "what was stored is not there"

    def put_zeros(self) -> None:
        self._put([bytes(len(value or b"")) for value in self._values])

    def put_back(self, endpoint: str | None = None) -> None:
        self._put([value or b"" for value in self._values], endpoint)

    def _put(self, values: list[bytes], endpoint: str | None = None) -> None:
        with opened(endpoint or self._endpoint, self._namespace) as store:
            statuses = store.put(self._keys, values, metas=self._metas)
        assert all(status == larder.Status.OK for status in statuses), statuses


def stopping(node: Node) -> tuple[list[str], list[str]]:
    """The commands by which an engine's batch has a node stand still, and go on."""
    return ["kill", "-STOP", str(node.pid)], ["kill", "-CONT", str(node.pid)]


def counters(endpoint: str) -> collections.Counter[str]:
    """What the shards of a node have counted, added up."""
    total: collections.Counter[str] = collections.Counter()
    with larder.connect(endpoint, connect_timeout=5.0, name="proof") as client:
        for shard in client.stats():
            total.update(shard["counters"])
    return total


def run(runtime: str, model: str, prove: Callable[[Proof], None], description: str | None) -> int:
    """A proof as a program: its arguments, its claims, its exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--models", type=pathlib.Path, required=True, help="made by models.py")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="for logs")
    given = parser.parse_args()
    proof = Proof(runtime, given.models / model, given.work / runtime)
    prove(proof)
    return proof.end()
