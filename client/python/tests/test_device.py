"""Memory of devices. Without one, what is taken for a tensor and what is refused.

What a reader would get wrong: with the stand-in driver of `gpu-bridge/stand_in` all of it runs on
any machine, in a package that was built with the feature `cuda`.
"""

import ctypes
import gc
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import larder
from larder import InvalidArgument, Status

DEVICES = larder.device_count()
needs_gpu = pytest.mark.skipif(DEVICES == 0, reason="needs an NVIDIA GPU")


class Tensor:
    """As torch has it."""

    def __init__(self, address: int, nbytes: int, device: str = "cuda", **odd: Any) -> None:
        self.address, self.nbytes, self.odd = address, nbytes, odd
        self.device = types.SimpleNamespace(type=device, index=0)

    def data_ptr(self) -> int:
        return self.address

    def is_contiguous(self) -> bool:
        return not self.odd.get("is_strided", False)

    def is_conj(self) -> bool:
        return bool(self.odd.get("is_conj", False))


class Array:
    """As cupy, numba and others describe theirs."""

    def __init__(self, address: int, shape: tuple[int, ...], **more: Any) -> None:
        told = {"data": (address, False), "shape": shape, "typestr": "<f2", "version": 3}
        self.__cuda_array_interface__ = {**told, **more}


