"""What the encoder cache counts, in the form that vLLM sends between processes and publishes.

What a reader would get wrong: `data` is all there is. vLLM makes the object anew on the other side.
"""

# vLLM and torch are not there where this is checked.
# mypy: disable-error-code="import-not-found", allow-subclassing-any

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.distributed.ec_transfer.ec_connector.metrics import (
    ECConnectorPromMetrics,
    ECConnectorStats,
)

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.ec_transfer.ec_connector.metrics import PromMetric, PromMetricT


class LarderECStats(ECConnectorStats):
    """Counts by name, added up."""

    data: dict[str, int]

    def reset(self) -> None:
        """Forgets all counts."""
        self.data = {}

    def aggregate(self, other: ECConnectorStats) -> ECConnectorStats:
        """Adds another's counts."""
        for name, number in other.data.items():
            self.data[name] = self.data.get(name, 0) + number
        return self

    def reduce(self) -> dict[str, int | float]:
        """The counts, for the log."""
        return {f"larder {name.replace('_', ' ')}": number for name, number in self.data.items()}

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self.data


class LarderECPromMetrics(ECConnectorPromMetrics):
    """The counts as Prometheus counters, one series for each engine and outcome."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        metric_types: dict[type[PromMetric], type[PromMetricT]],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._items = self._counter_cls(
            name=ITEMS,
            documentation="Encoder outputs that Larder was asked for, by what became of them.",
            labelnames=[*labelnames, "outcome"],
        )
        self._bytes = self._counter_cls(
            name=BYTES,
            documentation="Bytes of encoder outputs loaded from Larder.",
            labelnames=labelnames,
        )

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Adds the counts of one step."""
        labels = self.per_engine_labelvalues[engine_idx]
        for outcome in OUTCOMES:
            number = transfer_stats_data.get(outcome, 0)
            if number:
                self._items.labels(*labels, outcome).inc(number)
        if number := transfer_stats_data.get("loaded_bytes", 0):
            self._bytes.labels(*labels).inc(number)


ITEMS = "vllm:larder_encoder_items"
BYTES = "vllm:larder_encoder_bytes"
# Items by what became of them.
OUTCOMES = ("staged", "absent", "loaded")
