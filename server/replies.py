"""OpenAI's reply objects, whole and in chunks, for chat and for completions."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.base import Delta, TokenLogprob, ToolCall


class Format(Protocol):
    """One of the two kinds of reply."""

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]: ...

    def opening(self, index: int) -> dict[str, Any] | None: ...

    def delta(self, delta: Delta) -> dict[str, Any]: ...

    def whole(self, choices: dict[int, list[Delta]], **more: Any) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ChatFormat:
    """``chat.completion`` and its chunks."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def _envelope(self, object: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": object, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One streamed object."""
        return self._envelope("chat.completion.chunk", choices, **more)

    def opening(self, index: int) -> dict[str, Any] | None:
        """A choice's first delta, which names the role."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def delta(self, delta: Delta) -> dict[str, Any]:
        """A choice's next delta."""
        content: dict[str, Any] = {"content": delta.text} if delta.text or delta.finish_reason is None else {}
        if delta.tool_calls:
            content = {"tool_calls": [_call_part(call) for call in delta.tool_calls]}
        return {
            "index": delta.index,
            "delta": content,
            "logprobs": {"content": _chat_logprobs(delta.logprobs)} if delta.logprobs else None,
            "finish_reason": delta.finish_reason,
        }

    def whole(self, choices: dict[int, list[Delta]], **more: Any) -> dict[str, Any]:
        """The reply in one piece."""
        return self._envelope("chat.completion", [self._choice(i, choices[i]) for i in sorted(choices)], **more)

    def _choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
        return {
            "index": index,
            "message": _message(deltas),
            "logprobs": {"content": _chat_logprobs(logprobs)} if logprobs else None,
            "finish_reason": deltas[-1].finish_reason,
        }


def _call_part(call: ToolCall) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.name is not None:
        function["name"] = call.name
    head = {"index": call.index} | ({"id": call.id, "type": "function"} if call.id is not None else {})
    return {**head, "function": function}


def _message(deltas: Sequence[Delta]) -> dict[str, Any]:
    """The whole answer; calls put together from their parts."""
    text = "".join(delta.text for delta in deltas)
    calls: dict[int, dict[str, Any]] = {}
    for part in (call for delta in deltas for call in delta.tool_calls):
        call = calls.setdefault(part.index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call["id"] = call["id"] or part.id
        call["function"]["name"] += part.name or ""
        call["function"]["arguments"] += part.arguments
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": [calls[i] for i in sorted(calls)]}


@dataclass(frozen=True)
class CompletionFormat:
    """``text_completion``, whole and streamed."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One object, streamed or whole: they look alike here."""
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def opening(self, index: int) -> dict[str, Any] | None:
        """Completions have no role to announce."""
        return None

    def delta(self, delta: Delta) -> dict[str, Any]:
        """A choice's next text."""
        return self._choice(delta.index, [delta])

    def whole(self, choices: dict[int, list[Delta]], **more: Any) -> dict[str, Any]:
        """The reply in one piece."""
        return self.chunk([self._choice(i, choices[i]) for i in sorted(choices)], **more)

    def _choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
        return {
            "index": index,
            "text": "".join(delta.text for delta in deltas),
            "logprobs": _completion_logprobs(logprobs) if logprobs else None,
            "finish_reason": deltas[-1].finish_reason,
        }


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI uses this floor."""
    return max(logprob, -9999.0) if math.isfinite(logprob) else -9999.0


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    def one(item: TokenLogprob) -> dict[str, Any]:
        return {"token": item.text, "logprob": _finite(item.logprob), "bytes": list(item.text.encode())}

    return [{**one(item), "top_logprobs": [one(top) for top in item.top]} for item in logprobs]


def _completion_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "tokens": [item.text for item in logprobs],
        "token_logprobs": [_finite(item.logprob) for item in logprobs],
        "top_logprobs": [{top.text: _finite(top.logprob) for top in item.top} for item in logprobs],
        "text_offset": [],
    }
