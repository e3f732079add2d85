"""Larder as an L2 adapter of LMCache's multi-process server, type `native_plugin`.

A Store has the methods that LMCache calls under the names that it calls them, so `Client` only
opens one and hands its methods on. One answer differs: LMCache drops *every* hit of a lookup that
is not `ok`, so here a lookup is `ok` if it was answered, not if all was found. LMCache's keys name
model and rank, not weights, dtype or layout, so those belong into `adapter_params`.

    lmcache server … --l2-adapter '{"type": "native_plugin", "module_path": "larder.lmcache",
      "class_name": "Client", "adapter_params": {"endpoint": "127.0.0.1:7400", "revision": "…"}}'
"""

from __future__ import annotations

import functools
import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import Any

import larder
from larder._link import Link, PathChoice, Settings, Stores, positive

__all__ = ["Client"]

logger = logging.getLogger(__name__)

Drained = list[tuple[int, bool, str, "list[bool] | None"]]


class Client:
    """What LMCache's `NativeConnectorL2Adapter` wraps. Usable from any thread.

    Strings and numbers only, as JSON has them; times are in seconds.

    - `endpoint`: `"host:port"` or `"unix:PATH"`, several as a list or with commas between them;
      `LARDER_NODES` if None.
    - `revision`: of the weights, and whatever else an operator changes together with them.
    - `tenant`, `model`, `dtype`, `layout`, `rank`, `extra`: more of what the bytes mean. Servers
      share what agrees in all of them.
    - `lookup_deadline`, `transfer_deadline`: a lookup or removal, and a load or store of a whole
      batch; what is not there by then is a miss.
    - `retry`: how often a node is looked for while there is none. Until then everything is a miss.

    Raises `larder.InvalidArgument` and `larder.Denied`, never `larder.Unavailable`.
    """

    event_fd: Callable[[], int]
    """A descriptor that is readable while completions wait."""
    submit_batch_get: Callable[[Sequence[str], Sequence[Any]], int]
    submit_batch_set: Callable[[Sequence[str], Sequence[Any]], int]
    submit_batch_exists: Callable[[Sequence[str]], int]
    submit_batch_delete: Callable[[Sequence[str]], int]
    drain_completions: Callable[[], Drained]
    """`(job, ok, error or "", one bool per key)` of every job that ended; never blocks."""

    def __init__(
        self,
        endpoint: str | Sequence[str] | None = None,
        *,
        revision: str,
        tenant: str = "",
        model: str = "",
        dtype: str = "",
        layout: str = "",
        rank: str = "",
        extra: str = "",
        path: PathChoice = "auto",
        name: str = "lmcache",
        credential: str = "",
        threads: int = 1,
        connect_timeout: float = 1.0,
        lookup_deadline: float = 0.25,
        transfer_deadline: float = 5.0,
        retry: float = 1.0,
    ) -> None:
        if not revision:
            raise larder.InvalidArgument("revision: which weights? LMCache's keys do not say")
        self._deadlines = (
            positive("lookup_deadline", lookup_deadline),
            positive("transfer_deadline", transfer_deadline),
        )
        self._absent: _Absent | None = None
        self._used = False
        # Around the switch to the store, which the link's thread makes whenever there is one.
        self._lock = threading.Lock()
        self._link = Link(
            Settings(
                endpoint=endpoint,
                path=path,
                deadline=transfer_deadline,
                connect_timeout=connect_timeout,
                credential=credential,
                retry=retry,
            ),
            dict(
                tenant=tenant,
                model=model,
                revision=revision,
                dtype=dtype,
                layout=f"lmcache {layout}".strip(),
                rank=rank,
                extra=extra,
                threads=threads,
            ),
            name=name,
            logger=logger,
            opened=self._opened,
        )
        with self._lock:
            if not self._used:
                self._wait_for_store()

    def close(self) -> None:
        """Closes the store and its connections. What is under way ends as a miss."""
        self._link.close()
        absent, self._absent = self._absent, None
        if absent is not None:
            absent.close()

    def _opened(self, stores: Stores) -> None:
        with self._lock:
            self._used = True
            self._use(stores.reads)

    def _use(self, store: larder.Store) -> None:
        """From now on jobs go to the store."""
        lookup, transfer = self._deadlines
        partial = functools.partial
        if self._absent is None:
            self.event_fd = store.event_fd
            self.drain_completions = store.drain_completions
        else:
            # LMCache asked for the descriptor once, so it has to stay the one it got.
            self._absent.forward(store)
        self.submit_batch_get = partial(store.submit_batch_get, timeout=transfer)
        self.submit_batch_set = partial(store.submit_batch_set, timeout=transfer)
        self.submit_batch_exists = partial(store.submit_batch_exists, timeout=lookup)
        self.submit_batch_delete = partial(store.submit_batch_delete, timeout=lookup)

    def _wait_for_store(self) -> None:
        absent = self._absent = _Absent()
        self.event_fd = absent.event_fd
        self.drain_completions = absent.drain_completions
        self.submit_batch_get = self.submit_batch_set = absent.submit
        self.submit_batch_exists = self.submit_batch_delete = absent.submit


class _Absent:
    """Stands in while there is no store: every job ends at once, as a miss of every key.

    Its jobs are numbered downwards from -1, so they are never taken for the store's. Its descriptor
    also tells of the store that `forward` is given.
    """

    def __init__(self) -> None:
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._ready, select.EPOLLIN)
        self._lock = threading.Lock()
        self._ended: Drained = []
        self._next = -1
        self._store: larder.Store | None = None

    def event_fd(self) -> int:
        return self._poll.fileno()

    def submit(self, keys: Sequence[str], buffers: Sequence[Any] = ()) -> int:
        with self._lock:
            job = self._next
            self._next -= 1
            self._ended.append((job, False, NO_NODE, [False] * len(keys)))
            os.eventfd_write(self._ready, 1)
        return job

    def forward(self, store: larder.Store) -> None:
        self._store = store
        self._poll.register(store.event_fd(), select.EPOLLIN)

    def drain_completions(self) -> Drained:
        with self._lock:
            ended, self._ended = self._ended, []
            if ended:
                os.eventfd_read(self._ready)
        return ended + self._store.drain_completions() if self._store else ended

    def close(self) -> None:
        self._poll.close()
        os.close(self._ready)


# What LMCache logs of a job that ended at once.
NO_NODE = "larder: no node was reached yet"
