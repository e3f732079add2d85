"""Memory of one host that a scheduler fills and its workers read: encoder outputs before their use.

One file in /dev/shm, mapped by the scheduler and by every worker, unlinked once all have it, so a
killed engine leaves nothing behind. What a reader would get wrong: an item is in use until every
worker has said so in its own slot of the header; vLLM reports nothing back from ranks other than 0.
"""

# numpy is not there where this is checked.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os

import numpy as np


class Staging:
    """The mapping, and who has got how far.

    Args:
        name: of the file, the same in all processes of an engine and in no other engine.
        length: bytes for items.
        ranks: how many workers will attach.

    Raises:
        ValueError: more workers than slots.
        OSError: no such memory on this host.
    """

    def __init__(self, name: str, length: int, ranks: int) -> None:
        if not 0 < ranks <= RANKS_MAX:
            raise ValueError(f"larder: {ranks} workers, staged outputs are for 1 to {RANKS_MAX}")
        self.path = f"/dev/shm/{name}"
        self.length = length
        total = HEADER_BYTES + length
        fd = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                raise PermissionError(f"{self.path} belongs to somebody else")
            # All pages now: with /dev/shm full, a write to one that is missing kills the process.
            os.posix_fallocate(fd, 0, total)
            self.map = mmap.mmap(fd, total)
        finally:
            os.close(fd)
        self._slots = np.frombuffer(self.map, dtype=np.uint64, count=ranks)

    @property
    def address(self) -> int:
        """Of the items; constant."""
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        return start + HEADER_BYTES

    def attach(self, rank: int) -> None:
        """Says that this worker can read what is staged."""
        self._slots[rank] = 1

    def done(self, rank: int, number: int) -> None:
        """Says that this worker has copied everything up to load `number` (from 1)."""
        self._slots[rank] = number + 1

    def done_by_all(self) -> int:
        """The last load that every worker has copied; -1 if not all have attached."""
        return int(self._slots.min()) - 1

    def unlink(self) -> None:
        """Takes the name away; whoever has the memory keeps it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        """Unmaps, unless somebody still holds a view of it."""
        del self._slots
        with contextlib.suppress(BufferError):
            self.map.close()


class Room:
    """Which bytes of a length are free. First fit; free neighbours are joined."""

    def __init__(self, length: int) -> None:
        self._free: list[tuple[int, int]] = [(0, length - length % ALIGN_BYTES)]

    def take(self, length: int) -> int | None:
        """The offset of `length` bytes that are now taken, or None if no hole is long enough."""
        length = aligned(length)
        for i, (start, size) in enumerate(self._free):
            if size >= length:
                if size == length:
                    del self._free[i]
                else:
                    self._free[i] = (start + length, size - length)
                return start
        return None

    def give(self, offset: int, length: int) -> None:
        """Frees what `take` gave."""
        self._free.append((offset, aligned(length)))
        self._free.sort()
        joined: list[tuple[int, int]] = []
        for start, size in self._free:
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((start, size))
        self._free = joined


def aligned(length: int) -> int:
    """`length` rounded up to what items take, never 0."""
    return max(ALIGN_BYTES, -(-length // ALIGN_BYTES) * ALIGN_BYTES)


# One slot of 8 bytes per worker.
HEADER_BYTES = 4096
RANKS_MAX = HEADER_BYTES // 8
# Of items, so that any dtype may be read in place.
ALIGN_BYTES = 64
