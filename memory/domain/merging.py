"""Deduplication: a new memory is added to those there are, merged into one that says the same, or takes the place of a
state that no longer holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from memory.domain.judging import Ruling
from memory.domain.standing import compared
from memory.language.sentences import sentences_in
from memory.language.states import State, state_of
from memory.language.words import alike, digest_of
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


def insert(tx: Transaction, memory: Memory, action: str = "added", detail: dict[str, Any] | None = None) -> int:
    """Write a memory with the first step of its history; return its number."""
    number = tx.memories.insert(memory)
    tx.history.add(memory, action, detail=detail)
    return number


def insert_as_given(tx: Transaction, memory: Memory) -> Insertion:
    """Write a memory without comparing it with those there are."""
    return Insertion(AddOutcome("added", memory), insert(tx, memory))


def insert_or_merge(
    tx: Transaction, memory: Memory, said_at: float, rulings: Sequence[Ruling] = (), near: Sequence[int] = ()
) -> Insertion:
    """Write a memory among those there are. ``said_at`` is when it was said (Unix seconds); ``rulings`` say which
    others it takes the place of, or what takes its place; ``near`` are the numbers of memories with nearly the same
    vector."""
    same = _said_before(tx, memory, near)
    if same is not None:
        return Insertion(AddOutcome("reinforced", _reinforce(tx, same, memory)))
    if memory.kind == "instruction":
        return _insert_instruction(tx, memory, said_at)
    ruled = _standing(tx, memory, rulings)
    later = next(((ruling, old) for ruling, old in ruled if ruling.late), None)
    if later is not None:
        return _insert_late(tx, memory, later[1].memory, _reason(later[0], later[1].memory))
    restated = _restated_before(tx, memory)
    memory = replace(memory, uses=memory.uses + sum(old.memory.uses for old in restated))
    number = insert(tx, memory)
    gone = [_merge(tx, old, memory) for old in restated]
    merged = {old.number for old in restated}
    gone += [
        _retire(tx, old, memory, said_at, _reason(ruling, memory)) for ruling, old in ruled if old.number not in merged
    ]
    action: Action = "added" if not gone else "superseded" if any(m.status == "archived" for m, _ in gone) else "merged"
    return Insertion(AddOutcome(action, memory, tuple(m for m, _ in gone)), number, [change for _, change in gone])


def _standing(tx: Transaction, memory: Memory, rulings: Sequence[Ruling]) -> list[tuple[Ruling, StoredMemory]]:
    """Return the rulings on memories that are still as they were when they were judged."""
    if not rulings:
        return []
    by_label = {ruling.label: ruling for ruling in rulings}
    ids = [label.rpartition("@")[0] for label in by_label]
    found = tx.memories.stored(tx.candidates.numbers(memory.cube_id, ids))
    active = [old for old in found if old.memory.status == "active" and old.memory.label in by_label]
    return [(by_label[old.memory.label], old) for old in sorted(active, key=lambda old: old.number)]


def _insert_late(tx: Transaction, memory: Memory, newer: Memory, detail: dict[str, Any] | None = None) -> Insertion:
    """Write as history what was told late: it held before ``newer``, which is known to hold now."""
    late = replace(memory, status="archived", valid_until=_since(newer, newer.created_at), replaced_by=newer.id)
    insert(tx, late, "outdated", detail)
    return Insertion(AddOutcome("outdated", late))


def _insert_instruction(tx: Transaction, memory: Memory, said_at: float) -> Insertion:
    """Write a standing instruction; those that it takes the place of become history."""
    standing = compared(tx, memory)
    if standing.newer is not None:
        return _insert_late(tx, memory, standing.newer)
    number = insert(tx, memory)
    gone = [_retire(tx, old, memory, said_at, {"by": memory.id, "reason": "update"}) for old in standing.older]
    action: Action = "superseded" if gone else "added"
    return Insertion(AddOutcome(action, memory, tuple(m for m, _ in gone)), number, [change for _, change in gone])


def _restated_before(tx: Transaction, memory: Memory) -> list[StoredMemory]:
    """Return states that give the same slot the same value in other words. What says more than that is none."""
    if memory.slot is None or memory.value is None:
        return []
    known = tx.memories.by_slot(memory.cube_id, memory.slot, memory.owner)
    same = [old for old in known if old.memory.value == memory.value and old.memory.kind == memory.kind]
    return [old for old in same if len(sentences_in(old.memory.said)) < 2]


def _since(memory: Memory, said_at: float) -> float:
    """Return since when a statement holds: the time that it is about, where that has passed when it is said."""
    return said_at if memory.event_at is None else min(said_at, memory.event_at)


def _reason(ruling: Ruling, by: Memory) -> dict[str, Any]:
    """Return what the history says of a retirement: by which memory, why, how surely and who judged."""
    verdict = ruling.verdict
    told = {"by": by.id, "reason": verdict.relation, "confidence": round(verdict.confidence, 3), "judge": verdict.judge}
    return told if verdict.reason is None else {**told, "why": verdict.reason}


def _merge(tx: Transaction, stored: StoredMemory, by: Memory) -> tuple[Memory, IndexChange]:
    """Merge a memory into one that says the same in other words."""
    old = replace(stored.memory, status="merged", replaced_by=by.id, pinned=False, updated_at=by.created_at)
    old = tx.memories.update(old)
    tx.history.add(old, "merged", detail={"by": by.id})
    return old, SearchIndex.remove(tx, stored.number, old.cube_id)


def _retire(
    tx: Transaction, stored: StoredMemory, by: Memory, said_at: float, reason: dict[str, Any]
) -> tuple[Memory, IndexChange]:
    """Take a memory out of use; it is kept as history, and can be brought back."""
    retired = replace(
        stored.memory,
        status="archived",
        valid_until=_since(by, said_at),
        replaced_by=by.id,
        pinned=False,
        updated_at=by.created_at,
    )
    retired = tx.memories.update(retired)
    tx.history.add(retired, "superseded", detail=reason)
    return retired, SearchIndex.remove(tx, stored.number, retired.cube_id)


def _said_before(tx: Transaction, memory: Memory, near: Sequence[int]) -> StoredMemory | None:
    """Return an active memory that says the same: the same words, but for their
    spelling and fillers, of the same kind, by the same author. (A
    dated event has its date in its words, so that the same thing on another day is another event.)"""
    found = tx.memories.same_words(memory)
    if found is not None or memory.slot is not None:
        return found
    for number in near:
        stored = tx.memories.same_kind(number, memory)
        if stored is not None and alike(memory.text, stored.memory.text):
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
