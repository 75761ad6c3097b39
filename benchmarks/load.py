"""Open-loop load over HTTP: a request leaves at its scheduled time, whatever has become of those before it.

Arrivals come from a seeded process or from a trace; requests with memory and without it take turns within one run, so
that their ratios do not compare two runs. Figures have the names that ``vllm bench serve`` gives them, and its
definitions: ``ttft`` from sending to the first chunk with content, ``itl`` between such chunks, ``tpot`` the time after
the first chunk by the tokens after the first, ``e2el`` from sending to the last chunk. Tokens are those of ``usage``.

A generator that falls behind makes a server look quicker than it is. So how late each request left, how late the event
loop woke up, and the share of a core that the generator used are measured and reported, and ``fell_behind`` says so.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np

from benchmarks import trace
from benchmarks.text import sentence

Mode = Literal["kv", "text", "off"]
MODES: tuple[Mode, ...] = ("kv", "text", "off")
MEMORY: dict[str, tuple[Mode, ...]] = {"on": ("kv",), "off": ("off",), "both": ("kv", "off")}
PATTERNS = ("poisson", "bursts", "constant")
GOALS = ("ttft", "tpot", "e2el")

LATE_MS = 20.0
"""The generator fell behind when one request in a hundred left later than this."""
_CHARS_PER_TOKEN = 4.0
_BURSTINESS = {"poisson": 1.0, "bursts": 0.2}
_LOOK_S = 0.01
_QUIET_S = 3.0


class LoadError(ValueError):
    """Load that cannot be offered: settings that make no sense, or a server that cannot take it."""


@dataclass(frozen=True)
class Arrival:
    """``at``: seconds after the start of the run; lengths in tokens."""

    at: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Settings:
    """``output`` is fixed by ``ignore_eos``; ``timeout_s``: seconds without a byte; ``max_concurrency``: None for no
    limit. ``pinned`` memories are in every prompt, ``top_k`` more are retrieved, each of ``memory_tokens``;
    ``prepare_s``: at most so many seconds for the server to compute them before the run."""

    model: str
    modes: tuple[Mode, ...] = ("kv", "off")
    max_concurrency: int | None = None
    num_warmups: int = 4
    seed: int = 0
    goodput: Mapping[str, float] = field(default_factory=dict)
    timeout_s: float = 600.0
    ignore_eos: bool = True
    memories: int = 40
    pinned: int = 4
    memory_tokens: int = 64
    top_k: int = 5
    fidelity: str | None = None
    prepare_s: float = 120.0


def arrivals(
    pattern: str, n: int, rate: float, burstiness: float | None, seed: int, input_tokens: int, output_tokens: int
) -> list[Arrival]:
    """``n`` arrivals at ``rate`` requests a second (infinite: all at once), the first one at 0.

    Gaps are drawn from a gamma distribution of shape ``burstiness``: 1 is Poisson's process, less comes in bursts, more
    is more even. They are stretched so that they add up to ``(n - 1) / rate`` seconds: every seed offers the same rate.
    """
    if pattern not in PATTERNS:
        raise LoadError(f"there is no pattern '{pattern}': {', '.join(PATTERNS)}, or a trace file")
    if n < 1 or not rate > 0:
        raise LoadError("a run needs a request, and a rate above 0")
    if burstiness is not None and (pattern == "constant" or not burstiness > 0):
        raise LoadError("burstiness must be above 0, and a constant pattern has none")
    if math.isinf(rate):
        gaps = np.zeros(n - 1)
    elif pattern == "constant":
        gaps = np.full(n - 1, 1 / rate)
    else:
        shape = _BURSTINESS[pattern] if burstiness is None else burstiness
        gaps = np.random.default_rng(seed).gamma(shape, size=n - 1)
        total = gaps.sum()
        # So bursty that no gap is above 0: they come at once.
        gaps = gaps * ((n - 1) / rate / total) if total > 0 else gaps
    times = [0.0, *np.cumsum(gaps).tolist()]
    return [Arrival(at, input_tokens, output_tokens) for at in times]


def traced(
    path: Path, n: int | None, time_scale: float, length_scale: float, max_input: int, max_output: int
) -> list[Arrival]:
    """The first ``n`` requests of a trace in Mooncake's format: times and lengths by their scales, lengths then cut to
    at most ``max_input`` and ``max_output`` tokens. Raises ``LoadError``."""
    if not time_scale > 0 or not length_scale > 0:
        raise LoadError("scales must be above 0")
    try:
        requests = trace.load(path)[:n]
    except (OSError, ValueError) as error:
        raise LoadError(str(error)) from error
    begin = requests[0].at

    def scaled(tokens: int, most: int) -> int:
        return max(1, min(most, round(tokens * length_scale)))

    return [
        Arrival((r.at - begin) * time_scale, scaled(r.input_length, max_input), scaled(r.output_length, max_output))
        for r in requests
    ]


def parse_goodput(text: str) -> dict[str, float]:
    """``ttft:500,tpot:50`` as milliseconds by name. Raises ``LoadError``."""
    goals: dict[str, float] = {}
    for part in re.split(r"[,\s]+", text.strip()):
        name, _, value = part.partition(":")
        try:
            goals[name] = float(value)
        except ValueError as error:
            raise LoadError(f"goodput: '{part}' is not NAME:MILLISECONDS") from error
        if name not in GOALS or not goals[name] > 0:
            raise LoadError(f"goodput: '{part}' must be one of {', '.join(GOALS)}, with milliseconds above 0")
    return goals


def parse_modes(text: str) -> tuple[Mode, ...]:
    """``on``, ``off``, ``both``, or modes by name, as ``kv,text,off``. Raises ``LoadError``."""
    if text in MEMORY:
        return MEMORY[text]
    modes = tuple(mode for name in text.split(",") for mode in MODES if mode == name.strip())
    if len(modes) != len(text.split(",")) or len(set(modes)) != len(modes):
        raise LoadError(f"memory: '{text}' is not on, off, both, or some of {', '.join(MODES)}")
    return modes


@dataclass
class Outcome:
    """What became of one request. ``late_s``: sent so long after its time, beyond what it waited for
    ``max_concurrency`` (``queued_s``); ``parts_ms``: the server's own times; ``failure``: None, or why it failed."""

    mode: Mode
    late_s: float = 0.0
    queued_s: float = 0.0
    sent_s: float = 0.0
    ttft_s: float = 0.0
    e2el_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    counted: bool = False
    parts_ms: dict[str, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first; None where there is no second."""
        if self.completion_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.completion_tokens - 1)

    def meets(self, goals: Mapping[str, float]) -> bool:
        """Whether every goal (ms) is met. A reply of one token has no tpot to miss."""
        times = {"ttft": self.ttft_s, "tpot": self.tpot_s or 0.0, "e2el": self.e2el_s}
        return self.failure is None and all(times[name] * 1e3 <= most for name, most in goals.items())


class Listener:
    """Takes the bytes of an event stream as they come and notes when content came. ``sent``: the clock at sending."""

    def __init__(self, outcome: Outcome, sent: float) -> None:
        self._outcome = outcome
        self._sent = sent
        self._rest = b""
        self._last = 0.0
        self._chunks = 0
        self._done = False

    def take(self, part: bytes, now: float) -> None:
        """Some bytes that came at ``now``. Raises ``ValueError`` where an event is no JSON object."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    self._done = True
                else:
                    self._event(json.loads(data), now)

    def _event(self, event: Any, now: float) -> None:
        outcome = self._outcome
        if not isinstance(event, dict):
            raise ValueError("an event is no object")
        if event.get("error"):
            outcome.failure = f"stream: {_code(event)}"
        choices = [_fields(choice) for choice in event.get("choices") or []]
        if any(_has_content(choice) for choice in choices) or (self._chunks == 0 and _has_ended(choices)):
            if self._chunks == 0:
                outcome.ttft_s = now - self._sent
            else:
                outcome.gaps_s.append(now - self._last)
            self._last = now
            self._chunks += 1
            outcome.e2el_s = now - self._sent
        if usage := _fields(event.get("usage")):
            outcome.counted = True
            outcome.prompt_tokens = usage.get("prompt_tokens") or 0
            outcome.completion_tokens = usage.get("completion_tokens") or 0
            outcome.cached_tokens = _fields(usage.get("prompt_tokens_details")).get("cached_tokens") or 0

    def close(self) -> None:
        """The stream has ended: what is missing in it is a failure; without ``usage`` chunks count as tokens."""
        outcome = self._outcome
        if outcome.failure is None and not self._done:
            outcome.failure = "stream: cut off"
        if outcome.failure is None and self._chunks == 0:
            outcome.failure = "stream: no content"
        if not outcome.counted:
            outcome.completion_tokens = self._chunks


def _has_content(choice: Mapping[str, Any]) -> bool:
    delta = _fields(choice.get("delta"))
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))


