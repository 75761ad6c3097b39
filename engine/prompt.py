"""Chat messages and memories as a prompt in reusable pieces.

The text is the model's own chat template over the messages, with the memories inside the system message:

    {system message of the request, if any}

    Memories of the user, in their own words:
    - My dog is called Biscuit.
    - I live in Lisbon.
    Answer questions from these memories.

Memories that a conversation came by later stand in the same way at the head of the message they were found for, so that
all before it stays as it was.

It is the same text in every mode. Each line is tokenised by itself, so that a memory's tokens depend on nothing
but its own text; lines begin with "-" and end with a newline, where tokenisers split anyway.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from engine.base import ChatMessage, MemoryText, Piece, Prompt, ToolCall, Tools

log = logging.getLogger(__name__)

HEADING = "Memories of the user, in their own words:\n"
CLOSING = "Answer questions from these memories."


class PromptRenderer:
    """Renders prompts for one tokenizer (a transformers fast tokenizer with a chat template)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)
        # Template and memory texts repeat from request to request; turns do not, and are short.
        self._encode = lru_cache(maxsize=16_384)(self._encode_uncached)

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def render(
        self, messages: Sequence[ChatMessage], memories: Sequence[MemoryText] = (), tools: Tools | None = None
    ) -> Prompt:
        """The prompt, ready for generation. Raises ``ValueError`` when the template refuses the messages."""
        placed = [self._with_own_block(message) for message in messages]
        blocks = [message.memories for message in messages if message.memories]
        if memories:
            placed = _with_system_block(placed, self._block(memories))
            blocks.insert(0, tuple(memories))
        text = self._template(placed, tools)
        between = _around(text, [self._block(block) for block in blocks])
        if between is None:  # the template rewrites messages, say: the text stands, but as one piece
            log.warning("memories are not found as they are in the chat template's text; they cannot be injected")
            return Prompt((Piece("turns", self._encode_uncached(text)),))
        return Prompt(tuple(self._pieces(between, blocks, header=bool(memories))))

    def render_completion(
        self, token_ids: Sequence[int], memories: Sequence[MemoryText] = (), *, begin: Sequence[int] = ()
    ) -> Prompt:
        """Tokens to be gone on with, behind the memories' block and an empty line. ``begin`` are special tokens that
        stand before both."""
        if not memories:
            return Prompt((Piece("turns", (*begin, *token_ids)),))
        header = Piece("header", (*begin, *self._encode(HEADING)), keep=True)
        lines = [
            Piece("memory", self._encode(self._line(memory.text)), label=memory.label, keep=True) for memory in memories
        ]
        return Prompt((header, *lines, Piece("turns", (*self._encode(f"{CLOSING}\n\n"), *token_ids))))

    def _pieces(
        self, between: Sequence[str], blocks: Sequence[Sequence[MemoryText]], *, header: bool
    ) -> Iterator[Piece]:
        """The text around the blocks, and each memory, as a piece of its own."""
        for i, (before, block) in enumerate(zip(between, blocks, strict=False)):
            if header and i == 0:
                yield Piece("header", self._encode(before), keep=True)
            else:
                yield Piece("turns", self._encode_uncached(before), keep=True)
            for memory in block:
                yield Piece("memory", self._encode(self._line(memory.text)), label=memory.label, keep=True)
        yield Piece("turns", self._encode_uncached(between[-1]))

    def _with_own_block(self, message: ChatMessage) -> ChatMessage:
        if not message.memories:
            return message
        return replace(message, content=f"{self._block(message.memories)}\n\n{message.content}", memories=())

    def _block(self, memories: Sequence[MemoryText]) -> str:
        return HEADING + "".join(self._line(memory.text) for memory in memories) + CLOSING

    def _line(self, text: str) -> str:
        """A memory as a line of the prompt. Special tokens are broken up: a memory must not end its message."""
        for token in self._special:
            if token in text:
                text = text.replace(token, token[0] + " " + token[1:])
        return f"- {text.strip()}\n"

    def _template(self, messages: Sequence[ChatMessage], tools: Tools | None) -> str:
        try:
            return self._apply(messages, tools)
        except (TemplateError, TypeError, KeyError) as error:
            if not messages or messages[0].role != "system":
                raise ValueError(f"the model's chat template refuses these messages: {error}") from error
        try:  # templates without a system role take its text at the head of the first turn
            return self._apply(_without_system(messages), tools)
        except (TemplateError, TypeError, KeyError) as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error

    def _apply(self, messages: Sequence[ChatMessage], tools: Tools | None) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [_as_template_sees(message) for message in messages],
            tools=list(tools.functions) if tools is not None else None,
            tokenize=False,
            add_generation_prompt=True,
        )
        return text


def _as_template_sees(message: ChatMessage) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
            for call in message.tool_calls
        ]
    return turn


def _arguments(call: ToolCall) -> Any:
    """Templates write arguments out as JSON themselves."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def _around(text: str, blocks: Sequence[str]) -> list[str] | None:
    """The text before, between and after the lines of the blocks; None when a block is not there as it is, or somebody
    has said the same: which of them holds memories could then not be told."""
    between, begin = [], 0
    for block in blocks:
        at = text.find(block, begin)
        if at < 0 or text.count(block) != blocks.count(block):
            return None
        between.append(text[begin : at + len(HEADING)])
        begin = at + len(block) - len(CLOSING)
    return [*between, text[begin:]]


def _with_system_block(messages: Sequence[ChatMessage], block: str) -> list[ChatMessage]:
    if messages and messages[0].role == "system":
        return [ChatMessage("system", f"{messages[0].content}\n\n{block}"), *messages[1:]]
    return [ChatMessage("system", block), *messages]


def _without_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    system, *rest = messages
    if not rest:
        return [ChatMessage("user", system.content)]
    return [replace(rest[0], content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
