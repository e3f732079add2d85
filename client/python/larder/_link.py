"""An adapter's way to its nodes: made in the background, never waited for inside a step.

What a reader would get wrong: `stores` is None until the first connect worked, which may be never.
Adapters answer "not there" meanwhile. Once it is set it stays, and nodes that go away after that
are the client's affair: it answers with statuses and reconnects by itself.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import larder

PathChoice = Literal["auto", "tcp", "shm"]

# Between two attempts to connect, doubling from the first to the second. Guessed: long enough not
# to matter to a node that is down, short enough that a restarted fleet is warm within seconds.
RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 10.0
# Keys that wait to be touched. More are forgotten: touching is advice.
TOUCHES_MAX = 65_536
# Keys of one touch. Far below what one message may carry.
TOUCH_BATCH_MAX = 4_096


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to reach the nodes.

    Attributes:
        endpoint: "host:port" or "unix:PATH", one or several. None: the environment's LARDER_NODES.
        path: "auto", "tcp" or "shm".
        deadline: of a request that names none, in seconds.
        connect_timeout: of one attempt to connect, in seconds. Also how long an engine's start may
            be held up by nodes that do not answer.
        credential: what the nodes ask for, if anything.
    """

    endpoint: str | Sequence[str] | None = None
    path: PathChoice = "auto"
    deadline: float = 0.25
    connect_timeout: float = 1.0
    credential: bytes = b""


@dataclasses.dataclass(frozen=True)
class Stores:
    """One namespace, opened twice, so that reads do not queue behind writes."""

    reads: larder.Store
    writes: larder.Store

    def both(self) -> tuple[larder.Store, larder.Store]:
        """The one for reading, the one for writing."""
        return (self.reads, self.writes)

    def close(self) -> list[larder.Completion]:
        """Waits until no job is in flight, however long that takes, and closes.

        Returns the completions that nobody had taken. A job ends at its deadline at the latest.
        """
        left = []
        for store in self.both():
            store.drain_all()
            left.extend(store.drain())
            store.close()
        return left


class Link:
    """Connects, opens the namespace, registers memory, and touches keys, all on one thread.

    Args:
        settings: how to reach the nodes.
        namespace: the fields of `larder.Client.namespace`.
        name: what the nodes call this client, at most 64 bytes.
        logger: where to say that nodes came or went.
        memory: (address, length in bytes) to register before anything is read into it.

    Raises:
        ValueError: what was configured cannot be right (seen at the first attempt).
    """

    def __init__(
        self,
        settings: Settings,
        namespace: dict[str, Any],
        *,
        name: str,
        logger: logging.Logger,
        memory: tuple[int, int] | None = None,
    ) -> None:
        self._settings = settings
        self._namespace = namespace
        self._name = name
        self._logger = logger
        self._memory = memory
        self._client: larder.Client | None = None
        self._registration: larder.Memory | None = None
        self._touches: collections.deque[bytes] = collections.deque(maxlen=TOUCHES_MAX)
        self._stores: Stores | None = None
        self._refused: str | None = None
        self._wake = threading.Event()
        self._first = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="larder-link", daemon=True)
        self._thread.start()
        # A node that is there is connected before the first request; one that is not holds up the
        # start by no more than this.
        self._first.wait(settings.connect_timeout + 0.5)
        if self._refused is not None:
            self.close()
            raise ValueError(f"larder: {self._refused}")

    @property
    def stores(self) -> Stores | None:
        """The namespace, or None as long as no node was reached."""
        return self._stores

    def touch(self, keys: Iterable[bytes]) -> None:
        """Marks keys as recently used, some time later. Never blocks, never fails."""
        if self._stores is not None:
            self._touches.extend(keys)
            self._wake.set()

    def reopen(self, namespace: dict[str, Any]) -> Stores | None:
        """Goes over to another namespace, in the background.

        Returns what was open before, for the caller to drain and close. `stores` is None until the
        other one is open.
        """
        before, self._stores = self._stores, None
        self._namespace = namespace
        self._wake.set()
        return before

    def close(self) -> None:
        """Waits for what is in flight, gives back the memory and disconnects. Idempotent."""
        self._closing = True
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        stores, self._stores = self._stores, None
        client, self._client = self._client, None
        if stores is not None:
            stores.close()
        registration, self._registration = self._registration, None
        if registration is not None:
            registration.unregister()
        if client is not None:
            client.close()

    def _run(self) -> None:
        pause = RETRY_SECONDS_MIN
        failed_before = False
        while not self._closing:
            if self._stores is None:
                try:
                    self._stores = self._open()
                    pause = RETRY_SECONDS_MIN
                    self._logger.info("Larder is connected (%s).", self._settings.endpoint)
                except larder.InvalidArgument as e:
                    # No retry makes this right, so an engine's start should not hide it.
                    self._refused = str(e)
                    self._logger.error("Larder stays off: %s", e)
                    self._first.set()
                    return
                except Exception as e:
                    say = self._logger.debug if failed_before else self._logger.warning
                    say("Larder is not reachable, everything is a miss until it is: %s", e)
                    failed_before = True
            self._first.set()
            if self._stores is None:
                self._wake.wait(pause)
                pause = min(pause * 2, RETRY_SECONDS_MAX)
            else:
                self._wake.wait()
            self._wake.clear()
            self._touch_some()

    def _open(self) -> Stores:
        settings = self._settings
        if self._client is None:
            self._client = larder.connect(
                settings.endpoint,
                path=settings.path,
                deadline=settings.deadline,
                connect_timeout=settings.connect_timeout,
                name=self._name,
                credential=settings.credential,
            )
        if self._memory is not None and self._registration is None:
            address, length = self._memory
            self._registration = self._client.register(address, length)
        reads = self._client.namespace(**self._namespace)
        writes = self._client.namespace(**self._namespace)
        return Stores(reads=reads, writes=writes)

    def _touch_some(self) -> None:
        stores = self._stores
        while stores is not None and self._touches and not self._closing:
            batch: dict[bytes, None] = {}
            while self._touches and len(batch) < TOUCH_BATCH_MAX:
                batch[self._touches.popleft()] = None
            try:
                stores.reads.touch(list(batch))
            except larder.Error as e:
                self._logger.debug("Larder could not touch %d keys: %s", len(batch), e)


def fit(text: str, bytes_max: int = 256) -> str:
    """`text` if it fits a namespace field, else its digest: two that differ stay different."""
    if len(text.encode()) <= bytes_max:
        return text
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
