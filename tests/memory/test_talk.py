"""Talk between people: nobody's words retire another's, and what is said to a listener retires nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from memory import MemoryStore, Message, Said, new_message
from memory.judge.base import Older, Statement, Verdict
from memory.language.extract import LocalExtractor
from memory.language.talk import may_be_outdated, may_outdate
from memory.search.embed import HashEmbedder

T = "tenant"


class Retiring:
    """A judge that retires whatever it is asked about, as one of a name."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def judge(self, new: Statement, older: Sequence[Older]) -> list[Verdict]:
        return [Verdict("update", 0.9, self._name) for _ in older]


def _active(tmp_path: Path, messages: list[Message], judge: str = "local") -> list[str]:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(), judge=Retiring(judge))
    cube = store.default_cube(T).id
    for i, message in enumerate(messages):
        store.add_messages(T, cube, [message], Said(session=f"s{i}"))
    texts = [memory.text for memory in store.list_memories(T, cube).items]
    store.close()
    return texts


@pytest.mark.parametrize(
    "text",
    [
        "Your garden is lovely in spring.",
        "I'm so glad you got the flat.",
        "You really know your way around engines.",
        "That concert was a blast!",
        "We drove to the lake on Sunday. The kids swam. It rained at night.",
    ],
)
def test_what_is_said_to_a_listener_or_tells_at_length_is_not_outdated(text: str) -> None:
    assert not may_be_outdated(text)


@pytest.mark.parametrize(
    "text",
    ["I drive a Golf.", "You can reach me at extension 40.", "my rent is 900 a month", "We got a puppy!", "住在上海"],
)
def test_a_sentence_about_oneself_may_be_outdated(text: str) -> None:
    assert may_be_outdated(text)


def test_a_long_account_or_praise_outdates_nothing() -> None:
    assert may_outdate("Sold the Golf. I have a van now.")
    assert not may_outdate("You have a van now!")
    assert not may_outdate("We went to see vans. There were red ones. We ate. We went home.")


def test_of_two_people_nobody_retires_what_the_other_said(tmp_path: Path) -> None:
    messages = [
        new_message("I live in Oslo.", author="Anna"),
        new_message("I live in Bergen.", author="Tom"),
        new_message("I live in Lima.", author="Anna"),
    ]
    assert _active(tmp_path, messages) == ["Tom: I live in Bergen.", "Anna: I live in Lima."]


def test_a_judge_that_reads_more_than_sentences_is_believed_on_them(tmp_path: Path) -> None:
    told = "We toured the coast by bike. The hostels were full. Nobody minded."
    messages = [new_message(told), new_message("I gave the bike away.")]
    assert len(_active(tmp_path / "a", messages)) == 2
    assert len(_active(tmp_path / "b", messages, "model")) == 1


def test_an_account_is_not_merged_into_another_that_names_the_same_liking(tmp_path: Path) -> None:
    messages = [
        new_message("Pottery has kept me sane since the move to Leeds. I love that it takes time."),
        new_message("The choir has new members from four countries. I love that it is loud."),
    ]
    assert len(_active(tmp_path, messages)) == 2


def test_what_is_liked_elsewhere_is_no_state() -> None:
    (unit,) = LocalExtractor().extract([new_message("The pottery class is on again. I love it.")])
    assert unit.state is None


def test_an_answer_has_both_questions_that_were_asked() -> None:
    messages = [
        new_message("Cute! What are the names of your cats? And how old are they?", author="Anna"),
        new_message("Pixel and Byte.", author="Tom"),
    ]
    unit = LocalExtractor().extract(messages)[-1]
    assert unit.text == "Tom: Asked “What are the names of your cats? And how old are they?”: Pixel and Byte."