def _has_ended(choices: Sequence[Mapping[str, Any]]) -> bool:
    return any(choice.get("finish_reason") for choice in choices)


def _fields(value: Any) -> dict[str, Any]:
    """An object of JSON; what is none has no fields."""
    return value if isinstance(value, dict) else {}


def _code(body: Mapping[str, Any]) -> str:
    """The error's code or type: names that tell nothing of the prompt."""
    error = _fields(body.get("error"))
    return str(error.get("code") or error.get("type") or "error")


@dataclass(frozen=True)
class Workload:
    """Everything that is sent: arrivals, the modes that take turns, and what a request of each carries."""

    settings: Settings
    arrivals: Sequence[Arrival]
    options: Mapping[Mode, Mapping[str, Any] | None]
    facts: Sequence[str]
    chars_per_token: float = _CHARS_PER_TOKEN

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
        question = _question(about)
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


def _question(text: str) -> str:
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
                    outcome.failure = f"{reply.status_code} {_code(_json(await reply.aread()))}"
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
        """How much later than asked the event loop wakes up, and progress twice a second."""
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
        late = _summary([outcome.late_s for outcome in outcomes], "late")
        return {
            **late,
            "max_late_ms": _ms(max(outcome.late_s for outcome in outcomes)),
            **_summary([outcome.queued_s for outcome in outcomes], "client_queue"),
            **_summary(self._lags_s, "loop_lag"),
            "cpu_share": round(cpu_s / duration_s, 3),
            "max_concurrent_requests": self.max_in_flight,
            "fell_behind": late["p99_late_ms"] > LATE_MS,
        }


