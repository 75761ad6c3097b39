"""LoCoMo's conversations as scenes: turns that ask for memories of what was said in earlier sessions.

The first sessions of each conversation are remembered, as memories of a given number of tokens in a cube of its own.
The turns of the others are asked one after the other, in the order of the file's own times, so that the conversations
take turns as its people did.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.suites.retrieval import Conversation, load
from engine.base import ChatMessage, MemoryText, Piece, Prompt
from memory import Memory, MemoryStore, Message
from scheduler.pages import PagePlan, plan_pages

TENANT = "bench"
# The file has one time a session.
TURN_EVERY_S = 20.0
# The share of each conversation's sessions that are memories.
_REMEMBERED = 0.6

Render = Callable[[Sequence[ChatMessage], Sequence[MemoryText]], Prompt]


@dataclass(frozen=True)
class Turn:
    """Something said, at ``at`` (Unix seconds), and the memories that it finds, best first."""

    at: float
    cube_id: str
    text: str
    found: tuple[Memory, ...]


@dataclass(frozen=True)
class Cube:
    """A conversation's remembered part, and the pages that its memories are in."""

    id: str
    memories: tuple[Memory, ...]
    pages: tuple[PagePlan, ...]
    header: Piece


@dataclass(frozen=True)
class Scenes:
    """All cubes, and all turns in order."""

    cubes: tuple[Cube, ...]
    turns: tuple[Turn, ...]


def load_scenes(
    store: MemoryStore,
    path: Path,
    render: Render,
    *,
    memory_tokens: int,
    top_k: int,
    conversations: int | None = None,
    turns_each: int | None = None,
    at_once: bool = False,
) -> Scenes:
    """Fill ``store`` and find out what each turn asks for. ``turns_each``: the most turns of each conversation;
    ``at_once``: all conversations go on at once, with seeded pauses, not at the file's times. Raises ``ValueError`` for
    a file of another kind."""
    cubes, turns = [], []
    rng = random.Random(0)
    for number, conversation in enumerate(load(path)[:conversations]):
        cut = int(len(conversation.sessions) * _REMEMBERED)
        cube = _remember(store, number, conversation, cut, render, memory_tokens)
        cubes.append(cube)
        said = [(message, i) for session in conversation.sessions[cut:] for i, message in enumerate(session)]
        asked = [_turn(store, cube.id, message, i, top_k) for message, i in said[:turns_each]]
        turns += _paced(asked, rng) if at_once else asked
    return Scenes(tuple(cubes), tuple(sorted(turns, key=lambda turn: turn.at)))


def _paced(turns: Sequence[Turn], rng: random.Random) -> list[Turn]:
    """The turns with half a minute between them, and some minutes between sessions."""
    at, before, paced = rng.expovariate(1 / 300), 0.0, []
    for turn in turns:
        if turn.at - before > 10 * TURN_EVERY_S:
            at += rng.expovariate(1 / 600)
        at, before = at + 5 + rng.expovariate(1 / 25), turn.at
        paced.append(replace(turn, at=at))
    return paced


def _remember(
    store: MemoryStore, number: int, conversation: Conversation, cut: int, render: Render, memory_tokens: int
) -> Cube:
    name = f"conversation-{number}"
    known = next((cube for cube in store.cubes.all(TENANT) if cube.name == name), None)
    cube_id = store.cubes.create(TENANT, name).id if known is None else known.id

    def tokens_of(text: str) -> int:
        return len(render([ChatMessage("user", "-")], [MemoryText("-", text)]).pieces[1].token_ids)

    if known is None:
        texts = [text for session in conversation.sessions[:cut] for text in _chunks(session, memory_tokens, tokens_of)]
        memories = store.add_many(TENANT, cube_id, texts)
    else:  # from an earlier run over the same folder
        memories = list(store.list_memories(TENANT, cube_id, limit=10_000).items)
    prompt = render([ChatMessage("user", "-")], [MemoryText(memory.label, memory.text) for memory in memories])
    return Cube(cube_id, tuple(memories), pages_of(prompt.pieces[1:-1]), prompt.pieces[0])


def pages_of(pieces: Sequence[Piece]) -> tuple[PagePlan, ...]:
    """Pages for all memories of a cube, in order."""
    labels = {piece.label for piece in pieces if piece.label is not None}
    return tuple(plan_pages(pieces, labels, (), lambda a, b: 0.0))


def _chunks(session: Sequence[Message], size: int, tokens_of: Callable[[str], int]) -> list[str]:
    """Messages that follow each other, joined up to ``size`` tokens."""
    chunks: list[str] = []
    for message in session:
        line = f"{message.speaker}: {message.text}"
        if chunks and tokens_of(f"{chunks[-1]} {line}") <= size:
            chunks[-1] = f"{chunks[-1]} {line}"
        else:
            chunks.append(line)
    return chunks


def _turn(store: MemoryStore, cube_id: str, message: Message, number: int, top_k: int) -> Turn:
    hits = store.search(TENANT, message.text, cube_ids=[cube_id], top_k=top_k)
    at = message.sent_at + number * (TURN_EVERY_S - 1)
    return Turn(at, cube_id, message.text, tuple(hit.memory for hit in hits))
