"""Says what goes on for long once, and again after a while, instead of with every request.

What a reader would get wrong: what is said counts what happened since it was said last, not what
happened just now.
"""

from __future__ import annotations

import logging
import time

# Guessed: a line that an operator sees, in a log that stays readable for a day.
SECONDS_BETWEEN = 30.0


class Seldom:
    """A warning that is given at once, and then at most every `SECONDS_BETWEEN`.

    Args:
        logger: where it is given.
        warning: a format for one number, of what happened since it was given last, and one text,
            which tells of the latest.
    """

    def __init__(self, logger: logging.Logger, warning: str) -> None:
        self._logger = logger
        self._warning = warning
        self._number = 0
        self._next = float("-inf")

    def add(self, number: int, text: str) -> None:
        """Counts, and tells if it is time. To be called from one thread."""
        self._number += number
        now = time.monotonic()
        if self._number and now >= self._next:
            self._logger.warning(self._warning, self._number, text)
            self._number = 0
            self._next = now + SECONDS_BETWEEN
