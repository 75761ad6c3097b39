"""Questions about what was before, where what was said then has given way without a slot."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from memory import MemoryStore
from memory.search.index import SearchIndex

T = "tenant"


def retire(store: MemoryStore, cube: str, old: str, by: str, until: float = 1.8e9) -> None:
    """Take a memory out of use for another, as a judge does that knows no slots."""
    with store.index.writing() as (tx, changed):
        stored = tx.memories.find(T, old, need="write")
        tx.memories.update(replace(stored.memory, status="archived", valid_until=until, replaced_by=by))
        changed.append(SearchIndex.remove(tx, stored.number, cube))


def chain(store: MemoryStore, cube: str, *texts: str) -> None:
    """Add memories of which each takes the place of the one before."""
    ids = [store.add(T, cube, text).id for text in texts]
    for old, new in pairwise(ids):
        retire(store, cube, old, new)


@pytest.fixture
def lived(store: MemoryStore, cube: str) -> MemoryStore:
    chain(store, cube, "Piano lessons are with Otto.", "Marta teaches me the piano.", "My piano teacher is Luca.")
    chain(store, cube, "The kitchen budget is 900 euros.", "We can spend 1200 on it.")
    for text in (
        "I feed the dog at noon.",
        "The garden gate is green.",
        "Luca plays chess too.",
        "Rent is due in May.",
    ):
        store.add(T, cube, text)
    return store


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("Who was my piano teacher before Luca?", "Marta teaches me the piano."),
        ("who taught me piano before Marta", "Piano lessons are with Otto."),
        ("What was the kitchen budget before?", "The kitchen budget is 900 euros."),
        ("What did the kitchen cost originally, what was its budget?", "The kitchen budget is 900 euros."),
    ],
)
def test_what_was_before_is_found(lived: MemoryStore, cube: str, query: str, first: str) -> None:
    assert lived.search(T, query, cube_ids=[cube], top_k=3)[0].memory.text == first


def test_what_was_before_is_not_found_otherwise(lived: MemoryStore, cube: str) -> None:
    for query in ("Who is my piano teacher?", "What is the kitchen budget?"):
        hits = lived.search(T, query, cube_ids=[cube], top_k=20)
        assert {hit.memory.status for hit in hits} <= {"active"}


def test_what_was_before_meets_the_filter(lived: MemoryStore, cube: str) -> None:
    query = "Who was my piano teacher before Luca?"
    tagged = lived.search(T, query, cube_ids=[cube], top_k=20, filter={"tags": "none has it"})
    assert tagged == []


def test_what_was_before_of_something_else_stays_behind(lived: MemoryStore, cube: str) -> None:
    """The new one of that is not what the question is about."""
    texts = [hit.memory.text for hit in lived.search(T, "Did I feed the dog before?", cube_ids=[cube], top_k=1)]
    assert texts == ["I feed the dog at noon."]
