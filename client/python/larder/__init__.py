"""Client of Larder, a distributed cache tier for inference state.

    import larder

    with larder.connect("127.0.0.1:7400") as client:
        store = client.namespace(tenant="acme", model="llama-3-8b")
        store.put([b"chain-0"], [b"some bytes"])
        store.get([b"chain-0"])            # [b"some bytes"]

To import this starts nothing: no thread, no socket, no file. What is not there, or cannot be asked
about in time, is a :class:`Status`, never an exception.
"""

from enum import IntEnum

from ._native import (
    Busy,
    Client,
    Closed,
    Completion,
    Denied,
    DeviceMemory,
    Error,
    Forked,
    InvalidArgument,
    Lease,
    Match,
    Memory,
    OsError,
    Store,
    Unavailable,
    __version__,
    connect,
    device_count,
)


class Status(IntEnum):
    """What is said of one key. Everything below 0 means: not read, or not stored."""

    OK = 0
    """Read, stored, there, or removed."""
    MISS = -1
    """Not there, for whatever reason has no name of its own."""
    MISS_SIZE = -2
    """There, but longer than the memory given for it."""
    CORRUPT = -3
    """Its bytes did not have their checksum."""
    STALE = -4
    """The namespace has moved on to another generation: ask for it again."""
    EXISTS = -5
    """Not stored: it is there already, and the put said ``if_absent``."""
    OLDER_VERSION = -6
    """Not stored: a newer version is there."""
    BUSY = -7
    """Too much is under way on the node; later it may work."""
    NO_ROOM = -8
    """Not stored: no room could be made."""
    TOO_LARGE = -9
    """Not stored: longer than the node can hold."""
    DEADLINE = -10
    """The deadline passed first."""
    UNAVAILABLE = -11
    """The node that has the key could not be asked."""
    CANCELLED = -12
    """The job was cancelled first."""
    CLOSED = -13
    """The client was closed first."""
    DENIED = -14
    """The node does not allow it."""
    REFUSED = -15
    """The node refused it for another reason."""
    NOT_WANTED = -19
    """Not stored: the node expects no reader for it. Nothing is wrong."""


__all__ = [
    "Busy",
    "Client",
    "Closed",
    "Completion",
    "Denied",
    "DeviceMemory",
    "Error",
    "Forked",
    "InvalidArgument",
    "Lease",
    "Match",
    "Memory",
    "OsError",
    "Status",
    "Store",
    "Unavailable",
    "__version__",
    "connect",
    "device_count",
]
