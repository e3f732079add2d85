"""Arguments that make no sense are named, and nothing is sent."""

import math
from typing import Any

import numpy as np
import pytest
from node_process import Node

import larder
from larder import InvalidArgument, Status


class Tensor:
    """What torch calls a tensor, as far as it is looked at."""

    def __init__(
        self, array: Any, device: str = "cpu", contiguous: bool = True, lazy: str = ""
    ) -> None:
        self.array, self.contiguous, self.lazy = array, contiguous, lazy
        self.device = type("Device", (), {"type": device})

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def is_contiguous(self) -> bool:
        return self.contiguous

    def is_conj(self) -> bool:
        return self.lazy == "is_conj"

    def is_neg(self) -> bool:
        return self.lazy == "is_neg"

    def numel(self) -> int:
        return int(self.array.size)

    def element_size(self) -> int:
        return int(self.array.itemsize)


class Described:
    """An array known by its description alone."""

    def __init__(self, array: Any, **changed: Any) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, **changed}


def test_arrays_and_tensors_are_memory(store: larder.Store) -> None:
    source = np.arange(1000, dtype=np.float32).reshape(10, 100)
    dense = Described(source, strides=(400, 4))
    kinds: list[Any] = [source, Tensor(source), Described(source), dense]
    assert store.put(["a", "b", "c", "d"], kinds) == [Status.OK] * 4
    for make in (lambda array: array, Tensor, Described):
        into = [np.zeros((10, 100), dtype=np.float32) for _ in range(4)]
        assert store.get_into(["a", "b", "c", "d"], [make(array) for array in into]) == [4000] * 4
        assert all(np.array_equal(array, source) for array in into)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (np.zeros((3, 8), dtype=np.uint16), "not of 2 each"),
        (np.zeros((3, 8)), "not of 8 each"),
        (np.zeros((3, 8), dtype=np.uint8)[:, :4], "not contiguous"),
        (np.zeros((3, 8), dtype=np.uint8)[::2], "not contiguous"),
        (np.zeros((8, 3), dtype=np.uint8).T, "not contiguous"),
        (np.zeros((3, 0), dtype=np.uint8), "at least 1 byte"),
    ],
)
def test_rows_that_are_no_names_are_refused(store: larder.Store, rows: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        store.match(rows)


def test_arrays_of_one_or_three_dimensions_are_no_rows(store: larder.Store) -> None:
    flat, cube = np.zeros(8, dtype=np.uint8), np.zeros((2, 2, 2), dtype=np.uint8)
    others: list[Any] = [flat, cube, bytearray(8)]
    for array in others:
        with pytest.raises(TypeError, match="bytes or str"):
            store.match(array)


def test_a_torch_tensor_is_memory(store: larder.Store) -> None:
    torch = pytest.importorskip("torch")
    source = torch.arange(1000, dtype=torch.bfloat16).reshape(10, 100)
    into = torch.zeros(10, 100, dtype=torch.bfloat16)
    assert store.put(["a"], [source]) == [Status.OK]
    assert store.get_into(["a"], [into]) == [2000] and torch.equal(source, into)
    with pytest.raises(InvalidArgument, match="contiguous"):
        store.put(["a"], [source.t()])
    with pytest.raises(InvalidArgument, match="conjugate"):
        store.put(["a"], [torch.zeros(4, dtype=torch.complex64).conj()])


def test_what_only_looks_like_objects_is_memory(store: larder.Store) -> None:
    fields = np.ones(2, dtype=[("O", "u1"), ("number", "<u8")])
    text = Described(np.array(["ab", "cde"]))
    assert store.put(["a", "b"], [fields, text]) == [Status.OK] * 2
    assert store.get(["a"]) == [fields.tobytes()]
    assert store.match(["b"]).sizes == [2 * 3 * 4]


@pytest.mark.parametrize(
    ("buffers", "why"),
    [
        ([bytearray(1), b"read-only"], r"buffers\[1\]: is read-only"),
        ([bytearray(1), [bytearray(1), b""]], r"buffers\[1\]\[1\]: is read-only"),
        ([np.zeros(8)[::2], bytearray(1)], r"buffers\[0\]: is not contiguous"),
        ([np.zeros((4, 4)).T, bytearray(1)], r"buffers\[0\]: is not contiguous"),
        ([Described(np.zeros((4, 4)), strides=(8, 32)), bytearray(1)], "not contiguous"),
        ([Described(np.zeros(4), data=(4096, True)), bytearray(1)], "is read-only"),
        ([Tensor(np.zeros(8), device="cuda"), bytearray(1)], r"buffers\[0\]: .*device \(cuda\)"),
        ([Tensor(np.zeros(8), contiguous=False), bytearray(1)], "not contiguous"),
        ([Described(np.zeros(4), data=(0, False)), bytearray(1)], "no memory"),
        ([np.array([None], dtype=object), bytearray(1)], r"buffers\[0\]: .*references"),
        ([np.zeros(2, dtype=[("O", "u1"), ("b", "O")]), bytearray(1)], "references"),
        ([Described(np.zeros(4), typestr="|O8"), bytearray(1)], "references"),
        ([Described(np.zeros(4), typestr="|t1"), bytearray(1)], "single bits"),
        ([Tensor(np.zeros(8), lazy="is_conj"), bytearray(1)], "lazy conjugate"),
        ([Tensor(np.zeros(8), lazy="is_neg"), bytearray(1)], "lazy negative"),
        ([bytearray(1), 17], r"buffers\[1\]: neither a buffer nor"),
        ([bytearray(1), None], r"buffers\[1\]"),
        ([bytearray(1)], r"buffers: 1 for 2 keys"),
        (17, "buffers: not a sequence"),
        ([[bytearray(1)] * 513, bytearray(1)], r"buffers\[0\]: 513 pieces"),
        ([memoryview(bytearray(9))[:5]] * 2, "overlap"),
    ],
)
def test_memory_that_cannot_be_filled_is_named(store: larder.Store, buffers: Any, why: str) -> None:
    for call in (store.get_into, store.submit_batch_get):
        with pytest.raises(InvalidArgument, match=why):
            call(["a", "b"], buffers)
    assert store.drain() == []


def test_options_that_make_no_sense_are_named(store: larder.Store) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"metas": [b"x" * 65]}, r"metas\[0\]: 65 bytes"),
        ({"metas": []}, "metas: 0 for 1 keys"),
        ({"metas": ["text"]}, r"metas\[0\]"),
        ({"tags": [[1, 2, 3, 4, 5]]}, r"tags\[0\]: 5"),
        ({"depths": [-1]}, r"depths\[0\]"),
        ({"depths": [1 << 16]}, r"depths\[0\]"),
        ({"class_hints": [256]}, r"class_hints\[0\]"),
        ({"ttl": 0}, "ttl: 0 seconds"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": "soon"}, "ttl"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
    ]
    for options, why in wrong:
        for call in (store.put, store.submit_batch_set):
            with pytest.raises(InvalidArgument, match=why):
                call(["a"], [b"x"], **options)
    with pytest.raises(TypeError, match="'colour'"):
        store.put(["a"], [b"x"], colour="red")  # type: ignore[call-arg]
    with pytest.raises(InvalidArgument, match="object 0"):
        store.put(["a"], [bytes((64 << 20) + 1)])
    assert store.get_one("a") is None
    asked: list[dict[str, Any]] = [{"kind": 256}, {"kind": "tool"}, {"object_bytes": -1}]
    for options in asked:
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            store.match(["a"], **options)
    with pytest.raises(TypeError, match="'colour'"):
        store.match(["a"], colour="red")  # type: ignore[call-arg]


