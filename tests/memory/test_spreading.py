"""Scores that spread to what was said around a hit, and results that do not depend on how many are asked for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import HashEmbedder, MemoryStore, Said, new_message
from memory.search.scored import Scored
from memory.search.spreading import spread
from memory.storage.records import Candidate

T = "tenant"
WORDS = "harbour lantern walnut orchid glacier violin saffron compass meadow copper".split()


def a_candidate(number: int, score: float, session: str | None = "s", **fields: object) -> Scored:
    given = {
        "number": number,
        "id": f"mem_{number}",
        "author": None,
        "created_at": 1e9,
        "event_at": 1e9 + number,
        "event_until": None,
        "importance": 0.5,
        "uses": 1,
        "slot": None,
        "replaced_by": None,
        "session": session,
        "follows": None,
        "length": 90,
    }
    return Scored(Candidate(**{**given, **fields}), text=score)  # type: ignore[arg-type]


def spread_scores(*candidates: Scored) -> list[float]:
    spread(candidates)
    return [candidate.score for candidate in candidates]


def test_a_hit_lifts_what_was_said_around_it() -> None:
    before, hit, after, far = spread_scores(*(a_candidate(i, s) for i, s in [(1, 0.2), (2, 1.0), (3, 0.2), (9, 0.2)]))
    assert hit == 1.0
    assert before > after > far > 0.2  # what came later is in the context of what came before already
    assert before < hit


@pytest.mark.parametrize(
    "other",
    [
        a_candidate(1, 0.2, session=None),
        a_candidate(1, 0.2, session="elsewhere"),
        a_candidate(1, 0.6, event_at=1e9 - 5 * 86_400),  # the same session, days before: above its mean of three
    ],
)
def test_what_was_said_elsewhere_is_left_alone(other: Scored) -> None:
    score = other.score
    assert spread_scores(other, a_candidate(2, 1.0, session="s" if other.data.session else None))[0] == score


def test_what_follows_directly_is_near_though_others_wrote_in_between() -> None:
    (first, _) = spread_scores(a_candidate(1, 0.5), a_candidate(40, 1.0, follows="mem_1"))
    (other, _) = spread_scores(a_candidate(1, 0.5), a_candidate(40, 1.0))
    assert first > other


def test_a_memory_that_names_a_date_is_near_what_was_said_with_it() -> None:
    dated = a_candidate(1, 0.5, event_at=5e8, event_until=5e8 + 86_400)
    assert spread_scores(dated, a_candidate(2, 1.0))[0] > 0.5


def test_length_counts_only_among_what_was_said_in_one_go() -> None:
    short, long = spread_scores(a_candidate(1, 0.5, length=12), a_candidate(2, 0.5, length=300))
    assert short < 0.5 < long
    apart = spread_scores(a_candidate(1, 0.5, length=12), a_candidate(20, 0.5, length=300))
    assert apart == [0.5, 0.5]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 2), st.sampled_from("abc")), min_size=1, max_size=30))
def test_nothing_comes_to_stand_above_all_that_lift_it(given_: list[tuple[int, float, str]]) -> None:
    unique = {number: (score, session) for number, score, session in given_}
    candidates = [a_candidate(number, score, session) for number, (score, session) in unique.items()]
    best = {name: max((s for s, session in unique.values() if session == name), default=0.0) for name in "abc"}
    spread(candidates)
    for candidate in candidates:
        score, session = unique[candidate.number]
        assert score <= candidate.score <= best[session or ""] + 1e-9  # (length counts 0 here)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStore, str]:
    """A cube of 200 memories: sessions, and facts without one, many of them alike."""
    store = MemoryStore(Path(tmp_path_factory.mktemp("talk")) / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    rng = random.Random(5)
    for session in range(10):
        texts = [f"We saw the {' and the '.join(rng.sample(WORDS, 3))}, number {session}{i}." for i in range(14)]
        messages = [new_message(text, "user", 1.7e9 + 1e5 * session + i) for i, text in enumerate(texts)]
        store.add_messages(T, cube, messages, Said(session=f"s{session}"))
    store.add_many(T, cube, [f"the {rng.choice(WORDS)} of house {i} is {rng.choice(WORDS)}" for i in range(60)])
    return store, cube


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), st.integers(1, 59), st.sampled_from([0.0, 0.3]))
def test_the_first_results_do_not_depend_on_how_many_are_asked_for(
    talk: tuple[MemoryStore, str], words: list[str], top_k: int, diversity: float
) -> None:
    store, cube = talk

    def first(n: int) -> list[tuple[str, float]]:
        hits = store.search(T, " ".join(words), cube_ids=[cube], top_k=n, diversity=diversity, at=1.8e9)
        return [(hit.memory.id, hit.score) for hit in hits]

    assert first(top_k) == first(60)[:top_k]


def test_facts_that_are_told_days_apart_are_ordered_as_without(store: MemoryStore, cube: str) -> None:
    for i, word in enumerate(WORDS):  # one message a day, in one session that goes on
        said = [new_message(f"My {word} is in the shed with the ladder.", "user", 1.7e9 + i * 86_400)]
        store.add_messages(T, cube, said, Said(session="always"))
    hits = store.search(T, "violin ladder", cube_ids=[cube], top_k=10)
    assert "violin" in hits[0].memory.text
    assert not any({"near", "length"} & hit.parts.keys() for hit in hits)
