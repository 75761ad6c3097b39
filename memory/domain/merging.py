"""Where a new memory goes among those there are: beside them, into one that says the same, or in the place of a state
that no longer holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from memory.language.states import State, state_of
from memory.search.index import Findable
from memory.search.scoring import alike
from memory.storage.sqlite.fulltext import words_of
from memory.storage.sqlite.rows import (
    LIVE,
    digest_of,
    insert_noted,
    memory_of,
    note_change,
    remove_search_rows,
    update_memory,
)
from memory.types import Memory

Action = Literal["added", "reinforced", "merged", "superseded", "outdated"]

# A candidate for a merge has nearly the same vector; the words decide.
NEAR = 0.93
LOOKED_AT = 3


@dataclass(frozen=True)
class Placed:
    """What became of a unit. ``memory`` is what is active now (or kept as history, when *outdated*); ``replaced`` is
    what it took the place of."""

    action: Action
    memory: Memory
    replaced: tuple[Memory, ...] = ()


def slot_of(state: State, author: str | None) -> str:
    """A state's slot with whose it is: ``user|home``."""
    return f"{(state.subject or author or 'user').lower()}|{state.slot}"


def restated(memory: Memory) -> Memory:
    """A memory whose text was changed: of a state, what it says now is what counts."""
    if memory.slot is None:
        return memory
    state = state_of(memory.said)
    if state is None:
        return replace(memory, slot=None, value=None)
    return replace(memory, slot=slot_of(state, memory.author), value=state.value)


def place(
    db: sqlite3.Connection, memory: Memory, state: State | None, near: Sequence[int] = ()
) -> tuple[Placed, int | None, list[Findable]]:
    """Write a memory. ``near`` are rows with nearly the same vector. Returns what was done, the row id where it is to
    be made findable, and what no longer is."""
    same = _said_before(db, memory, near)
    if same is not None:
        return Placed("reinforced", _reinforce(db, same, memory)), None, []
    if state is None or memory.slot is None:
        return Placed("added", memory), insert_noted(db, memory, "added"), []
    rows = db.execute(
        f"SELECT rowid AS row, * FROM memories WHERE cube_id = ? AND slot = ? AND owner IS ? AND {LIVE} ORDER BY rowid",
        (memory.cube_id, memory.slot, memory.owner),
    ).fetchall()
    older = [row for row in rows if _ended_by(memory_of(row), memory, state)]
    newer = next((memory_of(row) for row in rows if _time(memory_of(row)) > _time(memory)), None)
    if newer is not None:  # told late: it held before what is known to hold now
        late = replace(memory, status="archived", valid_until=_time(newer), replaced_by=newer.id)
        insert_noted(db, late, "outdated")
        return Placed("outdated", late), None, []
    memory = replace(memory, uses=memory.uses + sum(old["uses"] for old in older if _same_value(old["value"], state)))
    row = insert_noted(db, memory, "added")
    gone = [_retire(db, old, memory, state) for old in older]
    action: Action = "added" if not gone else "superseded" if any(m.status == "archived" for m, _ in gone) else "merged"
    return Placed(action, memory, tuple(m for m, _ in gone)), row, [findable for _, findable in gone]


def _time(memory: Memory) -> float:
    return memory.created_at if memory.event_at is None else memory.event_at


def _ended_by(old: Memory, new: Memory, state: State) -> bool:
    """An end that names a value ends that value only: who no longer lives in Oslo may well live in Lima."""
    if _time(old) > _time(new):
        return False
    return not state.ends or not state.value or old.value in (None, state.value)


def _same_value(value: str | None, state: State) -> bool:
    return not state.ends and value == state.value


def _retire(db: sqlite3.Connection, row: sqlite3.Row, by: Memory, state: State) -> tuple[Memory, Findable]:
    """Take a state out of use: merged into one of the same value, or kept as history of another."""
    old = memory_of(row)
    merged = _same_value(old.value, state)
    retired = replace(
        old,
        status="merged" if merged else "archived",
        valid_until=None if merged else _time(by),
        replaced_by=by.id,
        pinned=False,
        updated_at=by.created_at,
    )
    retired = update_memory(db, retired)
    note_change(db, retired, "merged" if merged else "superseded", detail={"by": by.id})
    remove_search_rows(db, row["row"])
    return retired, Findable(old.cube_id, row["row"], None)


def _said_before(db: sqlite3.Connection, memory: Memory, near: Sequence[int]) -> sqlite3.Row | None:
    """An active memory that says the same: the same words, or nearly, of the same kind, by the same author. (A dated
    event has its date in its words, so that the same thing on another day is another event.)"""
    found: sqlite3.Row | None = db.execute(
        f"SELECT rowid AS row, * FROM memories WHERE cube_id = ? AND digest = ? AND {LIVE} AND author IS ?"
        " AND owner IS ?",
        (memory.cube_id, digest_of(memory.text), memory.author, memory.owner),
    ).fetchone()
    if found is not None or memory.slot is not None:
        return found
    words = set(words_of(memory.text))
    for candidate in near:
        row: sqlite3.Row | None = db.execute(
            f"SELECT rowid AS row, * FROM memories WHERE rowid = ? AND cube_id = ? AND {LIVE} AND kind = ?"
            " AND author IS ? AND owner IS ?",
            (candidate, memory.cube_id, memory.kind, memory.author, memory.owner),
        ).fetchone()
        if row is not None and alike(words, set(words_of(row["text"]))):
            return row
    return None


def _reinforce(db: sqlite3.Connection, row: sqlite3.Row, again: Memory) -> Memory:
    """Said again: it counts for more, and where the wording differs, that is kept as a merged memory."""
    kept = update_memory(db, replace(memory_of(row), uses=row["uses"] + 1, updated_at=again.created_at))
    note_change(db, kept, "reinforced")
    if row["digest"] != digest_of(again.text):
        merged = replace(again, status="merged", replaced_by=kept.id)
        insert_noted(db, merged, "merged")
    return kept
