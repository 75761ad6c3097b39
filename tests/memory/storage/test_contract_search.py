"""Candidates for a search, as every storage backend proposes them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.search.filters import parse_filter
from memory.storage.base import Storage
from memory.storage.conditions import EVERYTHING
from memory.types import Vector
from tests.memory.storage.making import T, a_cube, a_memory, kept

WORDS = "harbour lantern walnut orchid glacier violin saffron compass".split()


def unit(seed: int, dim: int = 8) -> Vector:
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


# -- words -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.sampled_from(WORDS), min_size=1), min_size=1, max_size=12), st.sampled_from(WORDS))
def test_what_holds_a_word_is_found_by_it(shared: Storage, texts: list[set[str]], word: str) -> None:
    cube, other = a_cube(shared), a_cube(shared)
    memories = [a_memory(cube, " ".join(sorted(words))) for words in texts]
    with shared.write() as tx:
        numbers = kept(tx, *memories)
        (elsewhere,) = kept(tx, a_memory(other, word))
        for number, memory in zip(numbers, memories, strict=True):
            tx.texts.add(number, memory, "")
        tx.texts.add(elsewhere, a_memory(other, word), "")
        found = tx.texts.scores(f"the {word.upper()}", [cube], 99)
    assert set(found) == {number for number, words in zip(numbers, texts, strict=True) if word in words}
    assert all(score > 0 for score in found.values())


def test_rare_words_and_own_words_count_more(storage: Storage) -> None:
    cube = a_cube(storage)
    memories = [a_memory(cube, text) for text in ["red walnut", *["red thing"] * 20, "blue thing"]]
    with storage.write() as tx:
        numbers = kept(tx, *memories)
        for number, memory in zip(numbers, memories, strict=True):
            tx.texts.add(number, memory, "walnut" if memory.text == "blue thing" else "")
        found = tx.texts.scores("red walnut", [cube], 99)
        assert max(found, key=lambda number: found[number]) == numbers[0]
        in_context = tx.texts.scores("walnut", [cube], 99)
        assert in_context[numbers[0]] > in_context[numbers[-1]] > 0
        assert len(tx.texts.scores("red", [cube], 3)) == 3


@pytest.mark.parametrize("query", ["", "the of and", '"(', "NEAR AND OR NOT *", "walnut*", "cube:walnut", "\u0000"])
def test_nothing_in_a_query_is_syntax(storage: Storage, query: str) -> None:
    cube = a_cube(storage)
    with storage.write() as tx:
        (number,) = kept(tx, a_memory(cube, "a lantern"))
        tx.texts.add(number, a_memory(cube, "a lantern"), "")
        assert tx.texts.scores(query, [cube], 9) == {}
        assert tx.texts.scores("lantern", [], 9) == {}


SCRIPTS = {
    "我表妹在大连当药剂师": ["表妹", "药剂师", "大连"],
    "周四要去學校接小孩": ["學校", "小孩", "周四"],
    "兄は札幌でパン屋をやっている": ["兄", "札幌", "パン屋"],
    "고양이는 베란다에서 자요": ["고양이", "베란다"],
    "جدتي تزرع الورد في الحديقة": ["الورد", "ورد", "حديقة"],
    "Меня зовут Пётр, живу у озёр": ["Петр", "озёр"],
    "Mein Fußball liegt in Łódź beim Café": ["fussball", "Fußball", "Lodz", "cafe"],
}


@pytest.mark.parametrize("text", SCRIPTS)
def test_words_of_any_script_are_found(storage: Storage, text: str) -> None:
    """Where there are no spaces between words, and by a single character too; in what was said before as well."""
    cube = a_cube(storage)
    memories = [a_memory(cube, other) for other in SCRIPTS]
    with storage.write() as tx:
        numbers = dict(zip(SCRIPTS, kept(tx, *memories), strict=True))
        for number, memory in zip(numbers.values(), memories, strict=True):
            tx.texts.add(number, memory, "")
        (behind,) = kept(tx, a_memory(cube, "ok"))
        tx.texts.add(behind, a_memory(cube, "ok"), text)
        for word in SCRIPTS[text]:
            assert set(tx.texts.scores(word, [cube], 9)) == {numbers[text], behind}, word
            found = tx.texts.scores(word, [cube], 9)
            assert found[numbers[text]] > found[behind]


def test_a_text_that_holds_more_of_a_question_comes_first_in_any_script(storage: Storage) -> None:
    cube = a_cube(storage)
    memories = [a_memory(cube, text) for text in ["我的狗叫球球", "我的猫叫球球，它的名字是奶奶取的", "我的名字很长"]]
    with storage.write() as tx:
        numbers = kept(tx, *memories)
        for number, memory in zip(numbers, memories, strict=True):
            tx.texts.add(number, memory, "")
        found = tx.texts.scores("猫的名字是什么？", [cube], 9)
        assert max(found, key=lambda number: found[number]) == numbers[1]
        assert set(found) == set(numbers[1:])


def test_what_was_removed_or_retired_is_not_found(storage: Storage) -> None:
    cube = a_cube(storage)
    memories = [a_memory(cube, "a lantern") for _ in range(3)]
    with storage.write() as tx:
        first, second, third = kept(tx, *memories)
        for number in (first, second, third):
            tx.texts.add(number, memories[0], "")
        tx.texts.remove(first)
        tx.texts.retire(second, cube)
        assert set(tx.texts.scores("lantern", [cube], 9)) == {third}
        assert set(tx.texts.scores("lantern", [cube], 9, past=True)) == {second, third}


def test_words_of_a_small_share_of_all_memories_come_from_its_cubes(storage: Storage) -> None:
    """And of a large share perhaps from others too, which the caller leaves out: its own are all among them."""
    small, large = a_cube(storage), a_cube(storage)
    with storage.write() as tx:
        for cube, n in ((small, 3), (large, 97)):
            for _ in range(n):
                (number,) = kept(tx, a_memory(cube, "a lantern"))
                tx.texts.add(number, a_memory(cube, "a lantern"), "")
        ours = tx.candidates.of(range(200), [small], 1.0, EVERYTHING, past=False)
        theirs = tx.candidates.of(range(200), [large], 1.0, EVERYTHING, past=False)
        assert set(tx.texts.scores("lantern", [small], 60, in_cubes=3)) == {c.number for c in ours}
        assert set(tx.texts.scores("lantern", [large], 99, in_cubes=97)) >= {c.number for c in theirs}


# -- vectors ---------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_a_vector_comes_back_nearly_as_it_was(shared: Storage, dim: int, seed: int) -> None:
    cube = a_cube(shared)
    memory, vector = a_memory(cube), unit(seed, dim)
    with shared.write() as tx:
        (number,) = kept(tx, memory)
        tx.vectors.put(number, "embedder", unit(seed + 1, dim))
        tx.vectors.put(number, "embedder", vector)
        ((found, back),) = tx.vectors.of([number, number + 1])
        assert (found, back.shape) == (number, (dim,))
        assert back.dtype == np.float32
        assert np.abs(back - vector).max() < 1e-3
        ((listed,),) = tx.vectors.of_cube(cube)
        assert listed[0] == number
        assert (listed[1] == back).all()
        assert (tx.vectors.by_memory(cube)[memory.id] == back).all()


def test_only_active_memories_have_vectors_to_search(storage: Storage) -> None:
    cube = a_cube(storage)
    memories = [a_memory(cube), a_memory(cube, status="archived"), a_memory(cube)]
    with storage.write() as tx:
        numbers = kept(tx, *memories)
        for number in numbers:
            tx.vectors.put(number, "embedder", unit(number))
        tx.vectors.remove(numbers[2])
        assert [number for batch in tx.vectors.of_cube(cube) for number, _ in batch] == numbers[:1]
        assert list(tx.vectors.by_memory(cube)) == [memories[0].id]
        assert sorted(tx.vectors.numbers(cube)) == [numbers[0], numbers[2]]
        assert sorted(tx.vectors.known(numbers)) == numbers[:2]
        assert tx.vectors.written_since(cube, time.time() - 60) == {numbers[0]}
        assert tx.vectors.written_since(cube, time.time() + 60) == set()


def test_what_is_to_be_embedded_comes_with_what_was_before_it(storage: Storage) -> None:
    cube = a_cube(storage)
    first = a_memory(cube, "one")
    second = a_memory(cube, "two", follows=first.id)
    third = a_memory(cube, "three", follows=second.id)
    with storage.write() as tx:
        numbers = kept(tx, first, second, third, a_memory(cube, status="archived"))
        tx.vectors.put(numbers[0], "new", unit(1))
        tx.vectors.put(numbers[1], "old", unit(2))
        missing = tx.vectors.missing(cube, "new")
    assert missing == [(numbers[1], "two", ["one"]), (numbers[2], "three", ["two", "one"])]


def test_vectors_of_what_has_expired(storage: Storage) -> None:
    cube = a_cube(storage)
    memories = [a_memory(cube, status="archived", expires_at=at) for at in (30.0, 20.0, 10.0, None)]
    with storage.write() as tx:
        numbers = kept(tx, *memories)
        for number in numbers:
            tx.vectors.put(number, "embedder", unit(number))
        assert list(tx.vectors.expired([cube], 15.0, 8, 9)) == [numbers[1], numbers[0]]
        assert list(tx.vectors.expired([cube], 15.0, 8, 1)) == [numbers[1]]
        assert tx.vectors.expired([cube], 15.0, 9, 9) == tx.vectors.expired([], 15.0, 8, 9) == {}


# -- names -----------------------------------------------------------------------------------------------------


def test_names_join_the_memories_of_a_cube(storage: Storage) -> None:
    cube, other = a_cube(storage), a_cube(storage)
    with storage.write() as tx:
        a, b, c = kept(tx, a_memory(cube), a_memory(cube), a_memory(other))
        tx.names.link(cube, a, ["oslo", "ann"])
        tx.names.link(cube, b, ["oslo", "oslo"])
        tx.names.link(other, c, ["oslo"])
        (oslo,) = tx.names.known([cube], ["oslo", "nowhere"])
        assert [sorted(numbers) for numbers in tx.names.mentions([oslo], 9)] == [[a, b]]
        assert tx.names.mentions([oslo], 1) == [[]]
        assert len(tx.names.known([cube, other], ["oslo"])) == 2
        assert len(tx.names.of_memories([a, b])) == 2
        tx.names.unlink(a)
        assert tx.names.known([cube], ["ann"]) == tx.names.of_memories([a]) == []
        assert tx.names.mentions([oslo], 9) == [[b]]


# -- what candidates are scored by -----------------------------------------------------------------------------


def test_candidates_of_other_cubes_or_out_of_use_are_left_out(storage: Storage) -> None:
    cube, other = a_cube(storage), a_cube(storage)
    shown = a_memory(
        cube, author="Ann", event_at=5.0, importance=0.25, uses=3, slot="s", replaced_by="mem_x", session="t"
    )
    expired = a_memory(cube, status="archived", expires_at=50.0)
    memories = [shown, a_memory(other), a_memory(cube, status="archived"), expired, a_memory(cube, status="merged")]
    with storage.write() as tx:
        numbers = kept(tx, *memories)
        (found,) = tx.candidates.of(numbers, [cube], 20.0, EVERYTHING, past=False)
        assert found == (numbers[0], shown.id, "Ann", 1.0, 5.0, None, 0.25, 3, "s", "mem_x", "t", None, len(shown.text))
        past = tx.candidates.of(numbers, [cube], 20.0, EVERYTHING, past=True)
        assert {candidate.id for candidate in past} == {shown.id, expired.id}
        assert len(tx.candidates.of(numbers, [cube], 60.0, EVERYTHING, past=True)) == 1
        wanted = parse_filter({"author": "Ben"})
        assert tx.candidates.of(numbers, [cube], 20.0, wanted, past=False) == []
        assert tx.candidates.matching([cube], EVERYTHING, 9, past=False) == numbers[:1]
        assert set(tx.candidates.matching([cube], EVERYTHING, 9, past=True)) == {numbers[0], numbers[3]}
        assert len(tx.candidates.matching([cube, other], EVERYTHING, 1, past=False)) == 1


def test_what_held_until_another_took_its_place(storage: Storage) -> None:
    """With a slot, or with the time it held until: what a correction put right has neither, it never held."""
    cube, other = a_cube(storage), a_cube(storage)
    now = a_memory(cube, created_at=9.0)
    gone = {"status": "archived", "replaced_by": now.id}
    old = a_memory(cube, "of a slot", slot="home", created_at=3.0, **gone)
    older = a_memory(cube, "until a day", valid_until=5.0, created_at=2.0, tags=("t",), **gone)
    left_out = [
        a_memory(cube, "corrected", **gone),
        a_memory(cube, "merged", slot="home", status="merged", replaced_by=now.id),
        a_memory(cube, "put away", status="archived", slot="home"),
        a_memory(cube, "in use", slot="home", replaced_by=now.id),
        a_memory(cube, "expired", slot="home", expires_at=15.0, **gone),
        a_memory(other, "elsewhere", slot="home", **gone),
    ]
    with storage.write() as tx:
        kept(tx, now, old, older, *left_out)
        former = tx.candidates.former([cube], 20.0, EVERYTHING, 9)
        assert [(item.data.id, item.data.replaced_by, item.text) for item in former] == [
            (old.id, now.id, "of a slot"),
            (older.id, now.id, "until a day"),
        ]
        assert [item.text for item in tx.candidates.former([cube], 20.0, EVERYTHING, 1)] == ["of a slot"]
        assert [item.text for item in tx.candidates.former([cube], 20.0, parse_filter({"tags": "t"}), 9)] == [
            older.text
        ]
        assert len(tx.candidates.former([cube, other], 10.0, EVERYTHING, 9)) == 4
        assert tx.candidates.former([], 20.0, EVERYTHING, 9) == []


def test_former_states_authors_and_labels(storage: Storage) -> None:
    cube, other = a_cube(storage), a_cube(storage)
    now = a_memory(cube, slot="home", author="Ann", version=3)
    former = a_memory(cube, status="archived", slot="home", replaced_by=now.id, author="Ben")
    merged = a_memory(cube, status="merged", slot="home", replaced_by=now.id)
    with storage.write() as tx:
        numbers = kept(tx, now, former, merged, a_memory(other, author="Cleo"))
        assert tx.candidates.former([cube], 2.0, EVERYTHING, 9)[0].text == former.text
        assert tx.candidates.authors(cube) == {"Ann", "Ben"}
        assert tx.candidates.memories(numbers[:2]) == {numbers[0]: now, numbers[1]: former}
        assert sorted(tx.candidates.numbers(cube, [now.id, former.id, "mem_x"])) == numbers[:2]
        assert tx.candidates.labels(cube, numbers) == [(numbers[0], now.id, f"{now.id}@3")]
        assert tx.cubes.visible(T)
