"""OpenAI's reply objects, whole and in chunks, for chat and for completions."""

from __future__ import annotations

import codecs
import math
import time
from collections import defaultdict
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
    logprobs: bool = False

    def _envelope(self, object: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": object, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Make one streamed object."""
        return self._envelope("chat.completion.chunk", choices, **more)

    def opening(self, index: int) -> dict[str, Any] | None:
        """Make a choice's first delta, which names the role."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def delta(self, delta: Delta) -> dict[str, Any]:
        """Make a choice's next delta."""
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
        """Make the reply in one piece."""
        return self._envelope("chat.completion", [self._choice(i, choices[i]) for i in sorted(choices)], **more)

    def _choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
        return {
            "index": index,
            "message": _message(deltas),
            "logprobs": {"content": _chat_logprobs(logprobs)} if logprobs or self.logprobs else None,
            "finish_reason": deltas[-1].finish_reason,
        }


def _call_part(call: ToolCall) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.name is not None:
        function["name"] = call.name
    head = {"index": call.index} | ({"id": call.id, "type": "function"} if call.id is not None else {})
    return {**head, "function": function}


def _message(deltas: Sequence[Delta]) -> dict[str, Any]:
    """Make the whole answer; calls are put together from their parts."""
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
    """``text_completion``, whole and streamed. Log-probabilities that a chunk gives go on counting characters where
    the one before left off."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    logprobs: bool = False
    _offsets: defaultdict[int, _Offsets] = field(default_factory=lambda: defaultdict(_Offsets))

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Make one object, streamed or whole: they look alike here."""
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return None: completions have no role to announce."""
        return None

    def delta(self, delta: Delta) -> dict[str, Any]:
        """Make a choice's next text."""
        return self._choice(delta.index, [delta])

    def whole(self, choices: dict[int, list[Delta]], **more: Any) -> dict[str, Any]:
        """Make the reply in one piece."""
        return self.chunk([self._choice(i, choices[i], whole=True) for i in sorted(choices)], **more)

    def _choice(self, index: int, deltas: Sequence[Delta], *, whole: bool = False) -> dict[str, Any]:
        logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
        offsets = [offset for delta in deltas for offset in self._offsets[index].of(delta)]
        listed = bool(logprobs) or (whole and self.logprobs)
        return {
            "index": index,
            "text": "".join(delta.text for delta in deltas),
            "logprobs": _completion_logprobs(logprobs, offsets) if listed else None,
            "finish_reason": deltas[-1].finish_reason,
        }


class _Offsets:
    """Counts the characters of a choice's text, token by token."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._n = 0
        self._shown = 0

    def of(self, delta: Delta) -> list[int]:
        """Return the characters at which the text's next tokens begin, parallel to ``delta.logprobs``."""
        begins = [self._before(token) for token in delta.logprobs]
        self._shown += len(delta.text)
        if self._inside and self._shown > self._n:  # the prompt ended inside of a character, which is shown as U+FFFD
            self._decoder.reset()
            self._n += 1
        return begins

    @property
    def _inside(self) -> bytes:
        """Return the bytes of a character that is not complete yet."""
        return self._decoder.getstate()[0]

    def _before(self, token: TokenLogprob) -> int:
        begin, inside = self._n, self._inside
        self._n += len(self._decoder.decode(token.bytes))
        # Bytes that the token does not go on with are a character, U+FFFD, before it.
        return begin + (1 if inside and not _goes_on(inside, token.bytes[:1]) else 0)


def _goes_on(inside: bytes, byte: bytes) -> bool:
    """Tell if the bytes are, or may become, one character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(inside + byte)
    except UnicodeDecodeError:
        return False
    return True


def _finite(logprob: float) -> float:
    """Bound a log-probability from below: JSON has no infinity, and OpenAI uses this floor."""
    return max(logprob, -9999.0) if math.isfinite(logprob) else -9999.0


def _or_null(logprob: float | None) -> float | None:
    return None if logprob is None else _finite(logprob)


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    def one(item: TokenLogprob) -> dict[str, Any]:
        return {"token": item.text, "logprob": _or_null(item.logprob), "bytes": list(item.bytes)}

    return [{**one(item), "top_logprobs": [one(top) for top in item.top]} for item in logprobs]


def _completion_logprobs(logprobs: Sequence[TokenLogprob], offsets: list[int]) -> dict[str, Any]:
    return {
        "tokens": [_name(item) for item in logprobs],
        "token_logprobs": [_or_null(item.logprob) for item in logprobs],
        "top_logprobs": [_rivals(item) for item in logprobs],
        "text_offset": offsets,
    }


def _name(item: TokenLogprob) -> str:
    """Return the token's text; of what is a part of a character only, its bytes, as OpenAI writes them."""
    try:
        item.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in item.bytes)
    return item.text


def _rivals(item: TokenLogprob) -> dict[str, float] | None:
    """Return the likeliest tokens and the token itself, by name. Of several with the same text the token itself, or
    else the likeliest, is called by it, the others by their numbers. None where nothing stands before the token."""
    if item.logprob is None:
        return None
    names = {_name(item): item.token_id}
    logprobs = {item.token_id: item.logprob}
    for top in item.top:
        name = _name(item if top.token_id == item.token_id else top)
        if names.setdefault(name, top.token_id) != top.token_id:
            names[f"token_id:{top.token_id}"] = top.token_id
        logprobs[top.token_id] = top.logprob if top.logprob is not None else item.logprob
    ranked = sorted(names.items(), key=lambda named: -logprobs[named[1]])
    return {name: _finite(logprobs[token_id]) for name, token_id in ranked}
