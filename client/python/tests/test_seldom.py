"""`larder._seldom`: what goes on for long is told at once, then now and then, and never lost.

The clock is set by hand: nothing here waits.
"""

from __future__ import annotations

import logging

import pytest

from larder import _seldom


def test_first_is_told_at_once_and_the_rest_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(_seldom.time, "monotonic", lambda: now)
    warning = _seldom.Seldom(logging.getLogger("seldom"), "%d lost (%s)")
    warning.add(3, "late")
    now += _seldom.SECONDS_BETWEEN - 1
    warning.add(4, "late")
    warning.add(5, "gone")
    assert caplog.messages == ["3 lost (late)"]
    now += 1
    warning.add(6, "busy")
    assert caplog.messages == ["3 lost (late)", "15 lost (busy)"]


def test_nothing_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    _seldom.Seldom(logging.getLogger("seldom"), "%d lost (%s)").add(0, "")
    assert caplog.messages == []
