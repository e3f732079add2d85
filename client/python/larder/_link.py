"""An adapter's way to its nodes: an engine must start, and serve, while its cache is down.

What a reader would get wrong: `stores` is None until the first connect worked, which may be never.
Adapters answer "not there" meanwhile. Once it is set it stays, and nodes that go away after that
are the client's affair: it answers with statuses and reconnects by itself.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import larder

PathChoice = Literal["auto", "tcp", "shm", "rdma"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to reach the nodes. Times are in seconds. Raises `larder.InvalidArgument`.

    Attributes:
        endpoint: "host:port" or "unix:PATH", several as a list or with commas between them. None:
            the environment's LARDER_NODES.
        path: "auto", "tcp", "shm" or "rdma".
        deadline: of a request that names none.
        connect_timeout: of one attempt to connect. Also how long an engine's start may be held up
            by nodes that do not answer.
        credential: what the nodes ask for, if anything (UTF-8).
        retry: between two attempts while no node was reached.
    """

    endpoint: str | Sequence[str] | None = None
    path: PathChoice = "auto"
    deadline: float = 0.25
    connect_timeout: float = 1.0
    credential: str = ""
    # Guessed: no load on a node that comes back, and engines are warm again within a second.
    retry: float = 1.0

    def __post_init__(self) -> None:
        for name in ("deadline", "connect_timeout", "retry"):
            positive(name, getattr(self, name))

    def seeds(self) -> Sequence[str] | None:
        """The endpoints, one by one, as `larder.connect` takes them."""
        if isinstance(self.endpoint, str):
            return [seed.strip() for seed in self.endpoint.split(",")]
        return self.endpoint

    @classmethod
    def of(cls, options: Mapping[str, Any], deadline: float) -> Settings:
        """From options as JSON has them. Raises `larder.InvalidArgument` that names a bad one."""
        return cls(
            endpoint=options.get("endpoint"),
            path=options.get("path", cls.path),
            deadline=deadline,
            connect_timeout=number(options, "connect_timeout", cls.connect_timeout),
            credential=str(options.get("credential", cls.credential)),
            retry=number(options, "retry", cls.retry),
        )


@dataclasses.dataclass(frozen=True)
class Stores:
    """One namespace; opened twice if jobs that read shall not queue behind jobs that write."""

    reads: larder.Store
    writes: larder.Store

    def each(self) -> tuple[larder.Store, ...]:
        """Every store once."""
        return (self.reads,) if self.reads is self.writes else (self.reads, self.writes)

    def close(self) -> None:
        """Closes them; what is under way is cancelled and waited for."""
        for store in self.each():
            store.close()


