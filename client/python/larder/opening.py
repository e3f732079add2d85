"""A store that may not be reachable yet: an engine must start, and serve, while its cache is down.

Only the first attempt is made in the caller's thread, and only `larder.Unavailable` is tried again:
a wrong argument or a refused credential is the operator's to see, so it is raised there, or logged
and final if it comes later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import larder

__all__ = ["Opening"]

logger = logging.getLogger(__name__)


class Opening:
    """Calls `open_store` now and, after `keep_trying`, every `retry` seconds until it succeeds.

    `store` is None until then. `opened`, if given, is called with the store just before that is
    set, in whichever thread it was.
    """

    def __init__(
        self,
        open_store: Callable[[], larder.Store],
        *,
        retry: float = 1.0,
        opened: Callable[[larder.Store], None] | None = None,
    ) -> None:
        self.store: larder.Store | None = None
        self._open_store = open_store
        self._opened = opened
        self._retry = retry
        self._closed = threading.Event()
        self._lock = threading.Lock()
        try:
            self._attempt()
        except larder.Unavailable as error:
            logger.warning("larder: no node yet, everything is a miss until there is: %s", error)

    def keep_trying(self) -> None:
        """Starts the thread that tries again, if there is no store. Once only."""
        if self.store is None:
            threading.Thread(target=self._try_again, name="larder-opening", daemon=True).start()

    def replace(self, store: larder.Store) -> None:
        """Goes on with another store of the same client; calls under way end with the old one."""
        with self._lock:
            if not self._closed.is_set():
                self.store = store

    def close(self) -> None:
        """Ends the attempts and closes the store, if there is one, with its client."""
        self._closed.set()
        with self._lock:
            store, self.store = self.store, None
        if store is not None:
            _close(store)

    def _attempt(self) -> None:
        store = self._open_store()
        with self._lock:
            if not self._closed.is_set():
                if self._opened is not None:
                    self._opened(store)
                self.store = store
                return
        _close(store)

    def _try_again(self) -> None:
        while not self._closed.wait(self._retry):
            try:
                self._attempt()
            except larder.Unavailable:
                continue
            except larder.Error:
                logger.exception("larder: gave up, everything stays a miss")
                return
            logger.info("larder: reached a node")
            return


def _close(store: larder.Store) -> None:
    client = store.client
    store.close()
    client.close()
