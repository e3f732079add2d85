"""vLLM's question "is it there?", asked of nodes on a thread of its own.

What a reader would get wrong: `batch_lookup` alone runs on that thread; all else is called by
whoever holds vLLM's manager, one at a time.
"""

# vLLM is not there where this is checked.
# mypy: disable-error-code="import-not-found", allow-subclassing-any

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from vllm.logger import init_logger
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager, LookupPhase

import larder
from larder._link import Link
from larder._seldom import Seldom
from larder.vllm_jobs import reasons

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadKey, ReqContext

# Under vLLM's logger, or nobody would see what is logged.
logger = init_logger("vllm.larder.tier")


class Lookups(AsyncLookupManager):
    """vLLM's lookup thread, asking nodes: one match for a request's keys of one step."""

    def __init__(self, tier_type: str, link: Link, row_bytes: int, timeout: float) -> None:
        self._link = link
        self._row_bytes = row_bytes
        self._timeout = timeout
        # Only the lookup thread adds to the first, only the scheduler's changes the second.
        self._counted = dict.fromkeys(OUTCOMES, 0)
        self._told = dict.fromkeys(OUTCOMES, 0)
        # Of the lookup thread. Without it a node that is too slow looks like an empty one.
        self._unanswered = Seldom(
            logger, "Larder did not say in time whether %d chunks are there (%s): computed instead."
        )
        super().__init__(tier_type=tier_type)

    def batch_lookup(self, keys: list[OffloadKey], req_context: ReqContext) -> Iterable[bool]:
        """Which keys are there, at their full length. On the lookup thread."""
        stores = self._link.stores
        if stores is None:
            return [False] * len(keys)
        # Touching makes it unlikely that they go before the load comes, some steps later. In the
        # chain's order, for then its head becomes the youngest; vLLM asks some groups backwards.
        chain = sorted(keys, key=lambda key: req_context.get_offload_key_position(key) or 0)
        match = stores.reads.match(chain, touch=True, timeout=self._timeout)
        rows = zip(chain, match.hits, match.sizes)
        found = {key for key, hit, size in rows if hit and size == self._row_bytes}
        hits = len(found)
        silent = sum(status in SILENT for status in match.statuses)
        self._counted["hit"] += hits
        self._counted["unanswered"] += silent
        if silent:
            said = (status for status in match.statuses if status in SILENT)
            self._unanswered.add(silent, f"{reasons(said)}, lookup_timeout {self._timeout:g} s")
        self._counted["miss"] += len(keys) - hits - silent
        return [key in found for key in keys]

    def mark_miss(self, keys: Collection[OffloadKey]) -> None:
        """Makes verdicts that a load has refuted misses.

        0.32 also overrules probes that are on their way, and then stops the engine by an assertion
        when their answer comes; 0.33 does it as here.
        """
        for key in keys:
            state = self._lookup_state.get(key)
            if state is not None and state.phase is LookupPhase.RESOLVED:
                state.result = False

    def take_counts(self) -> dict[str, int]:
        """Keys by what became of their lookup, since the last call."""
        counted = dict(self._counted)
        new = {outcome: counted[outcome] - self._told[outcome] for outcome in OUTCOMES}
        self._told = counted
        return new


# A miss is what a node said; unanswered is what none said in time.
OUTCOMES = ("hit", "miss", "unanswered")
# Statuses of keys of which no node said whether they are there.
SILENT = frozenset(
    (
        int(larder.Status.BUSY),
        int(larder.Status.DEADLINE),
        int(larder.Status.UNAVAILABLE),
        int(larder.Status.CANCELLED),
        int(larder.Status.CLOSED),
        int(larder.Status.DENIED),
        int(larder.Status.REFUSED),
    )
)