def _json(raw: bytes) -> dict[str, Any]:
    """The object that a body is; none where it is something else."""
    try:
        return _fields(json.loads(raw))
    except ValueError:
        return {}


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _summary(samples_s: Sequence[float], name: str) -> dict[str, Any]:
    """Mean, median, deviation and percentiles in milliseconds, as vLLM names them; None without samples."""
    keys = [f"{statistic}_{name}_ms" for statistic in ("mean", "median", "std", "p95", "p99")]
    if not samples_s:
        return dict.fromkeys(keys)
    p50, p95, p99 = np.percentile(samples_s, (50, 95, 99)).tolist()
    values = (float(np.mean(samples_s)), p50, float(np.std(samples_s)), p95, p99)
    return {key: _ms(value) for key, value in zip(keys, values, strict=True)}


def metrics(outcomes: Sequence[Outcome], duration_s: float, goals: Mapping[str, float]) -> dict[str, Any]:
    """The figures of some requests of a run that lasted ``duration_s``; rates are a second of the whole run."""
    good = [outcome for outcome in outcomes if outcome.failure is None]
    prompt, output = sum(o.prompt_tokens for o in good), sum(o.completion_tokens for o in good)
    parts = sorted({name for outcome in good for name in outcome.parts_ms})
    return {
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "failures": dict(Counter(outcome.failure for outcome in outcomes if outcome.failure)),
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "cached_tokens": sum(o.cached_tokens for o in good),
        "tokens_from": "usage" if all(o.counted for o in good) else "chunks",
        "request_throughput": round(len(good) / duration_s, 4),
        "request_goodput": round(sum(o.meets(goals) for o in good) / duration_s, 4) if goals else None,
        "output_throughput": round(output / duration_s, 3),
        "total_token_throughput": round((prompt + output) / duration_s, 3),
        **_summary([o.ttft_s for o in good], "ttft"),
        **_summary([s for o in good if (s := o.tpot_s) is not None], "tpot"),
        **_summary([gap for o in good for gap in o.gaps_s], "itl"),
        **_summary([o.e2el_s for o in good], "e2el"),
        "median_server_timing_ms": {
            name: round(float(np.median([o.parts_ms[name] for o in good if name in o.parts_ms])), 3) for name in parts
        },
    }


