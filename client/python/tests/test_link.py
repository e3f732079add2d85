"""The way of all adapters to their nodes: late, refused, forked and closed."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from node_process import Node

import larder
from larder._limits import FIELD_BYTES_MAX, fit
from larder._link import Link, Settings, Stores, number

logger = logging.getLogger("tests.link")


def link(endpoint: Any, model: str = "link", **options: Any) -> Link:
    settings = {"connect_timeout": 0.5, "retry": 0.05, "deadline": 5.0}
    settings |= {name: options.pop(name) for name in settings if name in options}
    settings |= {name: options.pop(name) for name in ("path", "credential") if name in options}
    chosen: Any = {"endpoint": endpoint, **settings}
    return Link(Settings(**chosen), {"model": model}, name="test", logger=logger, **options)


def await_stores(opening: Link) -> Stores:
    until = time.monotonic() + 10
    while (stores := opening.stores) is None:
        assert time.monotonic() < until, "the node was not found"
        time.sleep(0.01)
    return stores


def test_a_node_that_is_there_is_open_at_once(node: Node) -> None:
    for endpoint in (node.endpoint, [node.endpoint], f"127.0.0.1:1, {node.seed('shm')}"):
        opening = link(endpoint)
        assert opening.stores is not None and opening.stores.each() == (opening.stores.reads,)
        opening.close()
        opening.close()
        assert opening.stores is None


def test_reads_and_writes_apart_are_one_namespace(node: Node) -> None:
    opening = link(node.endpoint, apart=True)
    stores = await_stores(opening)
    assert len(stores.each()) == 2
    assert stores.writes.put(["a"], [b"1"]) == [larder.Status.OK]
    assert stores.reads.get_one("a") == b"1"
    opening.close()
    assert stores.reads.closed and stores.writes.closed


def test_a_node_that_comes_later_is_found(
    own_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    own_node.kill()
    told: list[Stores] = []
    began = time.monotonic()
    with caplog.at_level(logging.INFO, logger.name):
        opening = link(own_node.endpoint, opened=told.append)
        assert opening.stores is None and time.monotonic() - began < 1.5
        opening.touch([b"a"])
        time.sleep(0.3)
        own_node.start()
        assert await_stores(opening).reads.get_one("a") is None
    assert told == [opening.stores]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "not reachable" in warnings[0].getMessage()
    opening.close()


def test_a_node_that_does_not_answer_holds_up_the_start_by_a_bound(own_node: Node) -> None:
    own_node.pause()
    try:
        began = time.monotonic()
        opening = link(own_node.endpoint, connect_timeout=0.3)
        assert opening.stores is None and time.monotonic() - began < 1.5
        opening.close()
        assert time.monotonic() - began < 3.0
    finally:
        own_node.resume()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"path": "pigeon"}, "path"),
        ({"deadline": 0.0}, "deadline"),
        ({"memory": [(4096,)]}, "length"),
        ({"model": "m" * 257}, "model"),
    ],
)
def test_what_no_retry_makes_right_is_raised(
    node: Node, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(larder.InvalidArgument, match=why):
        link(node.endpoint, **options)


def test_what_is_found_wrong_later_is_logged_and_final(
    own_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    own_node.kill()
    opening = link(own_node.endpoint, model="m" * 257)
    own_node.start()
    until = time.monotonic() + 10
    while "stays off" not in caplog.text:
        assert time.monotonic() < until, "nothing was logged"
        time.sleep(0.01)
    assert opening.stores is None
    opening.close()


def test_a_refused_client_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> larder.Client:
        raise larder.Denied("not allowed by the node")

    monkeypatch.setattr(larder, "connect", refuse)
    with pytest.raises(larder.Denied):
        link("127.0.0.1:1")


def test_another_namespace_is_gone_over_to(node: Node) -> None:
    opening = link(node.endpoint)
    before = await_stores(opening)
    before.writes.put(["kept"], [b"1"])
    assert opening.reopen({"model": "another"}) is before
    assert await_stores(opening).reads.spec["model"] == "another"
    assert await_stores(opening).reads.get_one("kept") is None
    before.close()
    opening.close()


def test_a_namespace_that_was_left_before_it_was_open_is_never_open(own_node: Node) -> None:
    """What was computed since belongs to other weights: it must not be stored there."""
    left, entered = threading.Event(), threading.Event()
    seen: list[str] = []

    def opened(stores: Stores) -> None:
        seen.append(stores.reads.spec["model"])
        entered.set()
        assert left.wait(10)

    own_node.kill()
    opening = link(own_node.endpoint, model="before", opened=opened)
    own_node.start()
    assert entered.wait(10)
    assert opening.reopen({"model": "after"}) is None
    left.set()
    assert await_stores(opening).reads.spec["model"] == "after"
    assert seen == ["before", "after"]
    opening.close()


def test_keys_are_touched_in_the_background(own_node: Node) -> None:
    opening = link(own_node.endpoint)
    stores = await_stores(opening)
    stores.writes.put(["a"], [b"1"])
    opening.touch([b"a", b"a"])
    until = time.monotonic() + 10
    # A node counts a touch as a match; equal keys are one.
    while stores.reads.client.stats()[0]["counters"]["match_hits_total"] != 1:
        assert time.monotonic() < until, "nothing was touched"
        time.sleep(0.01)
    opening.close()


def test_memory_is_registered_until_it_is_closed(node: Node) -> None:
    region = bytearray(100)
    opening = link(node.endpoint, memory=[(region,)])
    with pytest.raises(BufferError):
        region.append(1)
    opening.close()
    region.append(1)


def test_a_forked_child_is_refused_and_does_not_hang(
    own_node: Node, in_child: Callable[[Callable[[], bool]], bool]
) -> None:
    there = link(own_node.endpoint)
    own_node.kill()
    absent = link(own_node.endpoint)

    def refused(opening: Link) -> bool:
        calls: list[Callable[[], Any]] = [
            lambda: opening.stores,
            lambda: opening.touch([b"a"]),
            lambda: opening.reopen({}),
            opening.close,
        ]
        for call in calls:
            try:
                call()
                return False
            except larder.Forked:
                pass
        return True

    assert in_child(lambda: refused(there) and refused(absent))
    own_node.start()
    await_stores(absent)
    there.close()
    absent.close()


def test_closing_ends_its_thread(own_node: Node) -> None:
    def threads() -> int:
        return sum(thread.name == "larder-link" for thread in threading.enumerate())

    before = threads()
    there = link(own_node.endpoint)
    own_node.kill()
    absent = link(own_node.endpoint, retry=60.0)
    assert threads() == before + 2
    for opening in (there, absent):
        began = time.monotonic()
        opening.close()
        assert time.monotonic() - began < 2
    assert threads() == before


def test_options_are_checked_and_named() -> None:
    settings = Settings.of({"endpoint": "a:1,b:2", "retry": "2", "tenant": "t"}, deadline=3.0)
    assert settings.seeds() == ["a:1", "b:2"] and (settings.retry, settings.deadline) == (2, 3)
    assert Settings().seeds() is None
    for wrong in ("soon", None, [1], 0, -1, "nan", "inf"):
        with pytest.raises(larder.InvalidArgument, match="connect_timeout: .* is not a number"):
            Settings.of({"connect_timeout": wrong}, deadline=1.0)
        with pytest.raises(larder.InvalidArgument, match="retry: .* is not a number"):
            Settings(retry=wrong)  # type: ignore[arg-type]
    assert number({}, "retry", 1.5) == 1.5


def test_long_fields_are_told_apart_by_their_digest() -> None:
    longest = "é" * (FIELD_BYTES_MAX // 2)
    assert fit(longest) == longest
    assert fit(longest + "a") != fit(longest + "b") and len(fit(longest + "a")) < FIELD_BYTES_MAX
