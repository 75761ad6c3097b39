"""Prometheus metrics, in a registry of the server's own. Counters, not rates; no ids as labels.

The names that dashboards for vLLM use are exported beside ours where they mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.base import Capacity, Started
from kvcache import TIERS, StoreStats, TierName
from memory import ModelJudge
from scheduler import ForesightStats, PreloaderStats, UpkeepStats
from server.core.memories import MemoryStats

# vLLM's buckets, so that dashboards and quantiles can be compared.
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_REQUEST_BUCKETS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 480.0)


class Metrics:
    """All metrics. The callables are polled when ``/metrics`` is scraped."""

    def __init__(
        self,
        store_stats: Callable[[], StoreStats],
        capacity: Callable[[], Capacity],
        upkeep: Callable[[], UpkeepStats],
        engine: Callable[[], list[Metric]] = list,
    ) -> None:
        self.registry = CollectorRegistry()
        self._ttft = [
            self._histogram(name, "Seconds from a request's arrival to its first token.", TTFT_BUCKETS)
            for name in ("recallkv_time_to_first_token_seconds", "vllm:time_to_first_token_seconds")
        ]
        self._queue = self._histogram("recallkv_request_queue_seconds", "Seconds waited for the engine.", TTFT_BUCKETS)
        self._load = self._histogram("recallkv_segment_load_seconds", "Seconds spent loading segments.", TTFT_BUCKETS)
        self._prefill = self._histogram("recallkv_request_prefill_seconds", "Seconds of prefill.", TTFT_BUCKETS)
        self._inter_token = self._histogram(
            "recallkv_inter_token_latency_seconds", "Seconds between tokens of one choice.", _TOKEN_BUCKETS
        )
        self._end_to_end = self._histogram(
            "recallkv_e2e_request_latency_seconds", "Seconds a request took.", _REQUEST_BUCKETS
        )
        self._prompt = [
            self._counter(name, "Prompt tokens.") for name in ("recallkv_prompt_tokens", "vllm:prompt_tokens")
        ]
        self._generated = [
            self._counter(name, "Generated tokens.")
            for name in ("recallkv_generation_tokens", "vllm:generation_tokens")
        ]
        self._queries = [
            self._counter(name, "Prompt tokens looked up in segments.")
            for name in ("recallkv_prefix_cache_queries", "vllm:prefix_cache_queries")
        ]
        self._cached = [
            self._counter(name, "Prompt tokens that came from segments.")
            for name in ("recallkv_prefix_cache_hits", "vllm:prefix_cache_hits")
        ]
        self._finished = Counter(
            "recallkv_choices_finished", "Choices by finish reason.", ["reason"], registry=self.registry
        )
        self.http = Counter(
            "recallkv_http_requests", "HTTP requests.", ["method", "route", "status"], registry=self.registry
        )
        self._composed = Counter(
            "recallkv_composed_tokens", "Prompt tokens placed from pages.", ["fidelity"], registry=self.registry
        )
        self._repaired = self._counter("recallkv_repaired_tokens", "Of those, tokens that were computed anew.")
        self.registry.register(_Snapshots(store_stats, capacity, upkeep))
        self._engine = engine

    def watch_memories(self, stats: Callable[[], MemoryStats]) -> None:
        """Show the side store's counters too."""
        self.registry.register(_Memories(stats))

    def watch_judge(self, judge: ModelJudge) -> None:
        """Show the counters of a judge that asks a model too."""
        self.registry.register(_Judge(judge))

    def watch_foresight(
        self,
        stats: Callable[[], tuple[ForesightStats, PreloaderStats]],
        report: Callable[[], dict[str, Any]],
    ) -> None:
        """Show the predictor's report card too."""
        self.registry.register(_Foresight(stats, report))

    def collect(self) -> Iterator[Metric]:
        """Yield ours and the engine's, as one page. Of a metric of the same name the engine's is taken."""
        theirs = self._engine()
        names = {family.name for family in theirs}
        yield from (family for family in self.registry.collect() if family.name not in names)
        yield from theirs

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def observe_started(self, started: Started, ttft_s: float) -> None:
        """Note that a request's first token is out, ``ttft_s`` seconds after it arrived."""
        for histogram in self._ttft:
            histogram.observe(ttft_s)
        self._queue.observe(started.queue_s)
        self._load.observe(started.load_s)
        self._prefill.observe(started.prefill_s)
        for counters, amount in (
            (self._prompt, started.prompt_tokens),
            (self._queries, started.prompt_tokens),
            (self._cached, started.cached_tokens),
        ):
            for counter in counters:
                counter.inc(amount)
        for report in started.pieces:
            if report.fidelity != "exact":
                self._composed.labels(report.fidelity).inc(report.n_tokens)
                self._repaired.inc(report.recomputed)

    def observe_tokens(self, n: int, gap_s: float | None) -> None:
        """Note the next tokens of a choice, ``gap_s`` seconds after those before (None: they are its first)."""
        for counter in self._generated:
            counter.inc(n)
        if gap_s is not None:
            self._inter_token.observe(gap_s)

    def observe_finished(self, reason: str) -> None:
        """Note that a choice has ended."""
        self._finished.labels(reason).inc()

    def observe_ended(self, total_s: float) -> None:
        """Note that a request has ended, ``total_s`` seconds after it arrived."""
        self._end_to_end.observe(total_s)