def ratios(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first mode's times by those of each other mode of the same run."""
    first, *others = rows
    for other in others:
        found = {"of": first["mode"], "by": other["mode"]}
        for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "median_e2el_ms"):
            found[name] = round(first[name] / other[name], 4) if first[name] and other[name] else None
        yield found


def connect(url: str, api_key: str | None, timeout_s: float) -> httpx.AsyncClient:
    """A client without a limit of its own on connections. Idle ones are dropped before servers drop them. ``url`` may
    end in ``/v1``, as OpenAI's clients have it. Raises ``LoadError``."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
    base = url.rstrip("/").removesuffix("/v1")
    try:
        return httpx.AsyncClient(base_url=base, headers=headers, limits=limits, timeout=timeout_s)
    except httpx.InvalidURL as error:
        raise LoadError(f"'{url}' is no URL: {error}") from error


async def served_model(client: httpx.AsyncClient) -> str:
    """The first model that the server has. Raises ``LoadError`` where there is no server, or it has none."""
    try:
        reply = await client.get("/v1/models")
        reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise LoadError(f"{client.base_url}/v1/models gives no model: {type(error).__name__}: {error}") from error


async def chars_per_token(client: httpx.AsyncClient, model: str, seed: int) -> tuple[float, str]:
    """Characters a token of our prose, from the server's ``/tokenize`` where it has one; and where that is from."""
    text = prose(random.Random(seed), 4000)
    reply = await client.post("/tokenize", json={"model": model, "prompt": text})
    count = _json(reply.content).get("count") if reply.status_code == 200 else None
    return (len(text) / count, "/tokenize") if count else (_CHARS_PER_TOKEN, "4 characters a token")


async def has_memories(client: httpx.AsyncClient) -> bool:
    """Whether the server has cubes of memories, as ours has."""
    reply = await client.get("/v1/cubes")
    return reply.status_code == 200 and "data" in _json(reply.content)


