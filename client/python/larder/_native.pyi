"""The native half of ``larder``. Import its names from there."""

from array import array
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, final

from typing_extensions import Buffer, Self, Unpack

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
    "Store",
    "Unavailable",
    "__version__",
    "connect",
    "device_count",
]

__version__: str

class _Tensor(Protocol):
    """As torch has it: contiguous, and in the memory of the CPU, or of a device for calls that end
    in ``_device``."""

    def data_ptr(self) -> int: ...
    def is_contiguous(self) -> bool: ...

class _Array(Protocol):
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

class _DeviceArray(Protocol):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...

class _Stream(Protocol):
    """As torch has it."""

    @property
    def cuda_stream(self) -> int: ...

_Name: TypeAlias = bytes | str
# An array has bytes in two dimensions: one key in each row.
_Names: TypeAlias = Iterable[_Name] | memoryview | _Array
# An array has one integer for each key, or a row of them.
_Numbers: TypeAlias = Iterable[int | Sequence[int]] | array[int] | memoryview | _Array
_Memory: TypeAlias = Buffer | _Tensor | _Array
_Aboard: TypeAlias = _Tensor | _DeviceArray
_AboardPiece: TypeAlias = _Aboard | list[Any] | tuple[Any, ...]
_Piece: TypeAlias = _Memory | list[Any] | tuple[Any, ...]
_Path: TypeAlias = Literal["auto", "tcp", "shm", "rdma"]

class _Puts(TypedDict, total=False):
    timeout: float | None
    if_absent: bool
    insist: bool
    metas: Iterable[bytes | None] | None
    ttl: float | list[float | None] | tuple[float | None, ...] | None
    depths: Iterable[int] | None
    tags: Iterable[Iterable[int]] | None
    cost_hints: Iterable[int] | None
    class_hints: Iterable[int] | None
    versions: Iterable[int] | None

class _ShardStats(TypedDict):
    peer: str
    node_id: int
    shard: int
    error: str | None
    counters: dict[str, int]

class _Spec(TypedDict):
    tenant: str
    model: str
    revision: str
    dtype: str
    layout: str
    rank: str
    extra: str
    part_bytes: int

class Error(Exception):
    """What all exceptions of larder are."""

class InvalidArgument(Error):
    """An argument makes no sense or is above its limit. Nothing was sent."""

class Closed(Error):
    """The client or the store was closed."""

class Forked(Error):
    """The process was forked after the client was made. Connect again in the child."""

class Unavailable(Error):
    """No node answered when a client or store was made."""

class Denied(Error):
    """The node does not know us, or does not allow it."""

class Busy(Error):
    """The completions of 4096 jobs of a store were not taken. Take some, then submit again."""

class OsError(Error):
    """The system refused a thread, a descriptor or memory."""

def connect(
    seeds: str | Iterable[str] | None = None,
    *,
    path: _Path = "auto",
    deadline: float = 0.25,
    connect_timeout: float = 1.0,
    name: str = "larder-python",
    credential: bytes | None = None,
    spin: Literal["auto", "off"] | float | None = None,
    rdma_device: str | None = None,
) -> Client: ...
def device_count() -> int: ...
@final
class Client:
    def namespace(
        self,
        tenant: str = "",
        model: str = "",
        revision: str = "",
        dtype: str = "",
        layout: str = "",
        rank: str = "",
        extra: str = "",
        part_bytes: int = 0,
        *,
        threads: int = 1,
    ) -> Store: ...
    def register(
        self, memory: _Memory | int, length: int | None = None, *, keep: object = None
    ) -> Memory: ...
    def register_device(
        self,
        memory: _Aboard | int,
        length: int | None = None,
        *,
        device: int | None = None,
        keep: object = None,
    ) -> DeviceMemory: ...
    def shared_memory(self, length: int) -> Memory: ...
    def stats(self, *, timeout: float | None = None) -> list[_ShardStats]: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
        /,
    ) -> None: ...

