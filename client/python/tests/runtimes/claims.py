"""A table of claims about a runtime.

What a reader would get wrong: a claim that does not hold does not stop a proof, it makes it fail at
its end.
"""

from __future__ import annotations

import time


class Claims:
    """What a proof says of a runtime, and how much of it does not hold."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self._failed = 0
        self._began = time.monotonic()

    def claim(self, what: str, holds: bool, detail: str = "") -> None:
        """Prints a row of the table."""
        self._failed += not holds
        mark = "ok  " if holds else "FAIL"
        print(f"{mark} {self.runtime:<12} {what:<58} {detail}", flush=True)

    def end(self) -> int:
        """The exit status."""
        took = time.monotonic() - self._began
        print(f"---- {self.runtime}: {took:.0f} s, {self._failed} claims failed", flush=True)
        return 1 if self._failed else 0