def _misses(stats: StoreStats) -> dict[TierName, int]:
    """Count the misses by tier: a tier misses what a slower tier has and what has to be computed."""
    below = {"device": stats.hits["host"] + stats.hits["disk"], "host": stats.hits["disk"], "disk": 0}
    return {tier: below[tier] + stats.misses for tier in TIERS}


class _Snapshots(Collector):
    """Metrics whose truth lies elsewhere: the segment store's counters and the engine's queue."""

    def __init__(
        self,
        store_stats: Callable[[], StoreStats],
        capacity: Callable[[], Capacity],
        upkeep: Callable[[], UpkeepStats],
    ) -> None:
        self._store_stats = store_stats
        self._capacity = capacity
        self._upkeep = upkeep

    def collect(self) -> Iterator[Metric]:
        stats, capacity, upkeep = self._store_stats(), self._capacity(), self._upkeep()
        by_tier = (
            (CounterMetricFamily, "recallkv_segment_hits", "Segments found, by tier.", stats.hits),
            (CounterMetricFamily, "recallkv_segment_misses", "Segments not found, by tier.", _misses(stats)),
            (CounterMetricFamily, "recallkv_segment_evictions", "Segments evicted, by tier.", stats.evictions),
            (GaugeMetricFamily, "recallkv_segment_bytes", "Bytes of segments held, by tier.", stats.bytes),
            (GaugeMetricFamily, "recallkv_segments", "Segments held, by tier.", stats.segments),
        )
        for family, name, text, values in by_tier:
            metric = family(name, text, labels=["tier"])
            for tier in TIERS:
                metric.add_metric([tier], values[tier])
            yield metric
        for name, text, value in (
            ("recallkv_segments_computed", "Pieces that no tier had.", stats.misses),
            ("recallkv_segments_quarantined", "Segment files that were refused.", stats.quarantined),
            ("recallkv_segment_write_errors", "Segments that could not be written.", stats.write_errors),
            (
                "recallkv_segment_dropped_writes",
                "Segments not written: the disk was too slow or full.",
                stats.dropped_writes,
            ),
            ("recallkv_failed_rankings", "Evictions by last use: worth could not be told.", stats.failed_ranks),
            ("recallkv_preloaded_bytes", "Bytes of segments brought up.", stats.preloads.bytes),
            ("recallkv_preloaded_bytes_used", "Of those, used afterwards.", stats.preloads.used_bytes),
            ("recallkv_preloaded_bytes_wasted", "Of those, never used.", stats.preloads.wasted_bytes),
            ("recallkv_preload_saved_seconds", "Loading on demand that was saved.", stats.preloads.saved_s),
            ("recallkv_pages_built", "Pages built in idle time.", upkeep.pages_built),
            ("recallkv_pages_refused", "Pages not stored: deleted meanwhile, or too long.", upkeep.pages_refused),
            ("recallkv_compositions_healed", "Compositions stored as exact chains.", upkeep.healed),
            ("recallkv_upkeep_failures", "Failed work in idle time.", upkeep.failures),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily(
            "recallkv_quarantine_bytes",
            "Bytes of refused files, part of the budget.",
            value=stats.quarantine_bytes,
        )
        yield GaugeMetricFamily("recallkv_quarantine_segments", "Segments in quarantine.", value=stats.in_quarantine)
        yield GaugeMetricFamily(
            "recallkv_disk_budget_bytes", "What segments and refused files may take.", value=stats.budgets["disk"]
        )
        of_models = GaugeMetricFamily(
            "recallkv_model_disk_bytes",
            "Bytes of segments on disk, by model.",
            labels=["fingerprint"],
        )
        for share in stats.models:
            of_models.add_metric([share.fingerprint[:12]], share.bytes)
        yield of_models
        yield GaugeMetricFamily("recallkv_upkeep_waiting", "Work waiting for idle time.", value=upkeep.waiting)
        for name, value in (
            ("recallkv_num_requests_running", capacity.running),
            ("recallkv_num_requests_waiting", capacity.waiting),
            ("vllm:num_requests_running", capacity.running),
            ("vllm:num_requests_waiting", capacity.waiting),
        ):
            yield GaugeMetricFamily(name, "Requests in the engine.", value=value)


class _Foresight(Collector):
    """The predictor's and the preloader's counters."""

    def __init__(
        self,
        stats: Callable[[], tuple[ForesightStats, PreloaderStats]],
        report: Callable[[], dict[str, Any]],
    ) -> None:
        self._stats = stats
        self._report = report

    def collect(self) -> Iterator[Metric]:
        foresight, preloader = self._stats()
        report = self._report()
        for name, text, value in (
            ("recallkv_scenes", "Turns that the predictor has learned from.", foresight.scenes),
            ("recallkv_scenes_dropped", "Turns that it has not: too many came at once.", foresight.dropped),
            ("recallkv_foresight_failures", "Turns that it failed at.", foresight.failures),
            ("recallkv_predicted_segments", "Segments predicted, once a prediction.", report["predicted"]),
            ("recallkv_predicted_segments_used", "Of those, used within the horizon.", report["right"]),
            ("recallkv_used_segments", "Segments used within the horizon of a prediction.", report["used"]),
            ("recallkv_preloads", "Segments brought up before they were asked for.", preloader.moved),
            ("recallkv_preloads_offered", "Segments that were to be brought up.", preloader.offered),
            ("recallkv_preloads_cancelled", "Not brought up: no longer expected.", preloader.cancelled),
            ("recallkv_preloads_expired", "Not brought up: too late.", preloader.expired),
            ("recallkv_preloads_refused", "Not brought up: what is there is worth more.", preloader.refused),
            ("recallkv_preload_failures", "Not brought up: something failed.", preloader.failures),
        ):
            yield CounterMetricFamily(name, text, value=value)
        sources = CounterMetricFamily(
            "recallkv_memories_used", "Memories in prompts, by where their KV came from.", labels=["source"]
        )
        for source in ("resident", "host", "disk", "computed"):
            sources.add_metric([source], foresight.sources[source])
        yield sources
        yield GaugeMetricFamily("recallkv_preloads_waiting", "Segments to be brought up.", value=preloader.waiting)


class _Judge(Collector):
    """What a model is asked about pairs of statements."""

    def __init__(self, judge: ModelJudge) -> None:
        self._judge = judge

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "recallkv_judge_requests", "Statements that a model was asked to judge.", value=self._judge.requests
        )
        yield CounterMetricFamily(
            "recallkv_judge_fallbacks",
            "Pairs of statements judged without the model that was to judge them.",
            value=self._judge.fallbacks,
        )


class _Memories(Collector):
    """The side store's counters."""

    def __init__(self, stats: Callable[[], MemoryStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        placed = CounterMetricFamily(
            "recallkv_memories_placed", "What was said, by what became of it.", labels=["action"]
        )
        for action, n in sorted(stats.placed.items()):
            placed.add_metric([action], n)
        yield placed
        jobs = GaugeMetricFamily("recallkv_jobs", "Durable jobs, by status.", labels=["status"])
        for status in ("waiting", "running", "completed", "failed", "cancelled"):
            jobs.add_metric([status], stats.jobs.get(status, 0))
        yield jobs
        yield CounterMetricFamily(
            "recallkv_job_failures", "Jobs that failed, once or for good.", value=stats.job_failures
        )
        yield CounterMetricFamily(
            "recallkv_extractor_fallbacks",
            "Messages read without the model that was to read them.",
            value=stats.extractor_fallbacks,
        )