@final
class Store:
    @property
    def client(self) -> Client: ...
    @property
    def spec(self) -> _Spec: ...
    @property
    def generation(self) -> int: ...
    @property
    def object_bytes_max(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @staticmethod
    def key(name: _Name) -> bytes: ...
    def bump(self) -> Store: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
        /,
    ) -> None: ...

    # Calls that wait.
    def match(
        self,
        keys: _Names,
        *,
        touch: bool = False,
        with_meta: bool = False,
        timeout: float | None = None,
        kind: int = 0,
        ends_partly: bool = False,
        object_bytes: int = 0,
    ) -> Match: ...
    def batch_exists_prefix(
        self, keys: _Names, *, timeout: float | None = None
    ) -> int: ...
    def touch(self, keys: _Names, *, timeout: float | None = None) -> int: ...
    def get(
        self, keys: _Names, *, timeout: float | None = None
    ) -> list[bytes | None]: ...
    def get_one(self, key: _Name, *, timeout: float | None = None) -> bytes | None: ...
    def get_into(
        self, keys: _Names, buffers: Iterable[_Piece], *, timeout: float | None = None
    ) -> list[int]: ...
    def put(
        self, keys: _Names, buffers: Iterable[_Piece], **options: Unpack[_Puts]
    ) -> list[int]: ...
    def remove(self, keys: _Names, *, timeout: float | None = None) -> list[int]: ...
    def pin(
        self, keys: _Names, seconds: float, *, timeout: float | None = None
    ) -> list[int]: ...
    def lease(
        self, keys: _Names, *, timeout: float | None = None
    ) -> list[Lease | int]: ...

    # The same by address, in registered memory.
    def batch_get_into(
        self,
        keys: _Names,
        ptrs: _Numbers,
        sizes: _Numbers | int,
        *,
        timeout: float | None = None,
    ) -> list[int]: ...
    def batch_put_from(
        self,
        keys: _Names,
        ptrs: _Numbers,
        sizes: _Numbers | int,
        **options: Unpack[_Puts],
    ) -> list[int]: ...

    # In memory of a device.
    def get_device(
        self,
        keys: _Names,
        tensors: Iterable[_AboardPiece],
        *,
        stream: int | _Stream | None = None,
        timeout: float | None = None,
    ) -> list[int]: ...
    def put_device(
        self,
        keys: _Names,
        tensors: Iterable[_AboardPiece],
        *,
        stream: int | _Stream | None = None,
        **options: Unpack[_Puts],
    ) -> list[int]: ...
    def batch_get_device(
        self,
        keys: _Names,
        ptrs: _Numbers,
        sizes: _Numbers | int,
        *,
        stream: int | _Stream | None = None,
        timeout: float | None = None,
    ) -> list[int]: ...
    def batch_put_device(
        self,
        keys: _Names,
        ptrs: _Numbers,
        sizes: _Numbers | int,
        *,
        stream: int | _Stream | None = None,
        **options: Unpack[_Puts],
    ) -> list[int]: ...

    # Jobs.
    def event_fd(self) -> int: ...
    def submit_batch_get(
        self, keys: _Names, buffers: Iterable[_Piece], *, timeout: float | None = None
    ) -> int: ...
    def submit_batch_set(
        self, keys: _Names, buffers: Iterable[_Piece], **options: Unpack[_Puts]
    ) -> int: ...
    def submit_batch_exists(
        self, keys: _Names, *, timeout: float | None = None
    ) -> int: ...
    def submit_batch_delete(
        self, keys: _Names, *, timeout: float | None = None
    ) -> int: ...
    def submit_get_ptrs(
        self,
        keys: _Names,
        ptrs: _Numbers,
        sizes: _Numbers | int,
        *,
        timeout: float | None = None,
    ) -> int: ...
    def submit_put_ptrs(
        self,
        keys: _Names,
        ptrs: _Numbers,
        sizes: _Numbers | int,
        **options: Unpack[_Puts],
    ) -> int: ...
    def drain_completions(self) -> list[tuple[int, bool, str, list[bool] | None]]: ...
    def drain(self) -> list[Completion]: ...
    def wait(self, job: int, timeout: float | None = None) -> Completion | None: ...
    def poll(self, job: int) -> Completion | None: ...
    def cancel(self, job: int) -> bool: ...
    def drain_all(self, timeout: float | None = None) -> bool: ...

@final
class Memory:
    @property
    def address(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def exposed(self) -> bool: ...
    def unregister(self, timeout: float | None = None) -> bool: ...
    def view(self) -> memoryview: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
        /,
    ) -> None: ...

@final
class DeviceMemory:
    @property
    def address(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def device(self) -> int: ...
    def unregister(self, timeout: float | None = None) -> bool: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
        /,
    ) -> None: ...

@final
class Match:
    @property
    def leading(self) -> int: ...
    @property
    def bitmap(self) -> bytes: ...
    @property
    def hits(self) -> list[bool]: ...
    @property
    def wanted(self) -> list[bool]: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def metas(self) -> list[bytes]: ...
    @property
    def statuses(self) -> list[int]: ...
    def __len__(self) -> int: ...

@final
class Completion:
    @property
    def job(self) -> int: ...
    @property
    def op(self) -> Literal["get", "set", "exists", "delete"]: ...
    @property
    def error(self) -> str: ...
    @property
    def statuses(self) -> list[int]: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def ok(self) -> bool: ...
    @property
    def bytes(self) -> int: ...

@final
class Lease:
    @property
    def meta(self) -> bytes: ...
    @property
    def version(self) -> int: ...
    def view(self) -> memoryview: ...
    def verify(self) -> bool: ...
    def close(self) -> None: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
        /,
    ) -> None: ...
