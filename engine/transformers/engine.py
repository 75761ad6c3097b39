"""The embedded engine: transformers' models, our batching and attention."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from engine.base import (
    Capacity,
    Event,
    Feature,
    GenerateRequest,
    PageRequest,
    Prompt,
    Sampling,
)
from engine.certificate import page_probes
from engine.config import BatchingConfig, CompositionConfig, EngineConfig
from engine.errors import ContextTooLong, EngineClosed, QueueFull
from engine.prompt import ModelPrompts
from engine.transformers.budget import kv_budget
from engine.transformers.cost import CostModel, calibrated
from engine.transformers.governor import ThreadGovernor
from engine.transformers.loading import LoadedModel, choose_device, load_model
from engine.transformers.pages import PageBuilder
from engine.transformers.runner import ModelRunner
from engine.transformers.sequence import Group
from engine.transformers.threads import run_on_short_lived_thread, usable_threads
from engine.transformers.worker import EngineWorker
from kvcache import Catalogue, Fingerprint, MemoryTierName, ModelView, StoreConfig, TieredStore, open_store

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)
T = TypeVar("T")


class TransformersEngine:
    """``engine.base.Engine`` over a transformers model. Owns the segment store it is given."""

    def __init__(
        self,
        model: LoadedModel,
        store: TieredStore,
        *,
        model_id: str,
        batching: BatchingConfig = EngineConfig.batching,
        composing: CompositionConfig = EngineConfig.composing,
        cost: CostModel | None = None,
        governor: ThreadGovernor | None = None,
    ) -> None:
        self.model = model
        self.model_id = model_id
        self._max_waiting = batching.max_waiting
        self.prompts = ModelPrompts(model.tokenizer, model.model.config.vocab_size)
        self._groups: set[Group] = set()
        self._closed = False
        self.store = store
        self._cost = cost
        self._composing = composing
        self._worker = EngineWorker(model, store, batching, composing, self.prompts.vocabulary, cost, governor)
        self._worker.start()
        self._worker.ready.wait()

    @property
    def governor(self) -> ThreadGovernor:
        """Give the chooser of the number of CPU threads."""
        return self._worker.governor

    @property
    def catalogue(self) -> Catalogue:
        """Give the catalogue of the store."""
        return self.store.catalogue

    @property
    def fingerprint(self) -> Fingerprint:
        return self.model.fingerprint

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self._check(request)
        events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        group = self._group(request, events)
        self._groups.add(group)
        self._worker.submit(group)
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self._groups.discard(group)
            if not group.finished:
                self._worker.abort(group)

    async def build(self, prompt: Prompt, salt: str = "") -> int:
        """Compute and store the prompt's kept pieces while nothing else runs; returns how many tokens they
        hold. Raises ``ContextTooLong`` or ``EngineClosed``."""
        kept = tuple(piece for piece in prompt.pieces if piece.storable)
        request = GenerateRequest("build", Prompt(kept), Sampling(max_tokens=0), salt=salt)
        self._check(request)
        events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        group = self._group(request, events, background=True)
        self._groups.add(group)
        self._worker.submit(group)
        try:
            event = await events.get()
        finally:
            self._groups.discard(group)
            group.aborted = True
        if isinstance(event, Exception):
            raise event
        return request.prompt.n_tokens

    def _group(
        self, request: GenerateRequest, events: asyncio.Queue[Event | Exception | None], *, background: bool = False
    ) -> Group:
        loop = asyncio.get_running_loop()

        def sink(event: Event | Exception | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        return Group(request, sink, ModelView(self.catalogue, self.fingerprint).start(request.salt).key, background)

    def _check(self, request: GenerateRequest) -> None:
        if self._closed or not self._worker.is_alive():
            raise EngineClosed("the engine is shutting down")
        prompt_tokens, max_tokens = request.prompt.n_tokens, request.sampling.max_tokens
        if prompt_tokens < 1:
            raise ValueError("a prompt has at least one token")
        if prompt_tokens + max_tokens > self.model.context:
            raise ContextTooLong(prompt_tokens, max_tokens, self.model.context)
        self._worker.memory.check(request)
        if self._worker.capacity().waiting >= self._max_waiting:
            raise QueueFull(f"{self._max_waiting} requests are waiting already")

    async def on_model(self, work: Callable[[ModelRunner], T]) -> T:
        """Run ``work`` on the engine's own thread, between two steps."""
        return await asyncio.wrap_future(self._worker.call(work))

    async def preload(self, key: str) -> int:
        # A CPU's device is the host: there the device tier, which requests fill, is left to them.
        tier: MemoryTierName = "host" if self.model.device.type == "cpu" else "device"
        return await asyncio.to_thread(self.store.preload, key, self.fingerprint, tier, self._worker.has_requests)

    async def build_page(self, request: PageRequest, salt: str = "") -> bool:
        """Compute, certify and store a page while nothing else runs. Raises ``ContextTooLong`` or ``EngineClosed``."""
        if self.model.rotation is None:
            return False
        builder = PageBuilder(
            self.model, self.store, self._composing, page_probes(self.prompts, request), *self._worker.background
        )
        if self._closed:
            raise EngineClosed("the engine is shutting down")
        if builder.n_tokens(request) > self.model.context:
            raise ContextTooLong(builder.n_tokens(request), 0, self.model.context)
        return await asyncio.wrap_future(self._worker.when_idle(builder.build(request, salt)))

    async def forget(self, labels: Sequence[str]) -> int:
        return await asyncio.to_thread(lambda: sum(len(self.catalogue.remove_label(label)) for label in labels))

    async def forget_conversations(self, salt: str) -> int:
        return len(await asyncio.to_thread(self.catalogue.remove_chains, salt))

    def prefill_s(self, n_tokens: int, behind: int) -> float | None:
        return None if self._cost is None else self._cost.compute_s(n_tokens, behind)

    def capacity(self) -> Capacity:
        return self._worker.capacity()

    def metrics(self) -> list[Metric]:
        """Give the CPU threads in use and how often memory was short; the server counts the rest."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        steps_down = "Times that fewer CPU threads were found to be quicker, beside another process, say."
        short = "Times that the device's memory was too short, and segments were evicted for a request."
        return [
            GaugeMetricFamily(
                "recallkv_engine_threads", "CPU threads that the model computes with.", self.governor.threads
            ),
            CounterMetricFamily("recallkv_engine_thread_steps_down", steps_down, self.governor.steps_down),
            CounterMetricFamily("recallkv_engine_out_of_memory", short, self._worker.memory.times_short),
        ]

    async def close(self, drain_s: float = 0.0) -> None:
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + drain_s
        while self._groups and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._worker.stop()
        await asyncio.to_thread(self._worker.join)
        await asyncio.to_thread(self.store.close)


def load_engine(config: EngineConfig, store: StoreConfig) -> TransformersEngine:
    """Load a model and start its engine, which owns the store. Raises ``ModelNotLoaded`` and ``UnsupportedModel``."""
    own = config.transformers
    threads = own.threads or usable_threads()
    device = choose_device(own.device)
    opened = open_store(store, device)
    try:
        loaded, cost = run_on_short_lived_thread(lambda: _loaded(config, device), threads)
    except BaseException:
        opened.close()
        raise
    return TransformersEngine(
        loaded,
        opened,
        model_id=config.model_id,
        batching=replace(config.batching, kv_bytes=kv_budget(device, config.batching.kv_bytes)),
        composing=config.composing,
        cost=cost,
        governor=ThreadGovernor(threads, adaptive=own.adapt_threads and device.type == "cpu"),
    )


def _loaded(config: EngineConfig, device: torch.device) -> tuple[LoadedModel, CostModel | None]:
    """Load the model, and measure this machine where loading is to be weighed."""
    own = config.transformers
    model = load_model(config.model, device=own.device, dtype=config.dtype, context=config.context, native=own.native)
    chunk, _ = config.batching.chunks(device)
    return model, calibrated(model, chunk) if own.weigh_loading else None
