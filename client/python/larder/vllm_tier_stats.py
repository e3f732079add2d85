"""What the offload tier counts, in the form that vLLM publishes.

What a reader would get wrong: `take` ends a period. Counters start at 0 again, and the gauge is
told only when it has changed.
"""

# vLLM is not there where this is checked.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import collections
from collections.abc import Mapping

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import (
    OffloadingConnectorStats,
)
from vllm.v1.kv_offload.base import (
    OffloadingCounterMetadata,
    OffloadingGaugeMetadata,
    OffloadingMetricMetadata,
)


class TierCounts:
    """Keys by operation and outcome, bytes by operation."""

    def __init__(self) -> None:
        self._keys: collections.Counter[tuple[str, str]] = collections.Counter()
        self._bytes: collections.Counter[str] = collections.Counter()
        self._connected: bool | None = None

    def add(self, op: str, outcome: str, keys: int, moved_bytes: int = 0) -> None:
        """Counts `keys` of one outcome, and the bytes that came or went with them."""
        self._keys[op, outcome] += keys
        self._bytes[op] += moved_bytes

    def take(self, lookups: Mapping[str, int], connected: bool) -> OffloadingConnectorStats | None:
        """Everything since the last call, with the outcomes of `lookups`; None if there is nothing.

        `connected` is whether a node was reached.
        """
        for outcome, keys in lookups.items():
            self._keys["lookup", outcome] += keys
        stats = OffloadingConnectorStats()
        # Without those of 0: vLLM would make series of them.
        for labels, keys in (+self._keys).items():
            stats.increase_counter(KEYS, keys, labels)
        for op, moved_bytes in (+self._bytes).items():
            stats.increase_counter(BYTES, moved_bytes, (op,))
        self._keys.clear()
        self._bytes.clear()
        if connected != self._connected:
            self._connected = connected
            stats.set_gauge(CONNECTED, int(connected))
        return None if stats.is_empty() else stats


def metric_definitions() -> dict[str, OffloadingMetricMetadata]:
    """Keys by operation and outcome, bytes by operation, and whether nodes were reached."""
    return {
        KEYS: OffloadingCounterMetadata(
            documentation="Keys that Larder looked up, loaded or stored, by outcome.",
            labelnames=("op", "outcome"),
        ),
        BYTES: OffloadingCounterMetadata(
            documentation="Bytes that came from or went to Larder.",
            labelnames=("op",),
        ),
        CONNECTED: OffloadingGaugeMetadata(
            documentation="1 once a Larder node was reached.",
        ),
    }


KEYS = "vllm:larder_tier_keys"
BYTES = "vllm:larder_tier_bytes"
CONNECTED = "vllm:larder_tier_connected"
