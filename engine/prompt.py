"""Chat messages and memories as a prompt in reusable pieces.

The text is the model's own chat template over the messages, with the memories inside the system message:

    {system message of the request, if any}

    Memories of the user, in their own words:
    - My dog is called Biscuit.
    - I live in Lisbon.
    Answer questions from these memories.

Memories that a conversation came by later stand in the same way at the head of the message they were found for, so that
all before it stays as it was.

It is the same text in every mode. Each memory is tokenised by itself, so that its tokens depend on nothing but its own
text; it begins with "-" and ends with a newline, where tokenisers split anyway, and its further lines are indented, so
that none of them can pass for another memory or for the end of the block.

Messages and memories are text, whatever they hold: names of control tokens in them make no control tokens
(``engine/control.py``, ``engine/template.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from engine.base import ChatMessage, MemoryText, Piece, Prompt, Tools
from engine.control import ControlTokens, Run
from engine.template import ChatTemplate, Hidden, Turn
from engine.vocabulary import vocabulary_of

log = logging.getLogger(__name__)

HEADING = "Memories of the user, in their own words:\n"
CLOSING = "Answer questions from these memories."

# The memories of each block, by the index of their hidden lines.
_Blocks = dict[int, Sequence[MemoryText]]


class PromptRenderer:
    """Renders prompts for one tokenizer (a transformers fast tokenizer with a chat template)."""

    def __init__(self, tokenizer: Any) -> None:
        self._control = ControlTokens(tokenizer)
        self._template = ChatTemplate(tokenizer, self._control)
        # Template and memory texts repeat from request to request; turns do not, and are short.
        self._header = lru_cache(maxsize=1024)(self._control.encode)
        self._memory = lru_cache(maxsize=16_384)(self._memory_uncached)

    def render(
        self, messages: Sequence[ChatMessage], memories: Sequence[MemoryText] = (), tools: Tools | None = None
    ) -> Prompt:
        """The prompt, ready for generation. Raises ``ValueError`` when the template refuses the messages."""
        hidden, blocks = Hidden(), _Blocks()
        turns, functions = self._template.shown(messages, tools, hidden)
        if memories:
            turns = _with_system_block(turns, self._block(memories, hidden, blocks))
        for turn, message in zip(turns[len(turns) - len(messages) :], messages, strict=True):
            if message.memories:
                turn["content"] = f"{self._block(message.memories, hidden, blocks)}\n\n{turn['content']}"
        parts = hidden.split(self._template.text(turns, functions))
        if [part for part in parts if part in blocks] == list(blocks):
            return Prompt(tuple(self._pieces(parts, hidden, blocks, header=bool(memories))))
        # The template drops, repeats or reorders messages, say: the text stands, but as one piece.
        for part, block in blocks.items():
            hidden.texts[part] = "".join(self._line(memory.text) for memory in block)
        log.warning("memories are not found in their places in the chat template's text; they cannot be injected")
        return Prompt((Piece("turns", self._control.encode([hidden.run(part) for part in parts])),))

    def render_completion(
        self, token_ids: Sequence[int], memories: Sequence[MemoryText] = (), *, begin: Sequence[int] = ()
    ) -> Prompt:
        """Tokens to be gone on with, behind the memories' block and an empty line. ``begin`` are special tokens that
        stand before both."""
        if not memories:
            return Prompt((Piece("turns", (*begin, *token_ids)),))
        header = Piece("header", (*begin, *self._control.encode([Run(HEADING)])), storable=True)
        lines = [Piece("memory", self._memory(memory.text), memory.label, storable=True) for memory in memories]
        closing = self._control.encode([Run(f"{CLOSING}\n\n")])
        return Prompt((header, *lines, Piece("turns", (*closing, *token_ids))))

    def _pieces(self, parts: Sequence[str | int], hidden: Hidden, blocks: _Blocks, *, header: bool) -> Iterator[Piece]:
        """The text around the blocks, and each memory, as a piece of its own."""
        runs: list[Run] = []
        for part in parts:
            if not isinstance(part, int) or part not in blocks:
                runs.append(hidden.run(part))
                continue
            if header:
                yield Piece("header", self._header(tuple(runs)), storable=True)
            else:
                yield Piece("turns", self._control.encode(runs), storable=True)
            for memory in blocks[part]:
                yield Piece("memory", self._memory(memory.text), memory.label, storable=True)
            runs, header = [], False
        yield Piece("turns", self._control.encode(runs))

    def _memory_uncached(self, text: str) -> tuple[int, ...]:
        line = self._line(text)
        return self._control.encode([Run(line, said=self._control.named_in(line))])

    def _block(self, memories: Sequence[MemoryText], hidden: Hidden, blocks: _Blocks) -> str:
        """The memories' block as the template sees it, without its lines: where they stand is known whatever else is
        said."""
        blocks[len(hidden.texts)] = memories
        return HEADING + hidden.put("") + CLOSING

    def _line(self, text: str) -> str:
        """A memory as an item of the block. Its further lines are indented, as those of a Markdown list's item."""
        first, *further = self._template.with_broken_marks(text).strip().splitlines() or [""]
        return "\n".join([f"- {first}", *(f"  {line}" if line.strip() else "" for line in further)]) + "\n"


def _with_system_block(turns: Sequence[Turn], block: str) -> list[Turn]:
    if turns and turns[0]["role"] == "system":
        return [turns[0] | {"content": f"{turns[0]['content']}\n\n{block}"}, *turns[1:]]
    return [{"role": "system", "content": block}, *turns]


class ModelPrompts(PromptRenderer):
    """``engine.base.Prompts`` of one model: what it can be asked with a transformers tokenizer. ``vocabulary_size``:
    how many tokens the model has logits for, which may be more than the tokenizer knows."""

    def __init__(self, tokenizer: Any, vocabulary_size: int) -> None:
        super().__init__(tokenizer)
        self._tokenizer = tokenizer
        self.vocabulary = vocabulary_of(tokenizer)
        self.vocabulary_size = vocabulary_size

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones by their names."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def token_text(self, token_id: int) -> str:
        """Return the token's own text: its bytes, where they are some, or a special token's name."""
        return self.vocabulary.text_of(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """Return what the token adds to a text, behind others."""
        return self.vocabulary.bytes_of(token_id)
