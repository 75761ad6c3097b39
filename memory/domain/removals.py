"""Finding and deleting what somebody wants to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.domain.corrections import best_match
from memory.language.remarks import Remark
from memory.language.removals import Removal
from memory.search.index import IndexChange, SearchIndex
from memory.storage.base import Transaction
from memory.types import Memory

MAX_ASKED = 10
_FORMER = ("active", "archived", "merged")


@dataclass(frozen=True)
class Meant:
    """The memories that are meant, or those of which one may be: then somebody is to say which."""

    memories: list[Memory]
    asked: list[Memory]


def meant(tx: Transaction, cube_id: str, removal: Removal, given: Sequence[Memory] = ()) -> Meant:
    """Find what a wish to forget is about: among the memories ``given``, or else in the whole cube."""
    pool = list(given) or tx.lists.of_cube(cube_id)
    if removal.of_all:
        return Meant([], [memory for memory in pool if memory.status == "active"][-MAX_ASKED:])
    if removal.everything:
        return Meant([m for m in pool if m.status in _FORMER and removal.names(m.text)], [])
    active = [memory for memory in pool if memory.status == "active"]
    if removal.states:
        best = best_match(Remark("removal", removal.what), active, given=bool(given))
        return Meant([] if best is None else [best], [])
    found = [m for m in active if removal.says(m.said)] or [m for m in active if removal.tells(m.said)]
    found = [found[i] for i in removal.closest([memory.said for memory in found])]
    if len({removal.value_in(memory.said) for memory in found}) > 1:
        return Meant([], found[:MAX_ASKED])
    return Meant(found, [])


def delete(
    tx: Transaction, index: SearchIndex, memories: Sequence[Memory], detail: dict[str, str]
) -> list[IndexChange]:
    """Take memories out of use; return what is no longer found."""
    changed: list[IndexChange] = []
    for memory in memories:
        (number,) = tx.candidates.numbers(memory.cube_id, [memory.id])
        changed.append(index.remove(tx, number, memory.cube_id))
        tx.memories.mark_deleted(number)
        tx.history.add(memory, "deleted", detail=dict(detail))
    return changed
