"""Calls that wait: what is stored is found, what is not is a status."""

import array
import hashlib
from typing import Any

import numpy as np
import pytest

import larder
from larder import Status


def test_what_was_put_is_got(store: larder.Store) -> None:
    bodies: list[Any] = [b"one", bytearray(b"two" * 10_000), memoryview(b"3" * 300_000)]
    bodies.append(array.array("d", [1.5]))
    keys: list[bytes | str] = [b"a", "b", b"c" * 64, "d" * 1000]
    assert store.put(keys, bodies) == [Status.OK] * 4
    assert store.get([*keys, "nobody"]) == [bytes(body) for body in bodies] + [None]
    assert store.get_one("b") == bytes(bodies[1]) and store.get_one(b"nobody") is None
    assert store.get([]) == [] and store.put([], []) == []
    bodies[1].append(0)


def test_match_tells_what_is_there(store: larder.Store) -> None:
    chain = [f"chain-{at}" for at in range(10)]
    metas = [b"m%d" % at for at in range(10)]
    store.put(chain[:3] + chain[5:6], [b"x" * 7] * 4, metas=metas[:3] + [None])
    found = store.match(chain, with_meta=True)
    assert (found.leading, len(found)) == (3, 10)
    assert found.hits == [True] * 3 + [False] * 2 + [True] + [False] * 4
    assert found.bitmap == bytes([0b100111, 0])
    assert found.sizes == [7, 7, 7, 0, 0, 7, 0, 0, 0, 0]
    assert found.metas[:4] == [b"m0", b"m1", b"m2", b""]
    assert found.statuses == [Status.OK if hit else Status.MISS for hit in found.hits]
    assert not any(wanted and hit for wanted, hit in zip(found.wanted, found.hits))
    assert found.hits is found.hits, "made once"
    assert store.batch_exists_prefix(chain) == 3 and store.touch(chain) == 4
    said = store.match(chain, touch=True, kind=2, ends_partly=True, object_bytes=7, timeout=None)
    assert said.hits == found.hits and said.metas[0] == b""


def test_objects_are_read_into_scattered_memory(store: larder.Store) -> None:
    body = np.random.default_rng(1).integers(0, 255, 1 << 16, dtype=np.uint8)
    assert store.put(["whole"], [body]) == [Status.OK]
    pieces = [np.zeros(1 << 14, dtype=np.uint8) for _ in range(4)]
    small, none = bytearray(100), bytearray(9)
    got = store.get_into(["whole", "nobody", "whole"], [pieces, none, small])
    for free in (small, none):
        free.append(0)
    assert got == [1 << 16, Status.MISS, Status.MISS_SIZE]
    assert np.array_equal(np.concatenate(pieces), body)
    assert store.put(["again"], [pieces]) == [Status.OK]
    assert store.get_one("again") == body.tobytes()


def test_options_of_puts_are_kept(store: larder.Store) -> None:
    assert store.put(["k"], [b"new"], versions=[7], tags=[[1, 2]], depths=[3]) == [Status.OK]
    assert store.put(["k"], [b"old"], versions=[6]) == [Status.OLDER_VERSION]
    assert store.put(["k"], [b"more"], if_absent=True) == [Status.EXISTS]
    assert store.get_one("k") == b"new"
    said: Any = {"cost_hints": [5], "class_hints": [255], "metas": [b"m" * 64]}
    said |= {"ttl": 60, "timeout": 1}
    assert store.put(["t"], [b"x"], **said) == [Status.OK]
    assert store.put(["t", "u"], [b"x"] * 2, ttl=[None, 60.0], timeout=None) == [Status.OK] * 2


def test_removed_objects_are_gone(store: larder.Store) -> None:
    store.put(["a", "b"], [b"1", b"2"])
    assert store.remove(["a", "c"]) == [Status.OK, Status.MISS]
    assert store.get(["a", "b"]) == [None, b"2"]


def test_pinned_objects_are_said_to_be(store: larder.Store) -> None:
    store.put(["a"], [b"1"])
    assert store.pin(["a", "c"], 60) == [Status.OK, Status.MISS]
    assert store.pin(["a"], 0, timeout=1) == [Status.OK]
    with pytest.raises(larder.InvalidArgument, match="seconds"):
        store.pin(["a"], -1)


def test_a_bump_empties_the_namespace(store: larder.Store) -> None:
    store.put(["a"], [b"1"])
    fresh = store.bump()
    assert fresh.generation > store.generation and fresh.spec == store.spec
    assert fresh.get_one("a") is None
    assert fresh.put(["a"], [b"2"]) == [Status.OK] and fresh.get_one("a") == b"2"
    assert store.get_one("a") is None and store.match(["a"]).leading == 0


