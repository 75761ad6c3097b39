"""LMCache under vLLM: keys and values in host memory, read back into vLLM's cache."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from benchmarks.peers.base import Answer, Job
from benchmarks.peers.vllm import Vllm, load_vllm

_CHUNK = 256
_SAVING_S = 1.0


class NoConnector(Exception):
    """LMCache cannot reach this device's memory."""


class Lmcache(Vllm):
    """vLLM's own prefix cache is emptied before each question, so that what is found is LMCache's. It has
    not been run: it takes a GPU."""

    notes = "float32 weights and cache, eager, engine in this process; chunks of 256 tokens from host memory"

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"lmcache": version("lmcache"), **super().versions()}

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        if list(context) != self._context:
            self.build(context)
        time.sleep(_SAVING_S)  # it saves behind the answer
        self._llm.reset_prefix_cache()
        return super().cached(context, query)


def start(job: Job) -> Lmcache:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # Tried with 0.5.6: it logs this error, says "degraded mode (recompute)", and never stores or finds anything.
        raise NoConnector("LMCache has none for vLLM on CPUs (its words: No supported cpu connector found)")
    import lmcache  # noqa: F401 - says in one line that it is missing, which vLLM does not

    os.environ.setdefault("LMCACHE_LOCAL_CPU", "True")
    os.environ.setdefault("LMCACHE_CHUNK_SIZE", str(_CHUNK))
    os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
    return Lmcache(load_vllm(job, connector="LMCacheConnectorV1"), _CHUNK)