@asynccontextmanager
async def cube(
    client: httpx.AsyncClient, settings: Settings, ratio: float
) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A cube of seeded memories, ``ratio`` characters a token, and those that questions are about: text by id. It is
    deleted in the end. Raises ``LoadError``."""
    rng = random.Random(settings.seed)
    n_chars = max(1, int(settings.memory_tokens * ratio))
    name = f"bench-load-{random.SystemRandom().randrange(1 << 32):08x}"
    made = (await _called(client, "/v1/cubes", {"name": name}))["id"]
    try:
        facts = {}
        for i in range(settings.pinned + settings.memories):
            text = prose(rng, n_chars)
            fields = {"text": text, "cube": made, "pinned": i < settings.pinned}
            memory = await _called(client, "/v1/memories", fields)
            if i >= settings.pinned:
                facts[memory["id"]] = text
        yield made, facts
    finally:
        with suppress(httpx.HTTPError):
            await client.delete(f"/v1/cubes/{made}")


async def _called(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    reply = await client.post(path, json=body)
    if not reply.is_success:
        raise LoadError(f"{path}: {reply.status_code} {_code(_json(reply.content))}")
    found: dict[str, Any] = reply.json()
    return found


async def prepare(
    client: httpx.AsyncClient, settings: Settings, cube_id: str, facts: Mapping[str, str], report: Callable[[str], None]
) -> dict[str, Any]:
    """Ask for every memory once, as days of use would, and give the server time to compute what it keeps of them.
    Ends when it has nothing more to build, or after ``prepare_s`` seconds."""
    begin = time.perf_counter()
    before = await _upkeep(client)
    ids, step = list(facts), max(1, settings.top_k)
    for i in range(0, len(ids), step):
        if time.perf_counter() - begin > settings.prepare_s:
            break
        report(f"preparing: memory {i} of {len(ids)}")
        body = {
            "model": settings.model,
            "messages": [{"role": "user", "content": _question(facts[ids[i]])}],
            "max_tokens": 1,
            "memory": {"mode": "kv", "cube": cube_id, "ids": ids[i : i + step]},
        }
        await _called(client, "/v1/chat/completions", body)
    settled = await _settled(client, begin + settings.prepare_s, before, report)
    return {"seconds": round(time.perf_counter() - begin, 1), "settled": settled, "upkeep": await _upkeep(client)}


async def _upkeep(client: httpx.AsyncClient) -> dict[str, Any]:
    reply = await client.get("/v1/cache", params={"limit": 0})
    return _fields(_json(reply.content).get("upkeep"))


async def _settled(
    client: httpx.AsyncClient, until: float, before: Mapping[str, Any], report: Callable[[str], None]
) -> bool:
    """Wait for the server's work in idle time: it is done when some was, none waits, and nothing has changed for twice
    as long as the longest piece of it took. False when that is not so at ``until``."""
    last, changed, longest = before, time.perf_counter(), _QUIET_S / 2
    while (now := time.perf_counter()) < until:
        found = await _upkeep(client)
        if found != last:
            longest = max(longest, now - changed)
            last, changed = found, now
        elif found != before and not found.get("waiting") and now - changed > 2 * longest:
            return True
        report(f"preparing: {found.get('pages_built', 0)} pages built, {found.get('waiting', 0)} waiting")
        await asyncio.sleep(0.5)
    return False


async def measure(
    client: httpx.AsyncClient, settings: Settings, planned: Sequence[Arrival], report: Callable[[str], None]
) -> dict[str, Any]:
    """Offer the load and give the result: ``rows``, one a mode, ``all`` of them, ``ratios`` and ``client``.
    Raises ``LoadError``."""
    try:
        ratio, counted_by = await chars_per_token(client, settings.model, settings.seed)
        remembers = await has_memories(client)
        if not remembers and settings.modes != ("off",):
            raise LoadError("this server has no memories: use --memory off")
        if settings.modes == ("off",):
            options: dict[Mode, dict[str, Any] | None] = {"off": {"mode": "off"} if remembers else None}
            return await _run(client, Workload(settings, planned, options, [], ratio), report, counted_by, None)
        async with cube(client, settings, ratio) as (made, facts):
            more = {"fidelity": settings.fidelity} if settings.fidelity else {}
            options = {
                mode: {"mode": "off"} if mode == "off" else {"mode": mode, "cube": made, "top_k": settings.top_k} | more
                for mode in settings.modes
            }
            prepared = None
            if "kv" in settings.modes and settings.prepare_s > 0:
                prepared = await prepare(client, settings, made, facts, report)
            workload = Workload(settings, planned, options, list(facts.values()), ratio)
            return await _run(client, workload, report, counted_by, prepared)
    except httpx.HTTPError as error:
        raise LoadError(f"the server does not answer: {type(error).__name__}") from error


async def _run(
    client: httpx.AsyncClient,
    workload: Workload,
    report: Callable[[str], None],
    counted_by: str,
    prepared: dict[str, Any] | None,
) -> dict[str, Any]:
    generator = Generator(client, workload, report)
    await generator.warm_up()
    outcomes, duration_s, kept_up = await generator.run()
    settings = workload.settings
    rows = [
        {"mode": mode, **metrics([o for o in outcomes if o.mode == mode], duration_s, settings.goodput)}
        for mode in settings.modes
    ]
    offered_s = workload.arrivals[-1].at
    return {
        "duration_s": round(duration_s, 3),
        "offered_rate": round((len(outcomes) - 1) / offered_s, 4) if offered_s else None,
        "prompts_sized_by": counted_by,
        "prepared": prepared,
        "client": kept_up,
        "rows": rows,
        "all": metrics(outcomes, duration_s, settings.goodput),
        "ratios": list(ratios(rows)),
    }