class Link:
    """Connects, registers memory, opens the namespace and touches keys, all on one thread.

    The first attempt is waited for, half a second longer than `connect_timeout` at most. Whatever
    no other attempt would change ends them: a wrong argument or a refused credential is the
    operator's to see, so it is raised here, or logged if it comes later.

    Args:
        settings: how to reach the nodes.
        namespace: the arguments of `larder.Client.namespace`.
        name: what the nodes call this client, at most 64 bytes.
        logger: where to say that nodes came or went.
        memory: to register before anything is read into it: arguments of `larder.Client.register`.
        apart: open the namespace twice, for jobs that read and jobs that write.
        opened: called with the stores on the link's thread, just before `stores` is set.

    Raises:
        larder.InvalidArgument, larder.Denied, TypeError: as the client raised it.
    """

    def __init__(
        self,
        settings: Settings,
        namespace: Mapping[str, Any],
        *,
        name: str,
        logger: logging.Logger,
        memory: Iterable[tuple[Any, ...]] = (),
        apart: bool = False,
        opened: Callable[[Stores], None] = lambda stores: None,
    ) -> None:
        self._settings = settings
        self._namespace = namespace
        self._name = name
        self._logger = logger
        self._memory = tuple(memory)
        self._apart = apart
        self._opened = opened
        self._client: larder.Client | None = None
        self._registered: list[larder.Memory] = []
        self._touches: collections.deque[bytes] = collections.deque(maxlen=TOUCHES_MAX)
        self._stores: Stores | None = None
        self._refused: Exception | None = None
        # What is open must be of the namespace that is wanted: both change under this.
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._first = threading.Event()
        self._closing = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="larder-link", daemon=True)
        self._thread.start()
        # A node that is there is connected before the first request; one that is not holds up the
        # start by no more than this.
        self._first.wait(settings.connect_timeout + 0.5)
        if self._refused is not None:
            self.close()
            raise self._refused

    @property
    def stores(self) -> Stores | None:
        """The namespace, or None as long as no node was reached. Raises `larder.Forked`."""
        self._check_process()
        return self._stores

    def touch(self, keys: Iterable[bytes]) -> None:
        """Marks keys as recently used, some time later, if there are nodes. Never blocks."""
        if self.stores is not None:
            self._touches.extend(keys)
            self._wake.set()

    def replace(self, stores: Stores) -> None:
        """Goes on with others of the same client; calls under way end with those there were."""
        self._check_process()
        with self._lock:
            if not self._closing:
                self._stores = stores

    def reopen(self, namespace: Mapping[str, Any]) -> Stores | None:
        """Goes over to another namespace, in the background.

        Returns what was open before, for the caller to drain and close. `stores` is None until the
        other one is open.
        """
        self._check_process()
        with self._lock:
            before, self._stores = self._stores, None
            self._namespace = namespace
        self._wake.set()
        return before

    def close(self) -> None:
        """Waits until nothing uses the memory, cancels what else is under way, and disconnects.

        Afterwards `stores` is None. Idempotent. Raises `larder.Forked`.
        """
        # In a forked child there is no thread, and its locks may be held for ever.
        self._check_process()
        with self._lock:
            self._closing = True
            stores, self._stores = self._stores, None
        self._wake.set()
        self._thread.join()
        client, self._client = self._client, None
        for memory in self._registered:
            memory.unregister()
        if stores is not None:
            stores.close()
        if client is not None:
            client.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise larder.Forked("an adapter of larder cannot be used in a forked child")

    def _run(self) -> None:
        said = False
        while not self._closing:
            if self._stores is None:
                try:
                    self._open()
                except (larder.Unavailable, larder.OsError) as e:
                    say = self._logger.debug if said else self._logger.warning
                    say("Larder is not reachable, everything is a miss until it is: %s", e)
                    said = True
                except Exception as e:
                    self._logger.error("Larder stays off, everything is a miss: %s", e)
                    self._refused = e
                    self._first.set()
                    return
            self._first.set()
            self._wake.wait(self._settings.retry if self._stores is None else None)
            self._wake.clear()
            self._touch_some()

    def _open(self) -> None:
        settings = self._settings
        if self._client is None:
            self._client = larder.connect(
                settings.seeds(),
                path=settings.path,
                deadline=settings.deadline,
                connect_timeout=settings.connect_timeout,
                name=self._name,
                credential=settings.credential.encode(),
            )
        if not self._registered:
            self._registered = [self._client.register(*memory) for memory in self._memory]
        namespace = self._namespace
        reads = self._client.namespace(**namespace)
        writes = self._client.namespace(**namespace) if self._apart else reads
        stores = Stores(reads=reads, writes=writes)
        self._opened(stores)
        with self._lock:
            # `reopen` may have come meanwhile: then nothing of this namespace may be used again.
            wanted = self._namespace is namespace and not self._closing
            if wanted:
                self._stores = stores
        if wanted:
            self._logger.info("Larder is connected (%s).", settings.endpoint)
        else:
            stores.close()

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


def number(options: Mapping[str, Any], name: str, default: float) -> float:
    """A number above 0 among options as JSON has them. Raises as `positive` does."""
    return positive(name, options.get(name, default))


def positive(name: str, given: Any) -> float:
    """`given` as a number above 0. Raises `larder.InvalidArgument` that says which is none."""
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < math.inf:
        raise larder.InvalidArgument(f"{name}: {given!r} is not a number above 0")
    return value


# Keys that wait to be touched. More are forgotten: touching is advice.
TOUCHES_MAX = 65_536
# Keys of one touch. Far below what one message may carry.
TOUCH_BATCH_MAX = 4_096
