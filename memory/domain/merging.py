"""Deduplication: a new memory is added to those there are, merged into one that says the same, or takes the place of a
state that no longer holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from memory.domain.standing import compared
from memory.language.states import State, state_of
from memory.language.words import alike, digest_of, words_of
from memory.search.index import IndexChange, SearchIndex
from memory.storage.base import Transaction
from memory.storage.records import StoredMemory
from memory.types import Memory

Action = Literal["added", "reinforced", "merged", "superseded", "outdated", "deleted", "asked"]

# A candidate for a merge has nearly the same vector; the words decide.
NEAR = 0.93
LOOKED_AT = 3


@dataclass(frozen=True)
class AddOutcome:
    """The outcome of adding one memory. ``memory`` is what is active now (or kept as history, when *outdated*);
    ``replaced`` is what it took the place of. Where somebody wanted something forgotten, it is what was *deleted*, or,
    *asked*, one of those that may have been meant."""

    action: Action
    memory: Memory
    replaced: tuple[Memory, ...] = ()
    masked: bool = False
    """True where something secret was taken out of what was said."""


def slot_of(state: State, author: str | None) -> str:
    """Return a state's slot with whose it is: ``user|home``."""
    return f"{(state.subject or author or 'user').lower()}|{state.slot}"


def restated(memory: Memory) -> Memory:
    """Return a memory whose text was changed with the slot and value of what it says now."""
    if memory.slot is None:
        return memory
    state = state_of(memory.said)
    if state is None:
        return replace(memory, slot=None, value=None)
    return replace(memory, slot=slot_of(state, memory.author), value=state.value)


@dataclass(frozen=True)
class Insertion:
    """An outcome, the number of the memory where it is to be made findable, and what no longer is findable."""

    outcome: AddOutcome
    number: int | None = None
    gone: list[IndexChange] = field(default_factory=list)


def insert(tx: Transaction, memory: Memory, action: str = "added") -> int:
    """Write a memory with the first step of its history; return its number."""
    number = tx.memories.insert(memory)
    tx.history.add(memory, action)
    return number


def insert_as_given(tx: Transaction, memory: Memory) -> Insertion:
    """Write a memory without comparing it with those there are."""
    return Insertion(AddOutcome("added", memory), insert(tx, memory))


def insert_or_merge(tx: Transaction, memory: Memory, state: State | None, near: Sequence[int] = ()) -> Insertion:
    """Write a memory among those there are. ``near`` are the numbers of memories with nearly the same vector."""
    same = _said_before(tx, memory, near)
    if same is not None:
        return Insertion(AddOutcome("reinforced", _reinforce(tx, same, memory)))
    if memory.kind == "instruction":
        return _insert_instruction(tx, memory)
    if state is None or memory.slot is None:
        return insert_as_given(tx, memory)
    return _insert_state(tx, memory, memory.slot, state)


def _insert_state(tx: Transaction, memory: Memory, slot: str, state: State) -> Insertion:
    known = tx.memories.by_slot(memory.cube_id, slot, memory.owner)
    older = [old for old in known if _ended_by(old.memory, memory, state)]
    newer = next((old.memory for old in known if _time(old.memory) > _time(memory)), None)
    if newer is not None:  # told late: it held before what is known to hold now
        late = replace(memory, status="archived", valid_until=_time(newer), replaced_by=newer.id)
        insert(tx, late, "outdated")
        return Insertion(AddOutcome("outdated", late))
    said = sum(old.memory.uses for old in older if _same_value(old.memory.value, state))
    memory = replace(memory, uses=memory.uses + said)
    number = insert(tx, memory)
    gone = [_retire(tx, old, memory, state) for old in older]
    action: Action = "added" if not gone else "superseded" if any(m.status == "archived" for m, _ in gone) else "merged"
    return Insertion(AddOutcome(action, memory, tuple(m for m, _ in gone)), number, [change for _, change in gone])


def _insert_instruction(tx: Transaction, memory: Memory) -> Insertion:
    """Write a standing instruction; those that it takes the place of become history."""
    standing = compared(tx, memory)
    if standing.newer is not None:
        late = replace(memory, status="archived", valid_until=_time(standing.newer), replaced_by=standing.newer.id)
        insert(tx, late, "outdated")
        return Insertion(AddOutcome("outdated", late))
    number = insert(tx, memory)
    gone = [_retire(tx, old, memory, State("instruction", "", "", ends=True)) for old in standing.older]
    action: Action = "superseded" if gone else "added"
    return Insertion(AddOutcome(action, memory, tuple(m for m, _ in gone)), number, [change for _, change in gone])


def _time(memory: Memory) -> float:
    return memory.created_at if memory.event_at is None else memory.event_at


def _ended_by(old: Memory, new: Memory, state: State) -> bool:
    """Tell if a new memory ends an old state. An end that names a value ends that value only: who no longer lives in
    Oslo may well live in Lima."""
    if _time(old) > _time(new):
        return False
    return not state.ends or not state.value or old.value in (None, state.value)


def _same_value(value: str | None, state: State) -> bool:
    return not state.ends and value == state.value


def _retire(tx: Transaction, stored: StoredMemory, by: Memory, state: State) -> tuple[Memory, IndexChange]:
    """Take a state out of use: merged into one of the same value, or kept as history of another."""
    old = stored.memory
    merged = _same_value(old.value, state)
    retired = replace(
        old,
        status="merged" if merged else "archived",
        valid_until=None if merged else _time(by),
        replaced_by=by.id,
        pinned=False,
        updated_at=by.created_at,
    )
    retired = tx.memories.update(retired)
    tx.history.add(retired, "merged" if merged else "superseded", detail={"by": by.id})
    return retired, SearchIndex.remove(tx, stored.number, old.cube_id)


def _said_before(tx: Transaction, memory: Memory, near: Sequence[int]) -> StoredMemory | None:
    """Return an active memory that says the same: the same words, or nearly, of the same kind, by the same author. (A
    dated event has its date in its words, so that the same thing on another day is another event.)"""
    found = tx.memories.same_words(memory)
    if found is not None or memory.slot is not None:
        return found
    words = set(words_of(memory.text))
    for number in near:
        stored = tx.memories.same_kind(number, memory)
        if stored is not None and alike(words, set(words_of(stored.memory.text))):
            return stored
    return None


def _reinforce(tx: Transaction, stored: StoredMemory, again: Memory) -> Memory:
    """Count a memory that is said again for more; where the wording differs, that is kept as a merged memory."""
    old = stored.memory
    kept = tx.memories.update(replace(old, uses=old.uses + 1, updated_at=again.created_at))
    tx.history.add(kept, "reinforced")
    if stored.digest != digest_of(again.text):
        insert(tx, replace(again, status="merged", replaced_by=kept.id), "merged")
    return kept