def test_leases_are_read_in_place_until_the_last_view_is_gone(store: larder.Store) -> None:
    body = np.random.default_rng(2).bytes(1 << 20)
    said: Any = {"metas": [b"meta", None, None], "versions": [9, 0, 0]}
    store.put(["big", "small", "empty"], [body, b"abc", b""], **said)
    big, none, small, empty = store.lease(["big", "nobody", "small", "empty"])
    assert none == Status.MISS
    assert isinstance(big, larder.Lease) and isinstance(small, larder.Lease)
    assert (big.meta, big.version, len(big)) == (b"meta", 9, 1 << 20)
    view = memoryview(big.view())
    assert view.readonly and view == body and view.format == "B" and big.verify()
    assert bytes(small.view()) == b"abc"
    assert isinstance(empty, larder.Lease) and bytes(empty.view()) == b""
    part = view[10:20]
    with big:
        pass
    del view
    with pytest.raises(larder.Closed):
        big.view()
    assert part == body[10:20]


def test_names_become_keys(store: larder.Store) -> None:
    assert larder.Store.key(b"x" * 64) == b"x" * 64 and store.key("é") == "é".encode()
    assert store.key("y" * 65) == b"sha256:" + hashlib.sha256(b"y" * 65).digest()
    store.put(["n" * 100], [b"1"])
    assert store.get_one(store.key(b"n" * 100)) == b"1"
    for wrong in (b"", "", "\ud800"):
        with pytest.raises(larder.InvalidArgument):
            store.key(wrong)
    with pytest.raises(TypeError):
        store.get([1])  # type: ignore[list-item]
    names: list[Any] = ["name", b"name"]
    for one in names:
        with pytest.raises(larder.InvalidArgument):
            store.get(one)


def test_rows_of_an_array_are_names(store: larder.Store) -> None:
    names = [b"row %d" % n + b"\0" * 10 for n in range(3)]
    rows: list[Any] = [
        np.frombuffer(b"".join(names), dtype=np.uint8).reshape(3, -1),
        np.frombuffer(b"".join(names), dtype=np.int8).reshape(3, -1),
        memoryview(b"".join(names)).cast("B", (3, len(names[0]))),
    ]
    assert store.put(rows[0], [b"a", b"bb", b"ccc"]) == [Status.OK] * 3
    for keys in [names, *rows]:
        assert store.get(keys) == [b"a", b"bb", b"ccc"]
        assert store.match(keys).sizes == [1, 2, 3]
        assert store.batch_exists_prefix(keys[1:]) == 2
    assert store.get([name.rstrip(b"\0") for name in names]) == [None] * 3
    assert store.remove(rows[2][:2]) == [Status.OK] * 2 and store.match(rows[0]).hits[2:] == [True]
    job = store.submit_batch_exists(rows[1])
    done = store.wait(job, 10)
    assert done is not None and done.statuses == [Status.MISS, Status.MISS, Status.OK]


def test_rows_of_any_width_are_the_names_that_they_hold(store: larder.Store) -> None:
    for width in (1, 2, 63, 64, 65, 200):
        names = [bytes([n]) * width for n in range(1, 20)]
        rows = np.frombuffer(b"".join(names), dtype=np.uint8).reshape(19, width)
        assert store.put(rows, names) == [Status.OK] * 19
        assert store.get(names) == names == store.get(rows)
    assert len(store.match(np.zeros((0, 32), dtype=np.uint8))) == 0
    assert len(store.match(np.zeros((0, 0), dtype=np.uint8))) == 0


def test_a_store_knows_what_it_is(client: larder.Client) -> None:
    fields: Any = {"tenant": "t", "model": "m", "revision": "r", "dtype": "bf16", "layout": "l"}
    store = client.namespace(**fields, rank="tp0/2", extra="e", part_bytes=4096)
    assert store.spec == {**fields, "rank": "tp0/2", "extra": "e", "part_bytes": 4096}
    assert store.generation >= 1 and store.object_bytes_max == 4096 * 256
    assert store.client.namespace(**fields).spec != store.spec
    with pytest.raises(larder.InvalidArgument, match="tenant"):
        client.namespace(tenant="t" * 257)
    wrongs: Any = [{"threads": 0}, {"threads": 65536}, {"part_bytes": -1}, {"part_bytes": 65 << 20}]
    for wrong in wrongs:
        with pytest.raises(larder.InvalidArgument):
            client.namespace(**wrong)


def test_stats_are_counted_by_shard(client: larder.Client, store: larder.Store) -> None:
    store.put(["a"], [b"1"])
    (shard,) = client.stats()
    assert shard["error"] is None and shard["shard"] == 0 and shard["node_id"] > 0
    assert shard["counters"]["objects"] >= 1 and ":" in shard["peer"]
