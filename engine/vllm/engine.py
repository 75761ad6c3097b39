"""vLLM as an engine: its AsyncLLM in this process, with our connector in its scheduler and workers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from transformers import AutoTokenizer
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from engine.base import (
    Capacity,
    Event,
    Feature,
    GenerateRequest,
    PageRequest,
    Piece,
    Prompt,
    Sampling,
    Started,
)
from engine.certificate import certificate_of, page_probes
from engine.errors import ContextTooLong, EngineClosed, InvalidRequest, ModelNotLoaded, NotScored, QueueFull, first_line
from engine.placement import CompositionConfig
from engine.prompt import ModelPrompts
from engine.transformers.loading import choose_dtype
from engine.vllm.answers import Answers, token_logprob
from engine.vllm.plan import Composition, RequestPlan, StoredRun
from engine.vllm.planning import PlanMaker, Planned, page_parts, page_request, without_attention
from engine.vllm.reports import Reports
from engine.vllm.sampling import sampling_params
from engine.vllm.settings import checkpoint_fingerprint
from engine.vllm.tools import ToolParsing, forced
from kvcache import Catalogue, Certificate, Fingerprint, ModelView

log = logging.getLogger(__name__)

# vLLM's priorities, the lower one first: what users ask comes before what is only built.
_USER, _BACKGROUND = 0, 1
_SAVE_TIMEOUT_S = 60.0


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
        *,
        model_id: str,
        composing: CompositionConfig | None,
        max_waiting: int,
        tool_parser: str | None = None,
    ) -> None:
        self.llm = llm
        self._tools = ToolParsing(tool_parser, tokenizer)
        self.catalogue = catalogue
        self._stored = ModelView(catalogue, fingerprint)
        self.reports = reports
        self._fingerprint = fingerprint
        self.model_id = model_id
        self._composing = composing
        self._can_compose: bool | None = None
        self._max_waiting = max_waiting
        self.prompts = ModelPrompts(tokenizer, llm.model_config.get_vocab_size())
        self._plans = PlanMaker(self._stored, None)
        self._running = 0
        self._closed = False

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
        )

    async def preload(self, key: str) -> int:
        """Have the workers read the segment into their host tier; they do not wait for it, nor does this."""
        if self.catalogue.tier_of(key, self._fingerprint) is None:
            return 0
        await self._get_ready()
        return sum(await self.llm.collective_rpc("recallkv_preload", args=(key,)))

    # -- generating ------------------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self._check(request)
        await self._get_ready()
        name = uuid.uuid4().hex
        if request.score_last:
            # vLLM scores the tokens that it computes, and leaves the rows of those before them as they were in memory.
            request = replace(request, use_segments=False)
        planned = self._with_room(self._plans.plan(request, name))
        sampling = request.sampling if request.tools is None else forced(request.sampling, request.tools)
        params = sampling_params(sampling, request.n, planned.plan)
        params.skip_reading_prefix_cache = not request.use_segments
        if request.score_last:
            params.prompt_logprobs = request.sampling.logprobs or 0
        readers = None if request.tools is None else self._tools.readers(request.tools)
        asked = time.perf_counter()
        answers = Answers(self.prompts.vocabulary, request.sampling)
        started = False
        async with aclosing(self._outputs(planned, params, name, _USER)) as outputs:
            async for output in outputs:
                if not started:
                    started = True
                    yield self._started(planned, output, time.perf_counter() - asked)
                for choice in output.outputs:
                    delta = answers.delta(choice)
                    yield delta if readers is None else readers.read(delta)

    def _with_room(self, planned: Planned) -> Planned:
        """Keep what there is room for on disk: of a chain nothing behind what there is none for."""
        tokens, bytes_per_token = planned.request.prompt.token_ids, self._fingerprint.layout.bytes_per_token
        keeps = tuple(
            takewhile(
                lambda keep: self.catalogue.expect(keep.key(tokens), (keep.end - keep.start) * bytes_per_token),
                planned.plan.keeps,
            )
        )
        return replace(planned, plan=replace(planned.plan, keeps=keeps))

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

    async def _outputs(
        self, planned: Planned, params: SamplingParams, name: str, priority: int
    ) -> AsyncGenerator[Any, None]:
        prompt = TokensPrompt(prompt_token_ids=list(planned.request.prompt.token_ids), cache_salt=planned.cache_salt)
        self._running += 1
        try:
            async with aclosing(self.llm.generate(prompt, params, name, priority=priority)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise EngineClosed("vLLM's engine has died; its log says why") from error
        except (VLLMValidationError, ValueError) as error:
            raise InvalidRequest(str(error)) from error
        finally:
            self._running -= 1

    def _check(self, request: GenerateRequest) -> None:
        if self._closed or self.llm.errored:
            raise EngineClosed("the engine is shutting down")
        prompt_tokens, max_tokens = request.prompt.n_tokens, request.sampling.max_tokens
        context = self.llm.model_config.max_model_len
        if prompt_tokens < 1:
            raise ValueError("a prompt has at least one token")
        if prompt_tokens + max_tokens > context:
            raise ContextTooLong(prompt_tokens, max_tokens, context)
        if max(0, self._running - self.llm.scheduler_config.max_num_seqs) >= self._max_waiting:
            raise QueueFull(f"{self._max_waiting} requests are waiting already")

    async def _get_ready(self) -> None:
        """Before the first request: ask the workers whether this model's keys can be moved."""
        if self._can_compose is not None or self._composing is None:
            return
        self._can_compose = False
        refusals = [answer for answer in await self.llm.collective_rpc("recallkv_compose") if answer]
        if refusals:
            log.warning("memories cannot be composed: %s", refusals[0])
            return
        self._can_compose = True
        self._plans = PlanMaker(self._stored, self._composing)

    # -- building --------------------------------------------------------------------------------------------

    async def build(self, prompt: Prompt, salt: str = "") -> int:
        """Compute and store the prompt's kept pieces; returns how many tokens they hold."""
        kept = Prompt(tuple(piece for piece in prompt.pieces if piece.storable))
        request = GenerateRequest("build", kept, Sampling(max_tokens=1), salt=salt)
        self._check(request)
        await self._get_ready()
        planned = self._with_room(self._plans.plan(request, uuid.uuid4().hex))
        await self._run(planned)
        await self._until_stored([keep.key(kept.token_ids) for keep in planned.plan.keeps])
        return kept.n_tokens

    async def build_page(self, request: PageRequest, salt: str = "") -> bool:
        """Compute, store and certify a page, behind whatever users ask."""
        key = await self.store_page(request, salt)
        if key is None:
            return False
        try:
            certificate = await self._certified(request, key)
        except NotScored:  # an expected end: memories are deleted, and segments evicted, while pages are built
            log.info("page %s was gone before it was certified", key[:12])
            return False
        return self.catalogue.certify(key, certificate)

    async def store_page(self, request: PageRequest, salt: str = "") -> str | None:
        """Compute and store a page without a certificate; returns its key, or None where it could not be stored."""
        await self._get_ready()
        if not self._can_compose:
            return None
        prompt, keep = page_request(request, self._stored.behind(salt, request.header.token_ids).key)
        asked = GenerateRequest("page", prompt, Sampling(max_tokens=1), salt=salt)
        self._check(asked)
        planned = self._plans.plan(asked, uuid.uuid4().hex)
        planned = self._with_room(replace(planned, plan=replace(planned.plan, keeps=(keep,))))
        if not planned.plan.keeps:
            return None
        await self._run(planned)
        key = keep.key(prompt.token_ids)
        await self._until_stored([key])
        return None if self.catalogue.tier_of(key) is None else key

    async def _certified(self, request: PageRequest, key: str) -> Certificate:
        """Compose the page behind the context at each fidelity and compare with full prefill. Raises ``NotScored`` when
        the page is gone meanwhile."""
        assert self._composing is not None, "a page is built only where it can be composed"
        before = Prompt((request.header, *request.context)).token_ids
        page = Prompt(request.parts).token_ids
        start = len(Prompt((request.header, *request.lead)).token_ids)
        source = StoredRun(key, len(before), len(page), 0, len(before) - start)
        repairs = {"high": self._composing.high, "fast": self._composing.fast}
        found: dict[str, list[tuple[float, float]]] = {fidelity: [] for fidelity in repairs}
        for probe in page_probes(self.prompts, request):
            tokens = before + page + probe.tokens
            try:
                exact = await self.score(tokens, len(probe.answer))
                for fidelity, repair in repairs.items():
                    composition = Composition(
                        page_parts(request, len(before)), without_attention(repair).strategy, repair.share
                    )
                    other = await self.score(tokens, len(probe.answer), (source,), composition)
                    found[fidelity].append(await self.divergence(exact, other))
            finally:
                await self.llm.collective_rpc("recallkv_forget_scores")
        return certificate_of(found)

    async def score(
        self,
        token_ids: Sequence[int],
        n: int,
        sources: tuple[StoredRun, ...] = (),
        composition: Composition | None = None,
    ) -> str:
        """Run a prompt, from sources as far as they go, and keep the next-token distributions of its last ``n`` tokens
        in the workers; returns the name they are kept under."""
        name = uuid.uuid4().hex
        plan = RequestPlan(sources, (), composition, name, n)
        prompt = Prompt((Piece("turns", tuple(token_ids)),))
        request = GenerateRequest("score", prompt, Sampling(max_tokens=1), salt=name)
        self._check(request)
        await self._get_ready()
        await self._run(Planned(request, plan))
        return name

    async def divergence(self, exact: str, other: str) -> tuple[float, float]:
        """Mean KL in nats and the share of equal likeliest tokens between two scored prompts. Raises ``NotScored`` when
        one of them was not, because a source of it was gone."""
        answers = await self.llm.collective_rpc("recallkv_divergence", args=(exact, other))
        found = next((answer for answer in answers if answer is not None), None)
        if found is None:
            raise NotScored("a segment of a scored prompt is gone")
        return found[0], found[1]

    async def _run(self, planned: Planned) -> None:
        params = sampling_params(planned.request.sampling, 1, planned.plan)
        async with aclosing(self._outputs(planned, params, planned.plan.id, _BACKGROUND)) as outputs:
            async for _ in outputs:
                pass

    async def _until_stored(self, keys: Sequence[str]) -> None:
        """Wait until the workers have written these segments (or given up)."""
        deadline = time.monotonic() + _SAVE_TIMEOUT_S
        while any(self.catalogue.tier_of(key) is None for key in keys) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def metrics(self) -> list[Metric]:
        """vLLM's own and the connector's."""
        return [family for family in REGISTRY.collect() if family.name.startswith("vllm:")]

    # -- the end ---------------------------------------------------------------------------------------------

    async def forget(self, labels: Sequence[str]) -> int:
        """Also from the workers' memory; and from vLLM's own cache, all of whose blocks are let go of: it does not
        know which hold what."""
        return await self._forget(
            [k for label in labels for k in await asyncio.to_thread(self.catalogue.remove_label, label)]
        )

    async def _forget(self, removed: list[str]) -> int:
        if not self._closed:
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
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + drain_s
        while self._running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self.llm.output_handler is not None:  # or it reports its processes' end as a failure
            self.llm.output_handler.cancel()
        await asyncio.to_thread(self.llm.shutdown)
        await asyncio.to_thread(self.catalogue.close)


