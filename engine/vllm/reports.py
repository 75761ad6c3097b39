"""vLLM's statistics, read for what RecallKV wants to know: loads, saved segments, how busy the engine is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from engine.vllm.planning import Loads
from engine.vllm.schedule import entry_from_json
from kvcache import Catalogue

_MAX_REQUESTS = 4096


class Reports:
    """The connector's reports. Thread-safe."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._loads: OrderedDict[str, Loads] = OrderedDict()
        self.running = 0
        self.waiting = 0

    def logger(self) -> type[StatLoggerBase]:
        """Make a class for vLLM to make its logger of."""
        reports = self

        class Logger(StatLoggerBase):
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """Set up nothing."""

            def record(
                self,
                scheduler_stats: Any,
                iteration_stats: Any,
                mm_cache_stats: Any = None,
                engine_idx: int = 0,
            ) -> None:
                if scheduler_stats is not None:
                    reports.take_in(scheduler_stats)

            def log_engine_initialized(self) -> None:
                """Say nothing."""

        return Logger

    def take_in(self, stats: Any) -> None:
        """Take in one step's statistics."""
        self.running = stats.num_running_reqs
        self.waiting = stats.num_waiting_reqs + stats.num_skipped_waiting_reqs
        events = stats.kv_connector_stats
        if not events:
            return
        for saved in events.get("saved", ()):
            self._catalogue.record(entry_from_json(saved))
        for key in (*events.get("missing", ()), *events.get("bad", ())):
            self._catalogue.quarantine(key)
        with self._lock:
            for load in events.get("loads", ()):
                self._catalogue.touch(load["key"], load["tier"])
                self._of(load["name"]).take_in(load)
            for name, position in events.get("failed", ()):
                loads = self._of(name)
                loads.failed_at = min(loads.failed_at, position)
            for repair in events.get("repairs", ()):
                loads = self._of(repair["name"])
                loads.recomputed, loads.repair_s = repair["n_tokens"], repair["seconds"]

    def _of(self, name: str) -> Loads:
        loads = self._loads.setdefault(name, Loads())
        while len(self._loads) > _MAX_REQUESTS:
            self._loads.popitem(last=False)
        return loads

    def loads(self, name: str) -> Loads:
        """Return what was loaded for a request, which is then forgotten."""
        with self._lock:
            return self._loads.pop(name, None) or Loads()