class Driver:
    """Memory and streams, by the driver itself."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxPushCurrent_v2", context)

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        assert code == 0, (name, code)

    def allocate(self, data: bytes) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(len(data)))
        self.write(address.value, data)
        return address.value

    def write(self, address: int, data: bytes) -> None:
        length = ctypes.c_size_t(len(data))
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data, length)
        # It may return when the data was read. 1 is the default stream.
        self.finish(1)

    def fill(self, address: int, value: int, length: int, stream: int) -> None:
        """Sometime, on that stream."""
        target, count = ctypes.c_uint64(address), ctypes.c_size_t(length)
        self.call("cuMemsetD8Async", target, ctypes.c_ubyte(value), count, ctypes.c_void_p(stream))

    def read(self, address: int, length: int) -> bytes:
        data = ctypes.create_string_buffer(length)
        self.call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address), ctypes.c_size_t(length))
        return data.raw

    def stream(self) -> int:
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), 1)
        assert stream.value is not None
        return stream.value

    def finish(self, stream: int) -> None:
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def test_what_is_no_device_memory_is_refused_by_name(tcp_client: larder.Client) -> None:
    store = tcp_client.namespace(tenant="tests", model="device")

    def refused(memory: Any, why: str, *arguments: Any) -> None:
        with pytest.raises(InvalidArgument, match=why):
            tcp_client.register_device(memory, *arguments)
        if not arguments and not isinstance(memory, int):
            for call in (store.get_device, store.put_device):
                with pytest.raises(InvalidArgument, match=rf"tensors\[0\]: {why}"):
                    call(["a"], [memory])

    refused(Tensor(4096, 64, "cpu"), r"is in the memory of the host \(cpu\)")
    refused(Tensor(4096, 64, "xpu"), r"is in the memory of a device \(xpu\)")
    refused(Tensor(4096, 64, is_strided=True), "is not contiguous")
    refused(Tensor(4096, 64, is_conj=True), "is a lazy conjugate")
    refused(Tensor(0, 64), "has a shape but no memory")
    refused(Array(4096, (4, 4), strides=(16, 2)), "is not contiguous")
    refused(Array(4096, (4, 4), typestr="|O8"), "holds references to objects")
    refused(np.zeros(64), "no tensor or array of a device, but")
    refused(bytearray(64), "no tensor or array of a device, but")
    refused(Tensor(4096, 64), "65 of 64 bytes", 65)
    refused(4096, "an address needs one")
    refused(-1, "no address", 64)
    with pytest.raises(InvalidArgument, match="is read-only"):
        store.get_device(["a"], [Array(4096, (4, 4), data=(4096, True))])
    with pytest.raises(InvalidArgument, match=r"is in the memory of a device \(cuda\)"):
        tcp_client.register(Tensor(4096, 64))


def is_built_for_devices(client: larder.Client) -> bool:
    if DEVICES > 0:
        return True
    with pytest.raises((InvalidArgument, larder.OsError)) as refused:
        client.register_device(4096, 64)
    return "without the feature cuda" not in str(refused.value)


def test_what_is_not_registered_is_refused_by_name(tcp_client: larder.Client) -> None:
    store = tcp_client.namespace(tenant="tests", model="device")
    why = r"\[1\]\[0\]: 100 bytes at 0x2000 are no registered memory of a device"
    for call in (store.get_device, store.put_device):
        with pytest.raises(InvalidArgument, match=why):
            call(["a", "b"], [[], [Tensor(0x2000, 100), Array(0x9000, (4,))]])
    for call in (store.batch_get_device, store.batch_put_device):
        with pytest.raises(InvalidArgument, match=why.replace("1", "0", 1)):
            call(["a"], [0x2000], [100])
    with pytest.raises(InvalidArgument, match="overlap"):
        store.get_device(["a", "b"], [Tensor(0x2000, 100), Tensor(0x2040, 100)])
    for call in (store.get_device, store.put_device):
        if is_built_for_devices(tcp_client):
            assert call([], []) == []
        else:
            with pytest.raises(InvalidArgument, match="without the feature cuda"):
                call([], [])


@pytest.mark.skipif(DEVICES > 0, reason="there is a device")
def test_without_a_device_registration_says_what_is_missing(tcp_client: larder.Client) -> None:
    wanted = "without the feature cuda|no NVIDIA driver is installed|no device of this number"
    for memory in (Tensor(4096, 64), Array(4096, (4, 8))):
        with pytest.raises((InvalidArgument, larder.OsError), match=wanted):
            tcp_client.register_device(memory)
    with pytest.raises((InvalidArgument, larder.OsError), match=wanted):
        tcp_client.register_device(4096, 64, device=1)


def test_a_stream_is_torchs_only_if_torch_is_there_and_uses_devices(
    tcp_client: larder.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tcp_client.namespace(tenant="tests", model="device")
    asked = []

    def current_stream(device: int | None) -> object:
        asked.append(device)
        return types.SimpleNamespace(cuda_stream="none")

    def get(**stream: Any) -> str:
        with pytest.raises(InvalidArgument) as caught:
            store.get_device(["a"], [Tensor(4096, 64)], **stream)
        return str(caught.value)

    was_there = "torch" in sys.modules
    assert "stream: no stream of a device" in get(stream="1")
    assert "stream: no stream of a device" in get(stream=-1)
    assert "registered" in get(stream=7)
    assert "registered" in get(stream=types.SimpleNamespace(cuda_stream=7))
    assert ("torch" in sys.modules) == was_there
    for is_begun, why in [(False, "registered"), (True, "stream: no stream of a device")]:
        cuda = types.SimpleNamespace(
            is_initialized=lambda is_begun=is_begun: is_begun, current_stream=current_stream
        )
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
        assert why in get()
        assert len(asked) == int(is_begun)
        assert "registered" in get(stream=7)
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    assert "registered" in get()


def test_an_array_says_what_stream_it_is_written_on(tcp_client: larder.Client) -> None:
    store = tcp_client.namespace(tenant="tests", model="device")
    for stream in (0, -1, "1"):
        with pytest.raises(InvalidArgument, match="an array's stream: no stream of a device"):
            store.put_device(["a"], [[Array(4096, (4,), stream=stream)]])
    with pytest.raises(InvalidArgument, match="registered"):
        store.put_device(["a"], [Array(4096, (4,), stream=2)])


@needs_gpu
@pytest.mark.parametrize("says", [True, False])
def test_what_is_being_written_is_stored_as_it_will_be(
    client: larder.Client, store: larder.Store, driver: Driver, says: bool
) -> None:
    length = 1 << 20
    memory = driver.allocate(b"\xee" * length)
    client.register_device(memory, length)
    # Who says nothing writes on the default stream.
    stream = driver.stream() if says else 1
    array = Array(memory, (length // 2,), **({"stream": stream} if says else {}))
    driver.fill(memory, 0x33, length, stream)
    assert store.put_device(["a"], [array]) == [Status.OK]
    assert store.get_one("a") == b"\x33" * length
    driver.fill(memory, 0x44, length, stream)
    assert store.get_device(["a"], [array]) == [length]
    assert driver.read(memory, length) == b"\x33" * length


@needs_gpu
@pytest.mark.parametrize("has_stream", [False, True])
def test_objects_come_from_a_device_and_go_back(
    client: larder.Client, store: larder.Store, driver: Driver, has_stream: bool
) -> None:
    stream = driver.stream() if has_stream else None
    data = np.random.default_rng().integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()
    source, target = driver.allocate(data), driver.allocate(b"\xee" * len(data))
    with client.register_device(source, len(data)) as memory:
        assert (memory.address, memory.length, len(memory)) == (source, len(data), len(data))
        assert memory.device == 0 and "of device 0" in repr(memory)
        # The last in pieces that are out of order.
        tensors = [
            Tensor(source, 300_000),
            Array(source + 300_000, (1000, 50)),
            [Tensor(source + 700_000, 90_001), Tensor(0, 0), Tensor(source + 600_000, 7)],
        ]
        stored = store.put_device(["a", "b", "c"], tensors, stream=stream, metas=[b"1", b"", b"3"])
        assert stored == [Status.OK] * 3
    expected = [
        data[:300_000],
        data[300_000:400_000],
        data[700_000:790_001] + data[600_000:600_007],
    ]
    assert store.get(["a", "b", "c"]) == expected
    assert store.match(["a", "b", "c"], with_meta=True).metas == [b"1", b"", b"3"]

    client.register_device(target, len(data))
    for _ in range(3):
        driver.write(target, b"\xee" * len(data))
        # Room for more than there is, for all, for too little; and one that is not there.
        ptrs = [target, target + 400_000, [target + 600_000, target + 500_003], target + 800_000]
        sizes = [350_000, 99_999, [3, 90_005], 100]
        names = ["a", "b", "c", "nobody"]
        found = store.batch_get_device(names, ptrs, sizes, stream=stream)
        assert found == [300_000, Status.MISS_SIZE, 90_008, Status.MISS]
        if stream is not None:
            driver.finish(stream)
        image = bytearray(b"\xee" * len(data))
        image[:300_000] = expected[0]
        image[600_000:600_003] = expected[2][:3]
        image[500_003:590_008] = expected[2][3:]
        assert driver.read(target, len(data)) == bytes(image)


@needs_gpu
def test_a_put_stores_what_its_stream_makes(
    client: larder.Client, store: larder.Store, driver: Driver
) -> None:
    data, stream, pinned = os.urandom(200_000), driver.stream(), ctypes.c_void_p()
    length = ctypes.c_size_t(len(data))
    driver.call("cuMemHostAlloc", ctypes.byref(pinned), length, 0)
    ctypes.memmove(pinned, data, len(data))
    address = driver.allocate(bytes(len(data)))
    client.register_device(address, len(data))
    on = ctypes.c_void_p(stream)
    driver.call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), pinned, length, on)
    torchs = types.SimpleNamespace(cuda_stream=stream)
    assert store.batch_put_device(["a"], [address], len(data), stream=torchs) == [Status.OK]
    assert store.get(["a"]) == [data]
    driver.finish(stream)
    driver.call("cuMemFreeHost", pinned)


@needs_gpu
def test_without_a_stream_torchs_current_one_of_the_device_is_taken(
    client: larder.Client,
    store: larder.Store,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, stream, data = [], driver.stream(), os.urandom(100_000)

    def current_stream(device: int | None) -> object:
        asked.append(device)
        return types.SimpleNamespace(cuda_stream=stream)

    cuda = types.SimpleNamespace(is_initialized=lambda: True, current_stream=current_stream)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    address, size = driver.allocate(data), len(data)
    tensor = Tensor(address, size)
    client.register_device(tensor)
    assert store.put_device(["a"], [tensor]) == [Status.OK]
    driver.write(address, bytes(size))
    assert store.get_device(["a"], [tensor]) == [size]
    driver.finish(stream)
    assert driver.read(address, size) == data and asked == [0, 0]


@needs_gpu
def test_unregistered_memory_is_let_go_of(
    client: larder.Client, store: larder.Store, driver: Driver
) -> None:
    class Owner:
        pass

    owner = Owner()
    watched = weakref.ref(owner)
    address = driver.allocate(bytes(4096))
    memory = client.register_device(address, 4096, keep=owner)
    del owner
    gc.collect()
    assert watched() is not None
    assert store.batch_put_device(["a"], [address], [4096]) == [Status.OK]
    assert memory.unregister() and memory.unregister(0)
    gc.collect()
    assert watched() is None
    with pytest.raises(InvalidArgument, match="no registered memory"):
        store.batch_put_device(["a"], [address], [4096])
    here = np.zeros(4096, dtype=np.uint8)
    with pytest.raises(InvalidArgument, match="no memory of this device"):
        client.register_device(here.ctypes.data, 4096)
    with pytest.raises(larder.OsError, match="no device of this number|cuDeviceGet"):
        client.register_device(address, 4096, device=1000)


@needs_gpu
def test_calls_of_several_threads_and_of_forked_children(
    client: larder.Client,
    store: larder.Store,
    driver: Driver,
    in_child: Callable[[Callable[[], bool]], bool],
) -> None:
    data = os.urandom(1 << 20)
    address = driver.allocate(data)
    client.register_device(address, len(data))
    wrong = []

    def run(number: int) -> None:
        at = number * 200_000
        for _ in range(20):
            stored = store.batch_put_device([f"{number}"], [address + at], [200_000])
            read = store.batch_get_device([f"{number}"], [address + at], [200_000])
            if stored != [Status.OK] or read != [200_000]:
                wrong.append((number, stored, read))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and driver.read(address, len(data)) == data

    def is_refused() -> bool:
        try:
            store.batch_get_device(["0"], [address], [200_000])
        except larder.Forked:
            return True
        return False

    assert in_child(is_refused)
    client.close()
    with pytest.raises(larder.Closed):
        store.batch_get_device(["0"], [address], [200_000])
