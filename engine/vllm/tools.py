"""Tool calls: vLLM's own parsers for what models write of their own accord, a JSON schema where a call is asked for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager

from engine.base import Delta, Sampling, Structured, ToolCall, Tools
from engine.errors import InvalidRequest, UnsupportedModel


class ToolParsing:
    """Makes readers. ``parser`` is the name of one of vLLM's tool parsers; without one, calls can be required only.
    Raises ``UnsupportedModel`` for a name that vLLM does not know."""

    def __init__(self, parser: str | None, tokenizer: Any) -> None:
        try:
            self._parser = None if parser is None else ToolParserManager.get_tool_parser(parser)
        except KeyError as error:
            raise UnsupportedModel(f"vLLM has no tool parser '{parser}'") from error
        self._tokenizer = tokenizer

    def readers(self, tools: Tools) -> Readers:
        """Return what reads one request's answers. Raises ``InvalidRequest`` where calls cannot be told from text."""
        if tools.choice != "auto":
            return Readers(lambda: _Forced(tools))
        if self._parser is None:
            raise InvalidRequest("tool_choice auto needs a tool parser: start the server with --vllm.tool-call-parser")
        parser = self._parser
        return Readers(lambda: _Parsed(parser, self._tokenizer, tools))


class Readers:
    """One reader for each choice of a request."""

    def __init__(self, make: Callable[[], _Reader]) -> None:
        self._make = make
        self._readers: dict[int, _Reader] = {}

    def read(self, delta: Delta) -> Delta:
        """Return the delta with calls in place of the text that they were written as."""
        reader = self._readers.get(delta.index)
        if reader is None:
            reader = self._readers[delta.index] = self._make()
        text, calls = reader.push(delta)
        reason = delta.finish_reason
        if reason == "stop" and reader.called:
            reason = "tool_calls"
        return replace(delta, text=text, tool_calls=calls, finish_reason=reason)


class _Reader:
    called = False

    def push(self, delta: Delta) -> tuple[str, tuple[ToolCall, ...]]:
        raise NotImplementedError


class _Forced(_Reader):
    """The whole answer is the call, in JSON: it is given out when it is complete."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._text = ""

    def push(self, delta: Delta) -> tuple[str, tuple[ToolCall, ...]]:
        self._text += delta.text
        if delta.finish_reason is None:
            return "", ()
        name, arguments = self._tools.choice, self._text
        if name == "required":
            try:
                call = json.loads(self._text)
                name, arguments = call["name"], json.dumps(call["parameters"])
            except (ValueError, KeyError, TypeError):  # cut off by max_tokens
                return self._text, ()
        self.called = True
        return "", (ToolCall(0, _new_id(), name, arguments),)


class _Parsed(_Reader):
    """Text as it comes, through one of vLLM's parsers."""

    def __init__(self, parser: Any, tokenizer: Any, tools: Tools) -> None:
        body = {"model": "", "messages": [], "tools": list(tools.functions), "tool_choice": "auto"}
        self._request = ChatCompletionRequest(**body)
        self._parser = parser(tokenizer, self._request.tools)
        self._text = ""
        self._ids: list[int] = []

    def push(self, delta: Delta) -> tuple[str, tuple[ToolCall, ...]]:
        text, ids = self._text + delta.text, [*self._ids, *delta.token_ids]
        found = self._parser.extract_tool_calls_streaming(
            self._text, text, delta.text, self._ids, ids, list(delta.token_ids), self._request
        )
        self._text, self._ids = text, ids
        if found is None:
            return "", ()
        calls = tuple(
            ToolCall(call.index, call.id, call.function.name, call.function.arguments or "")
            for call in found.tool_calls or ()
            if call.function is not None
        )
        self.called = self.called or bool(calls)
        return found.content or "", calls


def forced(sampling: Sampling, tools: Tools) -> Sampling:
    """Return sampling that can only give the call that is asked for. Raises ``InvalidRequest`` for an unknown
    function."""
    if tools.choice == "auto":
        return sampling
    functions = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools.functions}
    if tools.choice == "required":
        options = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for name, parameters in functions.items()
        ]
        return replace(sampling, structured=Structured({"anyOf": options}))
    if tools.choice not in functions:
        raise InvalidRequest(f"tool_choice names '{tools.choice}', which is not among the tools")
    return replace(sampling, structured=Structured(functions[tools.choice] or {"type": "object"}))


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
