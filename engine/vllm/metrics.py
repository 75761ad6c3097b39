"""What the connector did, on its way to whoever counts it.

vLLM carries the scheduler side's events with its own statistics. A RecallKV server reads them there; standing alone,
they become Prometheus metrics on vLLM's page.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

_LISTS = ("loads", "repairs", "failed", "saved", "missing", "bad")
_COUNTS = ("failed_saves", "failed_repairs")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ConnectorStats(KVConnectorStats):
    """``schedule.Events`` as a dictionary."""

    def reset(self) -> None:
        self.data: dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name in _LISTS:
            self.data[name] = [*self.data.get(name, ()), *other.data.get(name, ())]
        for name in _COUNTS:
            self.data[name] = self.data.get(name, 0) + other.data.get(name, 0)
        if other.data.get("host_bytes") is not None:
            self.data["host_bytes"] = other.data["host_bytes"]
        return self

    def reduce(self) -> dict[str, int | float]:
        loads = self.data.get("loads", ())
        return {
            "loaded tokens": sum(load["n_tokens"] for load in loads),
            "load seconds": round(sum(load["seconds"] for load in loads), 4),
            "saved segments": len(self.data.get("saved", ())),
            "refused segments": len(self.data.get("missing", ())) + len(self.data.get("bad", ())),
        }

    def is_empty(self) -> bool:
        return not self.data


class PromMetrics(KVConnectorPromMetrics):
    """The connector's counters, beside vLLM's own and named like them."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)

        def counter(name: str, text: str, *labels: str) -> Counter:
            made: Counter = self._counter_cls(
                name=f"vllm:recallkv_{name}", documentation=text, labelnames=[*labelnames, *labels]
            )
            return made

        self._loaded_tokens = counter("loaded_tokens", "Tokens loaded from segments.", "tier")
        self._loaded_bytes = counter("loaded_bytes", "Bytes of keys and values loaded.", "tier")
        self._saved_tokens = counter("saved_tokens", "Tokens stored as segments.")
        self._saved_bytes = counter("saved_bytes", "Bytes written to segment files.")
        self._failed_saves = counter("failed_saves", "Segments that could not be written.")
        self._failed_repairs = counter("failed_repairs", "Requests that could not be repaired and were computed.")
        self._refused = counter("refused_segments", "Segments missing or bad, computed instead.", "reason")
        self._load_seconds: Histogram = self._histogram_cls(
            name="vllm:recallkv_segment_load_seconds",
            documentation="Seconds to bring one segment into the paged cache.",
            buckets=_SECONDS,
            labelnames=[*labelnames, "tier"],
        )
        self._host_bytes: Gauge = self._gauge_cls(
            name="vllm:recallkv_host_bytes", documentation="Bytes in the host tier, all ranks.", labelnames=labelnames
        )

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        own = self.per_engine_labelvalues[engine_idx]
        for load in transfer_stats_data.get("loads", ()):
            self._loaded_tokens.labels(*own, load["tier"]).inc(load["n_tokens"])
            self._loaded_bytes.labels(*own, load["tier"]).inc(load["nbytes"])
            self._load_seconds.labels(*own, load["tier"]).observe(load["seconds"])
        for saved in transfer_stats_data.get("saved", ()):
            self._saved_tokens.labels(*own).inc(saved["n_tokens"])
            self._saved_bytes.labels(*own).inc(saved["disk_bytes"])
        self._failed_saves.labels(*own).inc(transfer_stats_data.get("failed_saves", 0))
        self._failed_repairs.labels(*own).inc(transfer_stats_data.get("failed_repairs", 0))
        for reason in ("missing", "bad"):
            self._refused.labels(*own, reason).inc(len(transfer_stats_data.get(reason, ())))
        if transfer_stats_data.get("host_bytes") is not None:
            self._host_bytes.labels(*own).set(transfer_stats_data["host_bytes"])
