"""Requests and their sending, each at its time."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.data.text import sentence
from benchmarks.load.arrivals import Arrival
from benchmarks.load.figures import in_ms, latency_fields
from benchmarks.load.listening import Listener, Outcome, body_of, error_code
from benchmarks.load.settings import LoadError, Mode, Settings

LATE_MS = 20.0
"""The generator fell behind when one request in a hundred left later than this."""
CHARS_PER_TOKEN = 4.0
_LOOK_S = 0.01


@dataclass(frozen=True)
class Workload:
    """Everything that is sent: arrivals, the modes that take turns, and what a request of each carries."""

    settings: Settings
    arrivals: Sequence[Arrival]
    options: Mapping[Mode, Mapping[str, Any] | None]
    facts: Sequence[str]
    chars_per_token: float = CHARS_PER_TOKEN

    def modes(self) -> list[Mode]:
        """The mode of each arrival: in every round each once, in an order drawn anew, so that no mode always meets the
        beginning of a burst."""
        rng = random.Random(self.settings.seed)
        order: list[Mode] = []
        while len(order) < len(self.arrivals):
            order += rng.sample(self.settings.modes, len(self.settings.modes))
        return order[: len(self.arrivals)]

    def body(self, i: int, arrival: Arrival, mode: Mode) -> bytes:
        """Request ``i``: an earlier turn of seeded prose that no other request has, and a question about a fact."""
        rng = random.Random(f"{self.settings.seed}/{i}")
        about = rng.choice(self.facts) if self.facts else sentence(rng)
        question = question_about(about)
        room = int(arrival.input_tokens * self.chars_per_token) - len(question)
        messages = [{"role": "user", "content": question}]
        if room > 0:
            earlier = [{"role": "user", "content": prose(rng, room)}, {"role": "assistant", "content": "I see."}]
            messages = earlier + messages
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": messages,
            "max_tokens": arrival.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.settings.ignore_eos:
            body["ignore_eos"] = True
        if self.options[mode] is not None:
            body["memory"] = self.options[mode]
        return json.dumps(body).encode()


def question_about(text: str) -> str:
    """About the first sentence of a memory: it begins with a name, "from" and a place."""
    return f"What did {' '.join(text.split()[:3])} buy?"


def prose(rng: random.Random, n_chars: int) -> str:
    """Exactly ``n_chars`` characters of seeded sentences."""
    parts: list[str] = []
    length = 0
    while length < n_chars:
        parts.append(sentence(rng))
        length += len(parts[-1]) + 1
    return " ".join(parts)[:n_chars]


class Generator:
    """Sends a workload and listens. ``report`` gets a line of progress now and then."""

    def __init__(self, client: httpx.AsyncClient, workload: Workload, report: Callable[[str], None]) -> None:
        self._client = client
        self._workload = workload
        self._report = report
        limit = workload.settings.max_concurrency
        self._slots = asyncio.Semaphore(limit) if limit else None
        self._lags_s: list[float] = []
        self._in_flight = 0
        self.max_in_flight = 0

    async def warm_up(self) -> None:
        """Requests that do not count, one after the other, the modes taking turns. Raises ``LoadError`` where one
        fails: the run would too."""
        settings, first = self._workload.settings, self._workload.arrivals[0]
        for i in range(settings.num_warmups):
            self._report(f"warm-up {i + 1} of {settings.num_warmups}")
            mode = settings.modes[i % len(settings.modes)]
            outcome = Outcome(mode)
            await self._ask(outcome, self._workload.body(-1 - i, first, mode))
            if outcome.failure:
                raise LoadError(f"a warm-up request failed: {outcome.failure}")

    async def run(self) -> tuple[list[Outcome], float, dict[str, Any]]:
        """Outcomes in order of arrival, seconds from the first request to the last chunk, and how well the generator
        kept up."""
        outcomes = [Outcome(mode) for mode in self._workload.modes()]
        cpu = time.process_time()
        begin = time.perf_counter()
        watch = asyncio.create_task(self._watch(outcomes))
        tasks: list[asyncio.Task[None]] = []
        try:
            for i, (arrival, outcome) in enumerate(zip(self._workload.arrivals, outcomes, strict=True)):
                body = self._workload.body(i, arrival, outcome.mode)
                due = begin + arrival.at
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                tasks.append(asyncio.create_task(self._one(outcome, body, due)))
            await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, watch):
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)
        duration_s = time.perf_counter() - begin
        return outcomes, duration_s, self._kept_up(outcomes, time.process_time() - cpu, duration_s)

    async def _one(self, outcome: Outcome, body: bytes, due: float) -> None:
        begun = time.perf_counter()
        if self._slots is None:
            await self._sent(outcome, body, due)
            return
        async with self._slots:
            outcome.queued_s = time.perf_counter() - begun
            await self._sent(outcome, body, due)

    async def _sent(self, outcome: Outcome, body: bytes, due: float) -> None:
        outcome.late_s = time.perf_counter() - due - outcome.queued_s
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            await self._ask(outcome, body)
        finally:
            self._in_flight -= 1

    async def _ask(self, outcome: Outcome, body: bytes) -> None:
        sent = time.perf_counter()
        listener = Listener(outcome, sent)
        try:
            async with self._client.stream("POST", "/v1/chat/completions", content=body) as reply:
                if reply.status_code != 200:
                    outcome.failure = f"{reply.status_code} {error_code(body_of(await reply.aread()))}"
                    return
                async for part in reply.aiter_raw():
                    listener.take(part, time.perf_counter())
                found = re.findall(r"(\w+);dur=([\d.]+)", reply.headers.get("server-timing", ""))
                outcome.parts_ms = {name: float(ms) for name, ms in found}
            listener.close()
        except httpx.HTTPError as error:
            outcome.failure = f"connection: {type(error).__name__}"
        except ValueError:
            outcome.failure = "stream: malformed event"

    async def _watch(self, outcomes: Sequence[Outcome]) -> None:
        """Note how much later than asked the event loop wakes up, and show progress twice per second."""
        told = time.perf_counter()
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(_LOOK_S)
            now = time.perf_counter()
            self._lags_s.append(now - begin - _LOOK_S)
            if now - told > 0.5:
                told = now
                done = sum(outcome.e2el_s > 0 for outcome in outcomes)
                self._report(f"{self._in_flight} in flight, {done} of {len(outcomes)} answered")

    def _kept_up(self, outcomes: Sequence[Outcome], cpu_s: float, duration_s: float) -> dict[str, Any]:
        late = latency_fields([outcome.late_s for outcome in outcomes], "late")
        return {
            **late,
            "max_late_ms": in_ms(max(outcome.late_s for outcome in outcomes)),
            **latency_fields([outcome.queued_s for outcome in outcomes], "client_queue"),
            **latency_fields(self._lags_s, "loop_lag"),
            "cpu_share": round(cpu_s / duration_s, 3),
            "max_concurrent_requests": self.max_in_flight,
            "fell_behind": late["p99_late_ms"] > LATE_MS,
        }
