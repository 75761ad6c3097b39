"""From messages to memories, without a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from memory.language.assertion import Statement, statements_in
from memory.language.clauses import clauses_in, is_durable
from memory.language.dates import spans_in, with_dates
from memory.language.instructions import instruction_of
from memory.language.material import without_machine_text
from memory.language.replies import answered, is_answer, is_news, question_before
from memory.language.sentences import joined, sentences_in
from memory.language.states import State, kind_of, state_of
from memory.language.supposing import is_open
from memory.language.words import length_in_words, words_of
from memory.types import MemoryKind, Message

# A unit is one memory: what happened is cut between sentences, so that little else comes with what is asked for; how
# something stands is a unit by itself, so that it can be retired alone.
MAX_UNIT_WORDS = 60
# "I love it": what is liked stands elsewhere, so that two such states are not one.
_OF_NOTHING = frozenset(
    f"liking:{it}" for it in ("", "it", "that", "this", "them", "these", "those", "you", "him", "her")
)
_CODE = re.compile(r"(?=\n(?:```|~~~))")


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
    asserted: bool = True
    """False for what is said without being so: a wish, an open plan, a denial. It fills no slot and retires nothing."""
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
    """What the user asserts, as it was said, with the speaker and with dates resolved; of an assistant's sentences,
    those that say something new."""

    @property
    def name(self) -> str:
        return "local"

    def extract(self, messages: Sequence[Message], before: Sequence[Message] = ()) -> list[Unit]:
        return [unit for i in range(len(messages)) for unit in _units(i, messages, before)]


def _units(index: int, messages: Sequence[Message], before: Sequence[Message]) -> list[Unit]:
    message = messages[index]
    if message.role == "system":
        return []
    if message.role == "tool":
        return [_tool_unit(index, message)] if message.text.strip() else []
    if message.role == "assistant":
        statements = _news(message, [*before, *messages[:index]])
        return [_unit(index, message, group) for group in _grouped(statements)]
    instructions = [sentence for sentence in sentences_in(message.text) if instruction_of(sentence) is not None]
    told = _told(message, question_before(messages, index, before))
    statements = [statement for statement in told if statement.text not in instructions]
    units = [_unit(index, message, group) for group in _grouped(statements)]
    return units + [_instruction(index, message, sentence) for sentence in instructions]


def _instruction(index: int, message: Message, text: str) -> Unit:
    """Make a unit of a standing instruction: it holds from when it was said, whatever days it names."""
    return Unit(
        text=f"{message.speaker}: {text}",
        kind="instruction",
        sources=(index,),
        event_at=message.sent_at,
        author=message.speaker,
        importance=0.7,
        metadata={"preference_type": "explicit"},
    )


def _told(message: Message, question: str) -> list[Statement]:
    """Return what a user tells, cut so that how things stand is apart from the rest."""
    statements = statements_in(message.text)
    first = sentences_in(message.text)[:1]
    if question and first and is_answer(first[0], question):
        reply = Statement(answered(first[0], question))
        statements = [reply, *statements[1 if statements and statements[0].text == first[0] else 0 :]]
    return [part for statement in statements for part in _parts(statement)]


def _parts(statement: Statement) -> list[Statement]:
    clauses = clauses_in(statement.text) if statement.asserted and not statement.line else []
    if len(clauses) < 2 or not all(map(is_durable, clauses)):
        return [statement]
    return [replace(statement, text=clauses[0]), *(Statement(clause, not is_open(clause)) for clause in clauses[1:])]


def _news(message: Message, said: Sequence[Message]) -> list[Statement]:
    known = {word for earlier in said for word in words_of(earlier.text)}
    text = without_machine_text(message.text)
    return [Statement(sentence, leans=True) for sentence in sentences_in(text) if is_news(sentence, known)]


def _grouped(statements: Sequence[Statement]) -> list[list[Statement]]:
    """Return statements in groups that become a memory each."""
    groups: list[list[Statement]] = []
    alone = True
    for statement in statements:
        stands = statement.line or is_durable(statement.text)
        fits = bool(groups) and sum(length_in_words(s.text) for s in [*groups[-1], statement]) <= MAX_UNIT_WORDS
        same = bool(groups) and groups[-1][0].asserted == statement.asserted
        if fits and same and (statement.leans or not (stands or alone)):
            groups[-1].append(statement)
        else:
            groups.append([statement])
            alone = stands
    return groups


def _unit(index: int, message: Message, statements: Sequence[Statement]) -> Unit:
    text = joined([statement.text for statement in statements])
    prose, *code = _CODE.split(text, maxsplit=1)  # in code, nothing is a date
    spans = spans_in(prose, message.sent_at, message.utc_offset)
    state = _state(message, statements)
    kind, details = _kind(message, text, state, bool(spans))
    asserted = any(statement.asserted for statement in statements)
    return Unit(
        text=f"{message.speaker}: {with_dates(prose, message.sent_at, message.utc_offset, spans)}{''.join(code)}",
        kind=kind,
        sources=(index,),
        event_at=spans[0].start if spans else message.sent_at,
        event_until=spans[0].end if spans else None,
        author=message.speaker,
        state=state,
        importance=0.3 if message.role == "assistant" else 0.7 if state is not None else 0.5,
        asserted=asserted,
        metadata=details if asserted else {**details, "asserted": False},
    )


def _state(message: Message, statements: Sequence[Statement]) -> State | None:
    """Return the state that a user's asserted statement fills."""
    if message.role != "user":
        return None
    states = (state_of(statement.text) for statement in statements if statement.asserted)
    return next((state for state in states if state is not None and state.slot not in _OF_NOTHING), None)


def _kind(message: Message, text: str, state: State | None, dated: bool) -> tuple[MemoryKind, dict[str, Any]]:
    if message.role == "assistant":
        return "fact", {}
    kind, implicit = (state.kind, False) if state is not None else kind_of(text, dated)
    return kind, {"preference_type": "implicit" if implicit else "explicit"} if kind == "preference" else {}


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
