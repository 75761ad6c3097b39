"""Which standing instructions a new one takes the place of."""

from __future__ import annotations

from dataclasses import dataclass

from memory.language.instructions import described, instruction_of
from memory.storage.base import Transaction
from memory.storage.records import StoredMemory
from memory.types import Memory


@dataclass(frozen=True)
class Standing:
    """Instructions that a new one replaces, and, where it was told late, the one that had replaced it already."""

    older: list[StoredMemory]
    newer: Memory | None


def compared(tx: Transaction, memory: Memory) -> Standing:
    """Compare an instruction with those of the same person in the cube: the newest of a topic holds."""
    new = instruction_of(memory.said) or described(memory.said)
    older: list[str] = []
    newer: Memory | None = None
    for other in tx.lists.standing(memory.cube_id):
        if other.kind != "instruction" or other.id == memory.id or _whose(other) != _whose(memory):
            continue
        there = instruction_of(other.said) or described(other.said)
        if _time(other) > _time(memory):
            newer = other if there.replaces(new) else newer
        elif new.replaces(there):
            older.append(other.id)
    return Standing(tx.memories.stored(tx.candidates.numbers(memory.cube_id, older)) if older else [], newer)


def _whose(memory: Memory) -> tuple[str | None, str]:
    return memory.owner, (memory.author or "User").lower()


def _time(memory: Memory) -> float:
    return memory.created_at if memory.event_at is None else memory.event_at
