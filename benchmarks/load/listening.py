"""What became of a request, from the bytes of its event stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.settings import Mode


@dataclass
class Outcome:
    """The outcome of one request. ``late_s``: sent so long after its time, beyond what it waited for
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
        """Say whether every goal (ms) is met. A reply of one token has no tpot to miss."""
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
            outcome.failure = f"stream: {error_code(event)}"
        choices = [fields_of(choice) for choice in event.get("choices") or []]
        if any(_has_content(choice) for choice in choices) or (self._chunks == 0 and _has_ended(choices)):
            if self._chunks == 0:
                outcome.ttft_s = now - self._sent
            else:
                outcome.gaps_s.append(now - self._last)
            self._last = now
            self._chunks += 1
            outcome.e2el_s = now - self._sent
        if usage := fields_of(event.get("usage")):
            outcome.counted = True
            outcome.prompt_tokens = usage.get("prompt_tokens") or 0
            outcome.completion_tokens = usage.get("completion_tokens") or 0
            outcome.cached_tokens = fields_of(usage.get("prompt_tokens_details")).get("cached_tokens") or 0

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
    delta = fields_of(choice.get("delta"))
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))


def _has_ended(choices: Sequence[Mapping[str, Any]]) -> bool:
    return any(choice.get("finish_reason") for choice in choices)


def fields_of(value: Any) -> dict[str, Any]:
    """An object of JSON; what is none has no fields."""
    return value if isinstance(value, dict) else {}


def error_code(body: Mapping[str, Any]) -> str:
    """The error's code or type: names that tell nothing of the prompt."""
    error = fields_of(body.get("error"))
    return str(error.get("code") or error.get("type") or "error")


def body_of(raw: bytes) -> dict[str, Any]:
    """The object that a body is; none where it is something else."""
    try:
        return fields_of(json.loads(raw))
    except ValueError:
        return {}
