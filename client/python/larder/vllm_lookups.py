"""vLLM's question "is it there?", asked of nodes on a thread of its own.

What a reader would get wrong: `batch_lookup` alone runs on that thread; all else is called by
whoever holds vLLM's manager, one at a time.
"""

# vLLM is not there where this is checked.
# mypy: disable-error-code="import-not-found", allow-subclassing-any

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager, LookupPhase

from larder._link import Link

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadKey, ReqContext


class Lookups(AsyncLookupManager):
    """vLLM's lookup thread, asking nodes: one match for a request's keys of one step."""

    def __init__(self, tier_type: str, link: Link, row_bytes: int, timeout: float) -> None:
        self._link = link
        self._row_bytes = row_bytes
        self._timeout = timeout
        # Only the lookup thread writes these, only the scheduler's those below.
        self._hits = 0
        self._misses = 0
        self._hits_told = 0
        self._misses_told = 0
        super().__init__(tier_type=tier_type)

    def batch_lookup(self, keys: list[OffloadKey], req_context: ReqContext) -> Iterable[bool]:
        """Which keys are there, at their full length. On the lookup thread."""
        stores = self._link.stores
        if stores is None:
            return [False] * len(keys)
        # Touching makes it unlikely that they go before the load comes, some steps later.
        match = stores.reads.match(keys, touch=True, timeout=self._timeout)
        found = [hit and size == self._row_bytes for hit, size in zip(match.hits, match.sizes)]
        hits = sum(found)
        self._hits += hits
        self._misses += len(keys) - hits
        return found

    def mark_miss(self, keys: Collection[OffloadKey]) -> None:
        """Makes verdicts that a load has refuted misses.

        0.32 also overrules probes that are on their way, and then stops the engine by an assertion
        when their answer comes; 0.33 does it as here.
        """
        for key in keys:
            state = self._lookup_state.get(key)
            if state is not None and state.phase is LookupPhase.RESOLVED:
                state.result = False

    def take_counts(self) -> tuple[int, int]:
        """Hits and misses since the last call."""
        hits, misses = self._hits, self._misses
        counts = (hits - self._hits_told, misses - self._misses_told)
        self._hits_told, self._misses_told = hits, misses
        return counts
