"""From messages to memories, without a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from memory.language.dates import spans_in, with_dates
from memory.language.instructions import instruction_of
from memory.language.states import State, kind_of, state_of
from memory.types import MemoryKind, Message

# A unit is one memory: longer messages are cut between sentences, so that little else comes with what is asked for.
MAX_UNIT_WORDS = 60
_SENTENCE = re.compile(r"(?<=[.!?…])[\"”)]?\s+|\n+")
# What people say to keep a conversation going; with nothing else in the sentence it is no memory.
_PHATIC = re.compile(
    r"^(?:hey|hi|hello|wow|thanks|thank you|thx|bye|goodbye|great|awesome|cool|ok|okay|sure|yeah|yes|yep|no|nope|"
    r"see you|take care|congrats|congratulations|good luck|absolutely|definitely|sounds|that['’]s|oh|haha|lol|"
    r"you['’]re welcome|of course|no problem|nice|good (?:morning|evening|night))\b",
    re.IGNORECASE,
)
_PHATIC_WORDS = 6


@dataclass(frozen=True)
class Unit:
    """A memory to be: its text, what it is about, and the messages it is from (indices into what was given)."""

    text: str
    kind: MemoryKind
    sources: tuple[int, ...]
    event_at: float | None = None
    event_until: float | None = None
    author: str | None = None
    state: State | None = None
    importance: float = 0.5
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


class Extractor(Protocol):
    """Finds memories in messages."""

    @property
    def name(self) -> str: ...

    def extract(self, messages: Sequence[Message], before: Sequence[Message]) -> list[Unit]:
        """Extract memories from ``messages``, in order; ``before`` is what was said just before them."""
        ...


class LocalExtractor:
    """Sentences as they were said, without greetings and questions, with the speaker and with dates resolved."""

    @property
    def name(self) -> str:
        return "local"

    def extract(self, messages: Sequence[Message], before: Sequence[Message] = ()) -> list[Unit]:
        return [unit for i, message in enumerate(messages) for unit in self._units(i, message)]

    def _units(self, index: int, message: Message) -> list[Unit]:
        if message.role == "system":
            return []
        if message.role == "tool":
            return [_tool_unit(index, message)] if message.text.strip() else []
        units: list[Unit] = []
        rest: list[str] = []
        for sentence in sentences_in(message.text):
            if message.role == "user" and instruction_of(sentence) is not None:
                units += [*_plain(index, message, rest), _unit(index, message, sentence, "instruction", None)]
                rest = []
                continue
            state = state_of(sentence) if message.role == "user" else None
            if state is not None:
                units += _plain(index, message, rest)
                rest = []
                units.append(_unit(index, message, sentence, state.kind, state))
            elif _tells(sentence):
                if rest and sum(len(part.split()) for part in [*rest, sentence]) > MAX_UNIT_WORDS:
                    units += _plain(index, message, rest)
                    rest = []
                rest.append(sentence)
        return units + _plain(index, message, rest)


def sentences_in(text: str) -> list[str]:
    """Return the sentences of a text, without white space around them."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def _tells(sentence: str) -> bool:
    if sentence.endswith("?"):
        return False
    return not (_PHATIC.match(sentence) and len(sentence.split()) <= _PHATIC_WORDS) and bool(re.search(r"\w", sentence))


def _plain(index: int, message: Message, sentences: Sequence[str]) -> list[Unit]:
    if not sentences:
        return []
    text = " ".join(sentences)
    kind, implicit = kind_of(text, bool(spans_in(text, message.sent_at, message.utc_offset)))
    if message.role == "assistant":
        kind, implicit = "fact", False
    return [_unit(index, message, text, kind, None, {"preference_type": "implicit"} if implicit else {})]


def _unit(
    index: int,
    message: Message,
    text: str,
    kind: MemoryKind,
    state: State | None,
    metadata: dict[str, Any] | None = None,
) -> Unit:
    spans = spans_in(text, message.sent_at, message.utc_offset)
    said = with_dates(text, message.sent_at, message.utc_offset)
    if kind == "instruction":  # it holds from when it was said, whatever days it names
        spans, said = [], text
    details = dict(metadata or {})
    if kind in ("preference", "instruction"):
        details.setdefault("preference_type", "explicit")
    return Unit(
        text=f"{message.speaker}: {said}",
        kind=kind,
        sources=(index,),
        event_at=spans[0].start if spans else message.sent_at,
        event_until=spans[0].end if spans else None,
        author=message.speaker,
        state=state,
        importance=0.3 if message.role == "assistant" else 0.7 if state is not None or kind == "instruction" else 0.5,
        metadata=details,
    )


def _tool_unit(index: int, message: Message) -> Unit:
    """Make a unit of experience with a tool: what it was called with and what came back."""
    name = str(message.metadata.get("tool") or message.author or "a tool")
    arguments = message.metadata.get("arguments")
    asked = f" with {arguments}" if arguments else ""
    result = message.text.strip()
    shortened = result if len(result) <= 500 else result[:497] + "..."
    return Unit(
        text=f"Tool {name}{asked} returned: {shortened}",
        kind="tool",
        sources=(index,),
        event_at=message.sent_at,
        author=name,
        importance=0.3,
        metadata={"tool": name},
    )