def _times(output: Any, elapsed: float) -> tuple[float, float]:
    """Seconds in the queue and of prefill."""
    metrics = output.metrics
    if metrics is None or not metrics.scheduled_ts:
        return 0.0, elapsed
    queue = max(0.0, metrics.scheduled_ts - metrics.queued_ts)
    return queue, max(0.0, metrics.first_token_ts - metrics.scheduled_ts)


def load_vllm_engine(
    model: str | Path,
    *,
    model_id: str,
    folder: Path,
    dtype: str = "auto",
    context: int | None = None,
    max_running: int = 16,
    max_waiting: int = 256,
    device_bytes: int = 2 << 30,
    host_gb: float = 4.0,
    codec: str = "none",
    fsync: bool = True,
    disk_bytes: int = 20 << 30,
    composing: CompositionConfig | None = None,
    flags: Sequence[str] = (),
    tool_parser: str | None = None,
    plain: bool = False,
) -> VllmEngine:
    """Start vLLM's processes with our connector (``plain``: without it, to compare with).

    Segments lie in ``folder``. ``flags`` are vLLM's own, as its command line takes them, and have the last word.
    Raises ``ModelNotLoaded``.
    """
    # Nothing is sent anywhere, and the CPU back end learns its cache's size from the environment only.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(device_bytes / (1 << 30)))))
    # What the transformers engine takes, so that the two share segments.
    chosen = choose_dtype(dtype, torch.device("cpu" if current_platform.is_cpu() else "cuda"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    fingerprint = checkpoint_fingerprint(str(model), str(model), chosen)
    connector = {
        "kv_connector": "RecallKVConnector",
        "kv_connector_module_path": "engine.vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "folder": str(folder),
            "host_gb": host_gb,
            "codec": codec,
            "fsync": fsync,
            "managed": True,
            "fingerprint": asdict(fingerprint),
        },
    }
    arguments = _arguments(model, chosen, context, max_running, flags)
    arguments.kv_transfer_config = None if plain else KVTransferConfig(**connector)
    # The memory tiers are vLLM's and its workers'; here is the catalogue.
    catalogue = Catalogue(folder, disk_bytes=disk_bytes, fsync=fsync)
    reports = Reports(catalogue)
    try:
        config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
        if not plain:
            _share_steps(config)
        llm = AsyncLLM.from_vllm_config(config, stat_loggers=[reports.logger()])
    except Exception as error:
        catalogue.close()
        raise ModelNotLoaded(f"vLLM does not start with '{model}': {first_line(error)}") from error
    return VllmEngine(
        llm,
        catalogue,
        reports,
        fingerprint,
        tokenizer,
        model_id=model_id,
        composing=composing,
        max_waiting=max_waiting,
        tool_parser=tool_parser,
    )


def _arguments(
    model: str | Path, dtype: torch.dtype, context: int | None, max_running: int, flags: Sequence[str]
) -> Any:
    """Our defaults, then the user's flags, through vLLM's own parser."""
    own = ["--model", str(model), "--dtype", str(dtype).removeprefix("torch."), "--max-num-seqs", str(max_running)]
    own += ["--scheduling-policy", "priority", "--worker-extension-cls", "engine.vllm.extension.WorkerExtension"]
    if context is not None:
        own += ["--max-model-len", str(context)]
    if current_platform.is_cpu():
        # Compiling takes minutes and buys little on a CPU; long steps would keep short requests waiting.
        own += ["--enforce-eager", "--max-num-batched-tokens", "512"]
    parser = FlexibleArgumentParser()
    AsyncEngineArgs.add_cli_args(parser)
    return parser.parse_args([*own, *flags])


def _share_steps(config: Any) -> None:
    """Leave a quarter of every step's tokens to requests with little to compute, by taking long prompts one at a time
    and in pieces: whoever's prompt is mostly stored does not stand behind whoever's is not."""
    scheduling = config.scheduler_config
    if scheduling.long_prefill_token_threshold == 0:
        share = scheduling.max_num_batched_tokens * 3 // 4
        scheduling.long_prefill_token_threshold = min(share, config.model_config.max_model_len)
    extra = config.kv_transfer_config.kv_connector_extra_config
    extra["long_prefill_tokens"] = scheduling.long_prefill_token_threshold
