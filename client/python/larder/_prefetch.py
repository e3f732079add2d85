"""Fetches objects into staged memory ahead of their use, and knows which lie there.

What a reader would get wrong: `ready` says "do not wait", not "there". What is there is what
`holds` says, and having said so it keeps the bytes until the workers have copied them, or until the
step in which it was asked is over without a use.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import logging
import queue
import threading
import time
from collections.abc import Callable

import larder
from larder._link import Link
from larder._staging import Room, Staging


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An item that a request needs, and how many rows it must have to be of use."""

    identifier: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Item:
    """An item in staged memory: `length` bytes at `offset`."""

    identifier: str
    offset: int
    length: int
    shape: tuple[int, int]
    dtype: str


class _State(enum.Enum):
    COMING = enum.auto()
    THERE = enum.auto()
    ABSENT = enum.auto()


@dataclasses.dataclass
class _Entry:
    state: _State
    # COMING: nobody waits after this. ABSENT: the nodes are asked again after this.
    until: float
    item: Item | None = None
    # The last load that uses it, and the last step that was told of it.
    load: int = 0
    step: int = -1


class Prefetch:
    """Owned by a scheduler; one thread of its own talks to the nodes.

    Args:
        link: whose registered memory is the staging's.
        staging: where items go.
        shape_of: (metadata, length) to (shape, dtype's name), or None for an object to leave alone.
        timeout: seconds, of asking and of fetching each.
        logger: where to say what went wrong.
    """

    def __init__(
        self,
        link: Link,
        staging: Staging,
        shape_of: Callable[[bytes, int], tuple[tuple[int, int], str] | None],
        timeout: float,
        logger: logging.Logger,
    ) -> None:
        self._link = link
        self._staging = staging
        self._shape_of = shape_of
        self._timeout = timeout
        self._logger = logger
        # In order of use, oldest first.
        self._entries: collections.OrderedDict[str, _Entry] = collections.OrderedDict()
        self._room = Room(staging.length)
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
        self._coming = 0
        self._step = 0
        self._load = 0
        self._loads: dict[str, Item] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._thread = threading.Thread(target=self._run, name="larder-prefetch", daemon=True)
        self._thread.start()

    def ready(self, wanted: Wanted) -> bool:
        """False while the item is on its way. The first call has it fetched."""
        entry = self._entries.get(wanted.identifier)
        if entry is not None:
            if entry.state is _State.THERE:
                return True
            now = time.monotonic()
            if entry.state is _State.COMING:
                return now > entry.until
            if now < entry.until:
                return True
        if self._link.stores is None:
            return True
        with self._lock:
            if self._coming >= FETCHES_MAX:
                return True
            self._coming += 1
            until = time.monotonic() + 2 * self._timeout
            self._entries[wanted.identifier] = _Entry(_State.COMING, until)
        self._asked.put(wanted)
        return False

    def holds(self, identifier: str) -> bool:
        """Whether the item is in memory, where it then stays for this step at least."""
        with self._lock:
            entry = self._entries.get(identifier)
            if entry is None or entry.state is not _State.THERE:
                return False
            entry.step = self._step
            self._entries.move_to_end(identifier)
            return True

    def use(self, identifier: str) -> None:
        """Has the item loaded by this step's workers, if this step was told that it is there."""
        with self._lock:
            entry = self._entries.get(identifier)
            if entry is not None and entry.item is not None and entry.step == self._step:
                entry.load = self._load + 1
                self._loads[identifier] = entry.item

    def take_loads(self) -> tuple[int, list[Item]]:
        """Ends a step: its load's number, and what to load (nothing: number 0)."""
        with self._lock:
            self._step += 1
            if not self._loads:
                return 0, []
            self._load += 1
            items = list(self._loads.values())
            self._loads = {}
            self._counts["loaded"] += len(items)
            self._counts["loaded_bytes"] += sum(item.length for item in items)
            return self._load, items

    def take_counts(self) -> dict[str, int]:
        """Counts since the last call: loaded, loaded_bytes, staged, absent."""
        with self._lock:
            counts, self._counts = dict(self._counts), collections.Counter()
        return counts

    def close(self) -> None:
        """Waits for the fetch that is under way."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            wanted = [self._asked.get()]
            while not self._asked.empty():
                wanted.append(self._asked.get())
            batch = {w.identifier: w for w in wanted if w is not None}
            found: dict[str, Item] = {}
            try:
                if batch:
                    found = self._fetch(batch)
            except Exception as e:
                self._logger.warning("Larder could not fetch encoder outputs: %s", e)
            self._settle(batch, found)
            if None in wanted:
                return

    def _fetch(self, batch: dict[str, Wanted]) -> dict[str, Item]:
        """Asks for a batch, makes room, fetches. Whatever is in doubt is left out."""
        stores = self._link.stores
        if stores is None:
            return {}
        names = list(batch)
        match = stores.reads.match(names, touch=True, with_meta=True, timeout=self._timeout)
        items: list[Item] = []
        for name, hit, size, meta in zip(names, match.hits, match.sizes, match.metas):
            shape = self._shape_of(meta, size) if hit else None
            # Another number of rows would not fit the places that the prompt has for them.
            if shape is None or shape[0][0] != batch[name].rows:
                continue
            offset = self._make_room(size)
            if offset is not None:
                items.append(Item(name, offset, size, *shape))
        if not items:
            return {}
        try:
            took = stores.reads.batch_get_into(
                [item.identifier for item in items],
                [self._staging.address + item.offset for item in items],
                [item.length for item in items],
                timeout=self._timeout,
            )
        except larder.Error:
            self._give_back(items)
            raise
        came = {i.identifier: i for i, size in zip(items, took) if size == i.length}
        self._give_back([item for item in items if item.identifier not in came])
        return came

    def _settle(self, batch: dict[str, Wanted], found: dict[str, Item]) -> None:
        """Publishes the verdicts of a batch."""
        until = time.monotonic() + ABSENT_SECONDS
        with self._lock:
            for name in batch:
                self._coming -= 1
                item = found.get(name)
                if item is None:
                    self._entries[name] = _Entry(_State.ABSENT, until)
                    self._counts["absent"] += 1
                else:
                    self._entries[name] = _Entry(_State.THERE, 0.0, item)
                    self._counts["staged"] += 1
            self._forget()

    def _forget(self) -> None:
        """Drops verdicts that are too old to be believed."""
        now = time.monotonic()
        old = [n for n, e in self._entries.items() if e.state is _State.ABSENT and e.until < now]
        for name in old:
            del self._entries[name]

    def _make_room(self, length: int) -> int | None:
        """Room for `length` bytes, by dropping what was not used for longest."""
        with self._lock:
            offset = self._room.take(length)
            if offset is not None:
                return offset
            done = self._staging.done_by_all()
            for name in list(self._entries):
                entry = self._entries[name]
                if entry.item is None or entry.load > done or entry.step == self._step:
                    continue
                del self._entries[name]
                self._room.give(entry.item.offset, entry.item.length)
                offset = self._room.take(length)
                if offset is not None:
                    return offset
        return None

    def _give_back(self, items: list[Item]) -> None:
        with self._lock:
            for item in items:
                self._room.give(item.offset, item.length)


# How long "not there" is believed before the nodes are asked again. Guessed: longer than a request
# takes from being asked about to its encoder, shorter than anybody would notice.
ABSENT_SECONDS = 5.0
# Items that are waited for at the same time. More are not prefetched.
FETCHES_MAX = 1024
