"""Adapters with a fault or a recorder built in, for the proofs; configured in the adapters' places.

What a reader would get wrong: these run inside vLLM's engine. What they learn leaves by the file
that PROOF_RECORD names, one JSON line an event; which fault they cause next is in the file that
PROOF_FAULT_FILE names.

Faults: "kill" (the node PROOF_NODE_PID is killed between lookup and load), "remove" (one key of the
first load is removed from the nodes between lookup and load), "" (none).
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import Any

import torch

import larder
from larder import _prefetch
from larder.vllm_ec import LarderEncoderCache
from larder.vllm_tier import LarderTier

_lock = threading.Lock()


def record(event: str, **fields: Any) -> None:
    """Appends a line for the driver."""
    with _lock, open(os.environ["PROOF_RECORD"], "a") as file:
        file.write(json.dumps({"event": event, **fields}) + "\n")


def fault() -> str:
    """The fault to cause next; a file can name it, so that it can change while the engine runs."""
    path = os.environ.get("PROOF_FAULT_FILE")
    if path and os.path.exists(path):
        return open(path).read().strip()
    return ""


def clear_fault() -> None:
    os.unlink(os.environ["PROOF_FAULT_FILE"])


def kill_node() -> None:
    pid = int(os.environ["PROOF_NODE_PID"])
    os.kill(pid, signal.SIGKILL)
    # Gone means that its sockets are closed, not that the signal was sent.
    for _ in range(200):
        try:
            state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            break
        if state in "ZX":
            break
        time.sleep(0.01)
    record("killed", pid=pid)


class RecordingTier(LarderTier):
    """Tells the driver the namespace and every key, and how long the scheduler was held up."""

    # Methods that run on the scheduler's thread while it serves.
    TIMED = (
        "lookup",
        "submit_load",
        "submit_store",
        "get_finished_jobs",
        "on_schedule_end",
        "on_request_finished",
        "on_new_request",
        "touch",
        "take_events",
        "get_stats",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        began = time.monotonic()
        super().__init__(*args, **kwargs)
        record("tier", seconds=time.monotonic() - began, namespace=self._namespace)
        self._held_up = 0.0
        self._longest = 0.0
        for name in self.TIMED:
            setattr(self, name, self._timed(getattr(self, name)))

    def _timed(self, method: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            clock = time.monotonic()
            try:
                return method(*args, **kwargs)
            finally:
                self._held_up += time.thread_time() - began
                self._longest = max(self._longest, time.monotonic() - clock)

        return timed

    def submit_load(self, job_metadata: Any) -> None:
        keys = [bytes(key) for key in job_metadata.keys]
        record("load", keys=[key.hex() for key in keys])
        if fault() == "kill":
            clear_fault()
            kill_node()
        elif fault() == "remove":
            clear_fault()
            # Not the last: those behind it came and must not be used without it.
            victim = keys[len(keys) // 2]
            with larder.connect(os.environ["PROOF_ENDPOINT"]) as client:
                client.namespace(**self._namespace).remove([victim])
            record("removed", key=victim.hex())
        super().submit_load(job_metadata)

    def submit_store(self, job_metadata: Any) -> None:
        record("store", keys=[bytes(key).hex() for key in job_metadata.keys])
        super().submit_store(job_metadata)

    def get_finished_jobs(self) -> Any:
        results = list(super().get_finished_jobs())
        for result in results:
            came = result.successful_keys
            record(
                "finished",
                job=result.job_id,
                success=result.success,
                came=None if came is None else len(came),
                bytes=result.transfer_bytes,
            )
        return results

    def take_events(self) -> Any:
        events = list(super().take_events())
        for event in events:
            record("kv", removed=event.removed, keys=len(event.keys), locality=str(event.locality))
        return events

    def shutdown(self) -> None:
        record("lookups", **self._lookups._counted)
        record("held_up", cpu_seconds=self._held_up, longest=self._longest)
        super().shutdown()


class RecordingEncoderCache(LarderEncoderCache):
    """Tells the driver identifiers, and loads; kills the node between asking and fetching."""

    def __init__(self, vllm_config: Any, role: Any) -> None:
        super().__init__(vllm_config, role)
        if self._scheduler is not None:
            record("ec", namespace=_ec_namespace(vllm_config))
            fetch_through_fault(self._scheduler.prefetch)

    def save_caches(self, encoder_cache: dict[str, torch.Tensor], mm_hash: str, **kw: Any) -> None:
        tensor = encoder_cache[mm_hash]
        record("encoded", identifier=mm_hash, shape=list(tensor.shape), bytes=tensor.nbytes)
        super().save_caches(encoder_cache, mm_hash, **kw)

    def start_load_caches(self, encoder_cache: dict[str, torch.Tensor], **kw: Any) -> None:
        before = set(encoder_cache)
        super().start_load_caches(encoder_cache, **kw)
        for identifier in set(encoder_cache) - before:
            record("loaded", identifier=identifier)


def _ec_namespace(vllm_config: Any) -> dict[str, Any]:
    from larder.vllm_namespace import encoder_namespace

    extra = vllm_config.ec_transfer_config.ec_connector_extra_config
    return encoder_namespace(vllm_config, dict(extra))


def fetch_through_fault(prefetch: _prefetch.Prefetch) -> None:
    """Puts the fault where it hurts: after the nodes said that an item is there."""
    shape_of = prefetch._shape_of

    def shape_of_then_fault(meta: bytes, length: int) -> Any:
        shape = shape_of(meta, length)
        if shape is not None and fault() == "kill":
            clear_fault()
            kill_node()
        return shape

    prefetch._shape_of = shape_of_then_fault
