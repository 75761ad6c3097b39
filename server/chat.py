"""Chat: retrieve, plan, generate; the same for streamed and whole replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from engine.base import (
    FIDELITIES,
    ChatMessage,
    Delta,
    Engine,
    Event,
    Fidelity,
    GenerateRequest,
    Prompt,
    Sampling,
    Started,
    Tools,
)
from engine.errors import ContextTooLong
from memory import Cube, MemoryStore
from scheduler import Ask, Foresight, Plan, Planner, Upkeep, last_words
from server.errors import ApiError
from server.metrics import Metrics
from server.schemas import MemoryOptions, SamplingFields


class Remember(Protocol):
    """Keeps what a user said, and what is worth remembering of it, in a cube."""

    async def __call__(self, tenant: str, cube: str, text: str, session: str | None) -> None: ...


@dataclass(frozen=True)
class Receipt:
    """Where every memory in the prompt came from."""

    cubes: tuple[str, ...]
    plan: Plan
    started: Started

    def as_json(self) -> dict[str, Any]:
        """The reply's ``memory`` object. Load times are in milliseconds."""
        return {
            "cube": self.cubes[0] if len(self.cubes) == 1 else list(self.cubes),
            "mode": self.plan.mode,
            "fidelity": self.plan.fidelity,
            "memories": [self._memory(i) for i in range(len(self.plan.memories))],
            "prompt_tokens": self.started.prompt_tokens,
            "cached_tokens": self.started.cached_tokens,
        }

    def _memory(self, i: int) -> dict[str, Any]:
        planned = self.plan.memories[i]
        report = self.started.pieces[0 if planned.piece is None else planned.piece]
        return {
            "id": planned.memory.id,
            "tokens": None if planned.piece is None else report.n_tokens,
            "source": report.source,
            "fidelity": report.fidelity,
            "recomputed": report.recomputed,
            "load_ms": round(report.load_ms, 3),
            "why": planned.why,
        }


class Answering(Protocol):
    """What a reply is made of: the events of one prompt, or of several."""

    @property
    def events(self) -> AsyncGenerator[Event, None]: ...

    def prompt_of(self, index: int) -> int:
        """Give the prompt, counted from 0, that choice ``index`` answers."""
        ...

    def receipt(self, prompt: int | None = None) -> Any:
        """The ``memory`` object of one prompt, or what the whole reply has; None without memory."""
        ...

    def usage(self) -> dict[str, Any]: ...

    def server_timing(self) -> str: ...