def test_connecting_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, why in [
        ({"path": "pigeon"}, "path"),
        ({"spin": "fast"}, "spin"),
        ({"spin": -1}, "spin"),
        ({"deadline": 0}, "deadline"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"name": "n" * 65}, "name"),
        ({"credential": b"c" * 1025}, "credential"),
    ]:
        with pytest.raises(InvalidArgument, match=why):
            larder.connect("127.0.0.1:1", **options)  # type: ignore[arg-type]
    for seeds in ([], ["nobody"], ["127.0.0.1:1", "unix:"]):
        with pytest.raises(InvalidArgument, match="seed"):
            larder.connect(seeds)
    monkeypatch.setenv("LARDER_NODES", "127.0.0.1:1, 127.0.0.1:2")
    with pytest.raises(larder.Unavailable, match=r"127\.0\.0\.1:2"):
        larder.connect()


def test_seeds_are_tried_in_order(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = ["127.0.0.1:1", node.seed("shm")]
    monkeypatch.setenv("LARDER_NODES", ",".join(seeds))
    for client in (larder.connect(seeds, spin="off", name="n"), larder.connect(None, spin=1e-5)):
        assert not client.closed
        client.close()
        client.close()
        assert client.closed
        with pytest.raises(larder.Closed):
            client.namespace()
        with pytest.raises(larder.Closed):
            client.register(bytearray(1))
