"""Conversations and what must be remembered of them, as cases of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from memory import Embedder, MemoryStore, Said, new_message
from memory.language.dates import parse_time

T = "tenant"
BEGIN = "2026-11-28T12:00:00Z"
_MINUTE = 60.0


@dataclass(frozen=True)
class Turn:
    """A message of a conversation; ``at`` as ISO 8601, else a minute after the one before. ``feedback``: given as
    such, not as a message."""

    text: str
    role: str = "user"
    at: str | None = None
    feedback: bool = False
    session: str = "s"


@dataclass(frozen=True)
class Case:
    """What is said, and what holds afterwards: parts of active memories' texts (``active``), parts that no active one
    has (``gone``), how many are active (``count``), and questions with a part of their first hit (``asked``)."""

    id: str
    said: tuple[str | Turn, ...]
    active: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    count: int | None = None
    asked: tuple[tuple[str, str], ...] = ()
    fails: str = ""
    """Why the case is known to fail."""


@dataclass(frozen=True)
class Told:
    """A cube in which something was said."""

    store: MemoryStore
    cube: str
    outcomes: list[Any] = field(default_factory=list)

    def texts(self, status: str = "active") -> list[str]:
        return [memory.text for memory in self.store.list_memories(T, self.cube, status=status).items]

    def found(self, query: str, **options: Any) -> list[str]:
        return [hit.memory.text for hit in self.store.search(T, query, cube_ids=[self.cube], **options)]


@contextmanager
def told(folder: Path, embedder: Embedder, said: tuple[str | Turn, ...]) -> Iterator[Told]:
    """Open a cube in which that was said, one message a request."""
    store = MemoryStore(folder / "m.sqlite", embedder)
    conversation = Told(store, store.default_cube(T).id)
    at, offset = parse_time(BEGIN)
    for item in said:
        turn = Turn(item) if isinstance(item, str) else item
        at, offset = parse_time(turn.at) if turn.at else (at + _MINUTE, offset)
        if turn.feedback:
            conversation.outcomes.append(store.feedback.take(T, conversation.cube, turn.text, at=at))
            continue
        message = new_message(turn.text, turn.role, at, utc_offset=offset)
        conversation.outcomes.append(store.add_messages(T, conversation.cube, [message], Said(session=turn.session)))
    yield conversation
    store.close()


def params(cases: tuple[Case, ...]) -> list[Any]:
    """Return the cases as parameters of a test, those that are known to fail marked so."""
    return [
        pytest.param(case, id=case.id, marks=pytest.mark.xfail(strict=True, reason=case.fails) if case.fails else ())
        for case in cases
    ]


def check(case: Case, folder: Path, embedder: Embedder) -> None:
    """Say what a case says and compare what is remembered."""
    with told(folder, embedder, case.said) as conversation:
        active = conversation.texts()
        what = f"active: {active}, archived: {conversation.texts('archived')}, merged: {conversation.texts('merged')}"
        missing = [part for part in case.active if not any(part.lower() in text.lower() for text in active)]
        left = [part for part in case.gone if any(part.lower() in text.lower() for text in active)]
        assert (missing, left) == ([], []), what
        if case.count is not None:
            assert len(active) == case.count, what
        for query, part in case.asked:
            hits = conversation.found(query)
            assert part.lower() in "".join(hits[:1]).lower(), (query, hits)
