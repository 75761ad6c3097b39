"""One prompt's answer: what was asked for, the events as they come, and what a reply tells beside them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from engine.base import Delta, Engine, Event, Fidelity, GenerateRequest, Sampling, Started, Tools
from scheduler import Foresight, Mode, Plan, Upkeep


@dataclass(frozen=True)
class RecallOptions:
    """The memories that a request wants in its prompt; None is the server's default. ``cubes`` by id or name (None: the
    default cube), ``ids`` instead of retrieval. ``remember``: the user's message is stored, as said in ``session``."""

    cubes: tuple[str, ...] | None = None
    mode: Mode | None = None
    top_k: int | None = None
    ids: tuple[str, ...] = ()
    fidelity: Fidelity | None = None
    remember: bool = False
    session: str | None = None


@dataclass(frozen=True)
class AnswerOptions:
    """The way an answer is to be generated. ``max_tokens`` None: the server's default, or as many as there is room for;
    it replaces that of ``sampling``. The fields name those of the request's body, for errors about them."""

    model: str
    request_id: str
    sampling: Sampling
    max_tokens: int | None = None
    n: int = 1
    tools: Tools | None = None
    prompt_field: str | None = None
    length_field: str = "max_tokens"
    structured_field: str | None = None


@dataclass(frozen=True)
class Recalled:
    """The memories in a prompt, and the cubes they were looked for in. ``said`` is what a user said with it, None where
    that is no turn of a conversation."""

    plan: Plan
    cubes: tuple[str, ...]
    said: str | None = None


@dataclass(frozen=True)
class Receipt:
    """The account of where every memory in the prompt came from."""

    recalled: Recalled
    started: Started

    def as_json(self) -> dict[str, Any]:
        """Return the reply's ``memory`` object. Load times are in milliseconds."""
        cubes, plan = self.recalled.cubes, self.recalled.plan
        return {
            "cube": cubes[0] if len(cubes) == 1 else list(cubes),
            "mode": plan.mode,
            "fidelity": plan.fidelity,
            "memories": [self._memory(i) for i in range(len(plan.memories))],
            **({"instructions_left_out": list(plan.left_out)} if plan.left_out else {}),
            "prompt_tokens": self.started.prompt_tokens,
            "cached_tokens": self.started.cached_tokens,
        }

    def _memory(self, i: int) -> dict[str, Any]:
        planned = self.recalled.plan.memories[i]
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


class Observer(Protocol):
    """Measures generations. Times are in seconds."""

    def observe_started(self, started: Started, ttft_s: float) -> None:
        """Note that a request's first token is out, ``ttft_s`` after it arrived."""
        ...

    def observe_tokens(self, n: int, gap_s: float | None) -> None:
        """Note the next tokens of a choice, ``gap_s`` after those before (None: they are its first)."""
        ...

    def observe_finished(self, reason: str) -> None:
        """Note that a choice has ended."""
        ...

    def observe_ended(self, total_s: float) -> None:
        """Note that a request has ended, ``total_s`` after it arrived."""
        ...


@dataclass(frozen=True)
class Followers:
    """The observer that measures generations, and the parts that learn from them to make the next ones quick."""

    observer: Observer
    upkeep: Upkeep
    foresight: Foresight | None = None

    def learn(self, tenant: str, recalled: Recalled, started: Started) -> None:
        """Let upkeep and the predictor learn from a request whose first token is out."""
        self.upkeep.observe(tenant, recalled.plan, started)
        if self.foresight is not None and recalled.said is not None:
            self.foresight.observe(tenant, recalled.cubes, recalled.plan, started, recalled.said)


class Answering(Protocol):
    """The source of a reply: the events of one prompt, or of several."""

    @property
    def events(self) -> AsyncGenerator[Event, None]: ...

    def prompt_of(self, index: int) -> int:
        """Return the prompt, counted from 0, that choice ``index`` answers."""
        ...

    def receipt(self, prompt: int | None = None) -> Any:
        """Return the ``memory`` object of one prompt, or what the whole reply has; None without memory."""
        ...

    def usage(self) -> dict[str, Any]:
        """Return OpenAI's usage object."""
        ...

    def server_timing(self) -> str:
        """Return the value of the ``Server-Timing`` header."""
        ...


class Generation:
    """One request's events, with what the reply needs beside them. The engine begins when the first event is asked for.

    ``started`` is None, and ``ttft_s`` (the time to first token, in seconds) 0, until the first token is known.
    """

    def __init__(
        self,
        engine: Engine,
        request: GenerateRequest,
        followers: Followers,
        *,
        arrived: float,
        recalled: Recalled | None = None,
    ) -> None:
        self._engine = engine
        self._request = request
        self._followers = followers
        self._arrived = arrived
        self._recalled = recalled
        self._last_token_at: dict[int, float] = {}
        self.started: Started | None = None
        self.ttft_s = 0.0
        self.completion_tokens = 0
        self.events = self._observed()

    async def _observed(self) -> AsyncGenerator[Event, None]:
        """Yield the engine's events, counted on their way."""
        async with aclosing(self._engine.generate(self._request)) as events:
            async for event in events:
                if isinstance(event, Started):
                    self._begin(event)
                else:
                    self._count(event)
                yield event
        self._followers.observer.observe_ended(time.perf_counter() - self._arrived)

    def _begin(self, started: Started) -> None:
        self.started = started
        self.ttft_s = time.perf_counter() - self._arrived
        self._followers.observer.observe_started(started, self.ttft_s)
        if self._recalled is not None:
            self._followers.learn(self._request.salt, self._recalled, started)

    def _count(self, delta: Delta) -> None:
        now, last = time.perf_counter(), self._last_token_at.get(delta.index)
        self._last_token_at[delta.index] = now
        self.completion_tokens += len(delta.token_ids)
        observer = self._followers.observer
        observer.observe_tokens(len(delta.token_ids), None if last is None else now - last)
        if delta.finish_reason is not None:
            observer.observe_finished(delta.finish_reason)

    def prompt_of(self, index: int) -> int:
        """Return 0: all choices answer the one prompt."""
        return 0

    def receipt(self, prompt: int | None = None) -> dict[str, Any] | None:
        """Return the ``memory`` object, once the first token is known; None for a request without memory."""
        if self._recalled is None or self.started is None:
            return None
        return Receipt(self._recalled, self.started).as_json()

    def usage(self) -> dict[str, Any]:
        """Return OpenAI's usage object, cached tokens included."""
        prompt_tokens = self._request.prompt.n_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.started.cached_tokens if self.started else 0},
        }

    def server_timing(self) -> str:
        """Return the ``Server-Timing`` header, in milliseconds; ``total`` is up to the first token."""
        parts = {"retrieve": 0.0 if self._recalled is None else self._recalled.plan.retrieve_s}
        if self.started is not None:
            started = self.started
            parts = {"queue": started.queue_s, **parts, "load": started.load_s, "prefill": started.prefill_s}
            parts["total"] = self.ttft_s
        return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in parts.items())
