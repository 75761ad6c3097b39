"""vLLM as an engine: its AsyncLLM in this process, with our connector in its scheduler and workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from vllm.v1.engine.async_llm import AsyncLLM

from engine.base import (
    Capacity,
    Event,
    Feature,
    GenerateRequest,
    PageRequest,
    Prompt,
    Sampling,
    Started,
)
from engine.certificate import page_probes
from engine.config import EngineConfig
from engine.parameters import parameters_of
from engine.prompt import ModelPrompts
from engine.vllm.answers import Answers, token_logprob
from engine.vllm.intake import Intake
from engine.vllm.pages import Pages
from engine.vllm.planning import Planned
from engine.vllm.reports import Reports
from engine.vllm.sampling import sampling_params
from engine.vllm.tools import ToolParsing, forced
from kvcache import Catalogue, Fingerprint, ModelView

log = logging.getLogger(__name__)


class VllmEngine:
    """``engine.base.Engine`` over vLLM. Owns the catalogue it is given: the memory tiers are vLLM's own cache and the
    workers' host tiers."""

    def __init__(
        self,
        llm: AsyncLLM,
        catalogue: Catalogue,
        reports: Reports,
        fingerprint: Fingerprint,
        tokenizer: Any,
        config: EngineConfig,
    ) -> None:
        self.llm = llm
        composing = config.composing if config.vllm.composes and not config.vllm.plain else None
        self._intake = Intake(llm, ModelView(catalogue, fingerprint), composing, config.batching.max_waiting)
        self.pages = Pages(self._intake)
        self._tools = ToolParsing(config.vllm.tool_parser, tokenizer)
        self.catalogue = catalogue
        self.reports = reports
        self._fingerprint = fingerprint
        self.model_id = config.model_id
        self._parameters = parameters_of(llm.model_config.hf_config)
        self.prompts = ModelPrompts(tokenizer, llm.model_config.get_vocab_size())

    # -- the model -------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset({"structured", "tools"})

    def capacity(self) -> Capacity:
        return Capacity(
            context=self.llm.model_config.max_model_len,
            max_running=self.llm.scheduler_config.max_num_seqs,
            running=self.reports.running,
            waiting=self.reports.waiting,
            parameters=self._parameters,
        )

    async def preload(self, key: str) -> int:
        """Have the workers read the segment into their host tier; they do not wait for it, nor does this."""
        if self.catalogue.tier_of(key, self._fingerprint) is None:
            return 0
        await self._intake.get_ready()
        return sum(await self.llm.collective_rpc("recallkv_preload", args=(key,)))

    # -- generating ------------------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self._intake.check(request)
        await self._intake.get_ready()
        if request.score_last:
            # vLLM scores the tokens that it computes, and leaves the rows of those before them as they were in memory.
            request = replace(request, use_segments=False)
        planned = self._intake.with_room(self._intake.plan(request))
        sampling = request.sampling if request.tools is None else forced(request.sampling, request.tools)
        params = sampling_params(sampling, request.n, planned.plan)
        params.skip_reading_prefix_cache = not request.use_segments
        if request.score_last:
            params.prompt_logprobs = request.sampling.logprobs or 0
        readers = None if request.tools is None else self._tools.readers(request.tools)
        asked = time.perf_counter()
        answers = Answers(self.prompts.vocabulary, request.sampling)
        started = False
        async with aclosing(self._intake.generate(planned, params)) as outputs:
            async for output in outputs:
                if not started:
                    started = True
                    yield self._started(planned, output, time.perf_counter() - asked)
                for choice in output.outputs:
                    delta = answers.delta(choice)
                    yield delta if readers is None else readers.read(delta)

    def _started(self, planned: Planned, output: Any, elapsed: float) -> Started:
        loads = self.reports.loads(planned.plan.id)
        self.catalogue.counts.miss(len(planned.plan.keeps))
        for key in {source.key for source in planned.plan.sources} - loads.tiers.keys():
            self.catalogue.touch(key, "device")
        started = planned.started(loads, output.num_cached_tokens or 0, _times(output, elapsed))
        request = planned.request
        if not request.score_last:
            return started
        token_ids = request.prompt.token_ids[-request.score_last :]
        found = output.prompt_logprobs[-request.score_last :]
        wanted = request.sampling.logprobs or 0
        scores = (
            token_logprob(i, one, wanted, self.prompts.vocabulary) for i, one in zip(token_ids, found, strict=True)
        )
        return replace(started, scores=tuple(scores))

    # -- building --------------------------------------------------------------------------------------------

    async def build(self, prompt: Prompt, salt: str = "") -> int:
        """Compute and store the prompt's kept pieces; returns how many tokens they hold."""
        kept = Prompt(tuple(piece for piece in prompt.pieces if piece.storable))
        request = GenerateRequest("build", kept, Sampling(max_tokens=1), salt=salt)
        self._intake.check(request)
        await self._intake.get_ready()
        planned = self._intake.with_room(self._intake.plan(request))
        await self._intake.run(planned)
        await self._intake.until_stored([keep.key(kept.token_ids) for keep in planned.plan.keeps])
        return kept.n_tokens

    async def build_page(self, request: PageRequest, salt: str = "") -> bool:
        """Compute, store and certify a page, behind whatever users ask."""
        return await self.pages.build(request, salt, page_probes(self.prompts, request))

    def metrics(self) -> list[Metric]:
        """Collect vLLM's own and the connector's."""
        return [family for family in REGISTRY.collect() if family.name.startswith("vllm:")]

    # -- the end ---------------------------------------------------------------------------------------------

    async def forget(self, labels: Sequence[str]) -> int:
        """Also from the workers' memory; and from vLLM's own cache, all of whose blocks are let go of: it does not
        know which hold what."""
        return await self._forget(
            [k for label in labels for k in await asyncio.to_thread(self.catalogue.remove_label, label)]
        )

    async def _forget(self, removed: list[str]) -> int:
        if not self._intake.closed:
            if removed:
                await self.llm.collective_rpc("recallkv_forget", args=(removed,))
            await self.llm.reset_prefix_cache()
        return len(removed)

    async def forget_conversations(self, salt: str) -> int:
        """vLLM's own cache has them; the folder those of the other engine, and of other models."""
        return await self._forget(await asyncio.to_thread(self.catalogue.remove_chains, salt))

    def prefill_s(self, n_tokens: int, behind: int) -> float | None:
        return None

    async def close(self, drain_s: float = 0.0) -> None:
        if self._intake.closed:
            return
        self._intake.closed = True
        deadline = time.monotonic() + drain_s
        while self._intake.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self.llm.output_handler is not None:  # or it reports its processes' end as a failure
            self.llm.output_handler.cancel()
        await asyncio.to_thread(self.llm.shutdown)
        await asyncio.to_thread(self.catalogue.close)


def _times(output: Any, elapsed: float) -> tuple[float, float]:
    """Return the seconds in the queue and of prefill."""
    metrics = output.metrics
    if metrics is None or not metrics.scheduled_ts:
        return 0.0, elapsed
    queue = max(0.0, metrics.scheduled_ts - metrics.queued_ts)
    return queue, max(0.0, metrics.first_token_ts - metrics.scheduled_ts)