@dataclass
class Generation:
    """One request's events, with what the reply needs beside them. ``total_s`` is the time to first token; ``said`` is
    what a user said with it, None where that is no turn of a conversation."""

    prompt: Prompt
    events: AsyncGenerator[Event, None]
    arrived: float
    retrieve_s: float = 0.0
    plan: Plan | None = None
    cubes: tuple[str, ...] = ()
    said: str | None = None
    started: Started | None = None
    ttft_s: float = 0.0
    completion_tokens: int = 0
    _last_token_at: dict[int, float] = field(default_factory=dict)

    def prompt_of(self, index: int) -> int:
        """All choices answer the one prompt."""
        return 0

    def receipt(self, prompt: int | None = None) -> dict[str, Any] | None:
        """The ``memory`` object, once the first token is known; None for a request without memory."""
        if self.plan is None or self.started is None:
            return None
        return Receipt(self.cubes, self.plan, self.started).as_json()

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object, cached tokens included."""
        prompt_tokens = self.prompt.n_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.started.cached_tokens if self.started else 0},
        }

    def server_timing(self) -> str:
        """The ``Server-Timing`` header, in milliseconds; ``total`` is up to the first token."""
        parts = {"retrieve": self.retrieve_s}
        if self.started is not None:
            started = self.started
            parts = {"queue": started.queue_s, **parts, "load": started.load_s, "prefill": started.prefill_s}
            parts["total"] = self.ttft_s
        return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in parts.items())


class ChatService:
    """Turns requests into generations."""

    def __init__(
        self,
        engine: Engine,
        memories: MemoryStore,
        planner: Planner,
        upkeep: Upkeep,
        metrics: Metrics,
        *,
        served_name: str,
        default_max_tokens: int,
        default_mode: str,
        default_top_k: int,
        default_fidelity: Fidelity,
        sessions: bool = True,
        remember: Remember | None = None,
        foresight: Foresight | None = None,
    ) -> None:
        self._engine = engine
        self._memories = memories
        self._planner = planner
        self._upkeep = upkeep
        self._metrics = metrics
        self._default_max_tokens = default_max_tokens
        self._default_mode = default_mode
        self._default_top_k = default_top_k
        self._default_fidelity = default_fidelity
        self._sessions = sessions
        self._remember = remember
        self._foresight = foresight
        self.served_name = served_name

    def check_model(self, name: str) -> None:
        """Raises a 404 for a model that is not served."""
        if name != self.served_name:
            raise ApiError(
                404,
                f"The model '{name}' does not exist; this server has '{self.served_name}'.",
                "model_not_found",
                param="model",
            )

    @asynccontextmanager
    async def chat(
        self,
        tenant: str,
        messages: tuple[ChatMessage, ...],
        options: MemoryOptions | None,
        fields: SamplingFields,
        max_tokens: int | None,
        logprobs: int | None,
        request_id: str,
        tools: Tools | None = None,
    ) -> AsyncGenerator[Generation, None]:
        """A chat generation; leaving the block before its end aborts it."""
        arrived = time.perf_counter()
        self.check_model(fields.model)
        self.check_features(fields, tools)
        reserve = max_tokens or self._default_max_tokens
        ask = replace(await self.ask(tenant, messages, options or MemoryOptions(), reserve), tools=tools)
        try:
            plan = await self._planner.plan(ask)
        except ValueError as error:
            raise ApiError(400, str(error), "invalid_messages", param="messages") from error
        said = last_words(messages)
        if options is not None and options.remember and self._remember is not None:
            # Now that the prompt is made: what is said here is no memory of this question.
            await self._remember(tenant, ask.cube_ids[0], said, options.session)
        generation = self.generation(
            plan.prompt,
            fields,
            max_tokens,
            logprobs,
            request_id,
            tenant,
            arrived,
            use_segments=plan.mode == "kv",
            fidelity=plan.fidelity,
            tools=tools,
            keep_turns=self._sessions and plan.mode == "kv" and plan.in_pieces,
        )
        generation.plan, generation.retrieve_s = plan, plan.retrieve_s
        generation.cubes, generation.said = ask.cube_ids, said
        async with aclosing(generation.events):
            yield generation

    async def expected(self, tenant: str, messages: tuple[ChatMessage, ...], options: MemoryOptions) -> Prompt | None:
        """The prompt up to the turns, as a chat request with these messages (the last one unfinished) would have it;
        None where it holds no memories."""
        ask = await self.ask(tenant, messages, options, self._default_max_tokens)
        plan = await self._planner.plan(replace(ask, provisional=True))
        if plan.mode != "kv" or not plan.memories or not plan.in_pieces:
            return None
        return Prompt(plan.prompt.pieces[:-1])

    async def plan(self, ask: Ask) -> Plan:
        """Choose which memories go into the prompt; see ``Planner.plan``."""
        return await self._planner.plan(ask)

    async def ask(
        self, tenant: str, messages: tuple[ChatMessage, ...], options: MemoryOptions, reserve_tokens: int | None
    ) -> Ask:
        """Say what a request with these options wants of memory; ``reserve_tokens`` None is the default answer's
        length. Raises ``memory.errors.NotFound`` for cubes that are nobody's or another tenant's."""
        mode: Any = options.mode or self._default_mode
        names = [options.cube] if isinstance(options.cube, str) else options.cube

        def named() -> list[Cube]:
            if names is None:
                return [self._memories.default_cube(tenant)]
            return [self._memories.cube(tenant, name) for name in names]

        cubes = await asyncio.to_thread(named)
        return Ask(
            tenant=tenant,
            cube_ids=tuple(dict.fromkeys(cube.id for cube in cubes)),
            fidelity=options.fidelity or self._fidelity(cubes),
            messages=messages,
            mode=mode,
            top_k=self._default_top_k if options.top_k is None else options.top_k,
            memory_ids=tuple(options.ids),
            reserve_tokens=self._default_max_tokens if reserve_tokens is None else reserve_tokens,
        )

    def _fidelity(self, cubes: Sequence[Cube]) -> Fidelity:
        """The strictest that any of the cubes asks for; the server's where none does."""
        asked = {cube.fidelity for cube in cubes}
        return next((fidelity for fidelity in FIDELITIES if fidelity in asked), self._default_fidelity)

    def generation(
        self,
        prompt: Prompt,
        fields: SamplingFields,
        max_tokens: int | None,
        logprobs: int | None,
        request_id: str,
        tenant: str,
        arrived: float,
        *,
        use_segments: bool,
        fidelity: Fidelity = "exact",
        tools: Tools | None = None,
        keep_turns: bool = False,
        score_last: int = 0,
    ) -> Generation:
        """The generation of a prompt, which begins when its events are asked for. Raises ``ContextTooLong`` and 400 for
        token ids outside the vocabulary."""
        context = self._engine.capacity().context
        room = context - prompt.n_tokens
        if room < max(1, max_tokens or 0):
            param = fields.prompt_field if room < 1 else fields.length_field
            raise ContextTooLong(prompt.n_tokens, max_tokens, context, param)
        sampling = fields.sampling(min(self._default_max_tokens, room) if max_tokens is None else max_tokens, logprobs)
        self._check_token_ids(sampling)
        request = GenerateRequest(
            request_id,
            prompt,
            sampling,
            fields.n,
            tenant,
            use_segments,
            fidelity,
            tools=tools,
            keep_turns=keep_turns,
            score_last=score_last,
        )
        generation = Generation(prompt, _nothing(), arrived)
        generation.events = self._observed(request, generation)
        return generation

    def check_features(self, fields: SamplingFields, tools: Tools | None = None) -> None:
        """Raises 400 for structure or tools that this engine does not do, by the name that the request has for it."""
        structured = None if fields.structured is None else fields.structured[0]
        for feature, param in (("tools", None if tools is None else "tools"), ("structured", structured)):
            if param is not None and feature not in self._engine.features:
                raise ApiError(400, f"{param}: not supported by this engine; vLLM does.", "unsupported", param=param)

    def _check_token_ids(self, sampling: Sampling) -> None:
        highest = self._engine.prompts.vocabulary_size - 1
        for param, ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
            if any(not 0 <= token_id <= highest for token_id in ids):
                raise ApiError(400, f"{param}: token ids go from 0 to {highest}.", "invalid_value", param=param)

    async def _observed(self, request: GenerateRequest, generation: Generation) -> AsyncGenerator[Event, None]:
        """The engine's events, counted on their way."""
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                now = time.perf_counter()
                if isinstance(event, Started):
                    generation.started = event
                    generation.ttft_s = now - generation.arrived
                    self._metrics.observe_started(event, generation.ttft_s)
                    if generation.plan is not None:
                        self._observe(request.salt, generation, generation.plan, event)
                else:
                    self._count(event, generation, now)
                yield event
        self._metrics.end_to_end.observe(time.perf_counter() - generation.arrived)

    def _observe(self, tenant: str, generation: Generation, plan: Plan, started: Started) -> None:
        """Let those learn from the request who see to it that the next ones are quick."""
        self._upkeep.observe(tenant, plan, started)
        if self._foresight is not None and generation.said is not None:
            self._foresight.observe(tenant, generation.cubes, plan, started, generation.said)

    def _count(self, delta: Delta, generation: Generation, now: float) -> None:
        generation.completion_tokens += len(delta.token_ids)
        self._metrics.count_tokens(len(delta.token_ids))
        last = generation._last_token_at.get(delta.index)
        if last is not None:
            self._metrics.inter_token.observe(now - last)
        generation._last_token_at[delta.index] = now
        if delta.finish_reason is not None:
            self._metrics.finished.labels(delta.finish_reason).inc()


async def _nothing() -> AsyncGenerator[Event, None]:
    return
    yield


def headers(generation: Answering) -> Mapping[str, str]:
    """Headers of a reply."""
    return {"Server-Timing": generation.server_timing()}
