"""What a chat injects unasked: nothing to greetings and unrelated questions, and still what is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory import FolderEmbedder, MemoryStore, Said, new_message
from memory.search.relevance import ALONE, BUNDLED, phatic
from tests.memory.relevance_set import FACTS, RELATED, UNRELATED

T = "tenant"


@pytest.fixture(scope="module", params=["facts", "messages"])
def people(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, minilm: FolderEmbedder
) -> MemoryStore:
    """A cube of personal facts: added one by one, or said on as many days."""
    store = MemoryStore(Path(tmp_path_factory.mktemp("relevance")) / "m.sqlite", minilm)
    cube = store.default_cube(T).id
    if request.param == "facts":
        store.add_many(T, cube, list(FACTS))
    else:
        for day, fact in enumerate(FACTS):
            store.add_messages(T, cube, [new_message(fact, "user", 1.7e9 + 86_400 * day)], Said(session=f"s{day}"))
    return store


def injected(store: MemoryStore, query: str, top_k: int = 5) -> list[str]:
    cube = store.default_cube(T).id
    hits = store.search(T, query, cube_ids=[cube], top_k=top_k, relevant=True)
    sources = [store.sources(T, hit.memory.id) for hit in hits]  # the message as it was said, where there is one
    return [said[0].text if said else hit.memory.text for hit, said in zip(hits, sources, strict=True)]


def test_the_set_is_as_large_as_it_says() -> None:
    assert (len(FACTS), len(UNRELATED), len(RELATED)) == (30, 40, 60)
    assert len({*UNRELATED, *(query for query, _ in RELATED)}) == 100


def test_unrelated_questions_inject_nothing(people: MemoryStore) -> None:
    wrong = {query: found for query in UNRELATED if (found := injected(people, query))}
    assert len(wrong) <= 0.05 * len(UNRELATED), wrong


def test_related_questions_still_find(people: MemoryStore) -> None:
    missed = [query for query, fact in RELATED if FACTS[fact] not in injected(people, query)]
    assert len(missed) <= 0.03 * len(RELATED), missed


@pytest.mark.parametrize(
    "query",
    ["Hello there!", "hi", "Good morning, how are you?", "thanks a lot", "lol", "?!", "你好", "Guten Morgen!", "merci"],
)
def test_greetings_find_nothing_like_them(people: MemoryStore, query: str) -> None:
    assert phatic(query)
    assert injected(people, query, 30) == []
    assert people.search(T, query, cube_ids=[people.default_cube(T).id], top_k=30) == []


def test_a_greeting_that_somebody_asks_for_is_found_by_its_words(store: MemoryStore, cube: str) -> None:
    store.add(T, cube, "Our band is called Hello Tomorrow.")
    store.add(T, cube, "The gate is green.")
    assert [hit.memory.text for hit in store.search(T, "hello", cube_ids=[cube])] == [
        "Our band is called Hello Tomorrow."
    ]
    assert store.search(T, "hello", cube_ids=[cube], relevant=True) == []


@pytest.mark.parametrize("query", ["Otto's age?", "my dog?", "hi, what is my dog called?", "ok and my rent?"])
def test_short_questions_are_no_greetings(people: MemoryStore, query: str) -> None:
    assert not phatic(query)
    assert injected(people, query)


def test_questions_in_another_script_find_by_their_words(tmp_path: Path, minilm: FolderEmbedder) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", minilm)
    store.add(T, store.default_cube(T).id, "私はオットーという犬を飼っています。")
    assert injected(store, "何の犬?")


def test_what_names_the_date_that_is_asked_for_is_relevant(people: MemoryStore) -> None:
    cube = people.cubes.create(T, f"dates-{id(people)}").id
    people.add_messages(T, cube, [new_message("The plumber comes on 3 March 2025.", "user", 1.74e9)], Said(session="s"))
    hits = people.search(T, "what happens on 3 March 2025?", cube_ids=[cube], relevant=True)
    assert [hit.memory.said[:11] for hit in hits] == ["The plumber"]


def test_what_was_said_beside_something_relevant_comes_with_it(people: MemoryStore) -> None:
    cube = people.cubes.create(T, f"talk-{id(people)}").id
    texts = ["Biscuit, my beagle, had an operation on Monday.", "It went better than we feared, the vet said."]
    said = [new_message(text, "user", 1.74e9 + i) for i, text in enumerate(texts)]
    people.add_messages(T, cube, said, Said(session="s"))
    assert len(people.search(T, "How is my beagle Biscuit?", cube_ids=[cube], relevant=True)) == 2


def test_unrelated_texts_are_as_alike_as_is_said(minilm: FolderEmbedder) -> None:
    """The numbers of the bundled embedder, and how few pairs lie above the bound by chance."""
    cosines = minilm.embed(list(UNRELATED)) @ minilm.embed([f"User: {fact}" for fact in FACTS]).T
    assert cosines.mean() == pytest.approx(BUNDLED.mean, abs=0.02)
    assert cosines.std() == pytest.approx(BUNDLED.deviation, abs=0.02)
    by_chance = [cosine for cosine in cosines.flatten().tolist() if BUNDLED.above(cosine) >= ALONE]
    assert len(by_chance) < 0.005 * cosines.size
