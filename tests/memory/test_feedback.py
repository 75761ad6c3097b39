"""Feedback: what it takes for what, what it does, and what is left of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory import Conflict, Forbidden, HashEmbedder, InvalidMemory, MemoryStore, NotFound, new_message
from memory.language.dates import with_dates
from memory.language.remarks import Remark, remarks_in
from memory.types import FeedbackOutcome, Memory

T = "tenant"


def told(store: MemoryStore, cube: str, *texts: str) -> list[Memory]:
    """Memories as they come from messages, a day before the feedback."""
    messages = [new_message(text, sent_at=1_700_000_000.0 + i) for i, text in enumerate(texts)]
    return [placed.memory for placed in store.add_messages(T, cube, messages)]


def did(outcome: FeedbackOutcome) -> list[tuple[str, str | None]]:
    return [(item.action, item.memory_id) for item in outcome.actions]


@pytest.mark.parametrize(
    "text",
    ["yes, that's right", "Correct", "exactly!", "Yes.", "That’s correct, thanks", "you are right", "Yep, spot on."],
)
def test_confirmations(text: str) -> None:
    assert [remark.kind for remark in remarks_in(text)] == ["confirmation"]


@pytest.mark.parametrize(
    "text",
    ["that's wrong", "That is not true.", "no", "No, that isn't right!", "Wrong.", "not true", "You are mistaken"],
)
def test_denials(text: str) -> None:
    assert [remark.kind for remark in remarks_in(text)] == ["denial"]


@pytest.mark.parametrize(
    "text",
    ["forget that", "Please delete that memory.", "delete it", "Could you remove this, please?", "Forget about it"],
)
def test_removals(text: str) -> None:
    assert remarks_in(text) == [Remark("removal")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No, I live in Lima, not Oslo", Remark("correction", "I live in Lima", None, "Oslo", True)),
        ("No I live in Lima", Remark("correction", "I live in Lima", None, None, True)),
        ("my dog is called Rex, not Biscuit", Remark("correction", "my dog is called Rex", None, "Biscuit", True)),
        ("Actually it's Lima", Remark("correction", "", "Lima", None, True)),
        ("No, Lima.", Remark("correction", "", "Lima", None, True)),
        ("Not Oslo, Lima", Remark("correction", "", "Lima", "Oslo", True)),
        ("It's not in Oslo, it's in Lima.", Remark("correction", "", "Lima", "Oslo", True)),
        ("Not Oslo, I live in Lima.", Remark("correction", "I live in Lima", None, "Oslo", True)),
        ("Not really, I prefer tea.", Remark("correction", "I prefer tea.", None, None, True)),
        ("That's wrong. I live in Lima.", Remark("correction", "I live in Lima.", None, None, True)),
        ("Actually, I moved to Lima", Remark("correction", "I moved to Lima", None, None, False)),
        ("forget that I live in Oslo", Remark("removal", "I live in Oslo")),
        ("Yes, and I live in Lima", Remark("statement", "Yes, and I live in Lima")),
        ("I do not like olives", Remark("statement", "I do not like olives")),
        ("No one lives in Lima", Remark("statement", "No one lives in Lima")),
        ("Don't forget that I meet Sam", Remark("statement", "Don't forget that I meet Sam")),
        ("It's Friday actually, same time.", Remark("correction", "", "Friday", None, True)),
        ("no, it's at 8 pm now", Remark("correction", "", "8 pm", None, True)),
        (
            "It's actually raining cats and dogs, I stay in",
            Remark("statement", "It's actually raining cats and dogs, I stay in"),
        ),
        (
            "Wrong dog, Biscuit is my neighbour's.",
            Remark("correction", "Biscuit is my neighbour's.", None, None, True, about="dog"),
        ),
        ("Wrong turns are fun", Remark("statement", "Wrong turns are fun")),
    ],
)
def test_remarks(text: str, expected: Remark) -> None:
    assert remarks_in(text) == [expected]


@given(st.text(max_size=300) | st.text(alphabet="no,. yesit'wrong actually", max_size=300))
def test_any_text_is_some_remark(text: str) -> None:
    for remark in remarks_in(text):
        assert remark.kind == "statement" or remark.value != ""


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "part",
    ["no, ", "actually ", "yes ", "a, not b ", "it's ", "A ", "wrong. ", "- ", " ", "it's actually ", "wrong a, "],
)
def test_long_texts_are_read_in_no_time(part: str) -> None:
    remarks_in(part * 20_000)
    remarks_in("No, " + part * 20_000 + "!")


def test_a_confirmation_reinforces(store: MemoryStore, cube: str) -> None:
    (memory,) = told(store, cube, "I live in Oslo.")
    outcome = store.feedback.take(T, cube, "Yes, that's right", memory_ids=[memory.id])
    assert did(outcome) == [("reinforced", memory.id)]
    assert outcome.replaced == ()
    after = store.get(T, memory.id)
    assert (after.uses, after.version, after.text) == (2, 1, memory.text)
    change = store.history(T, memory.id)[-1]
    assert (change.action, change.detail) == ("reinforced", {"feedback": outcome.id})
    assert did(store.feedback.take(T, cube, "exactly")) == [("nothing", None)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("before", "feedback", "after"),
    [
        ("I live in Oslo.", "No, I live in Lima, not Oslo", "User: I live in Lima."),
        ("I live in Oslo.", "That's wrong, I live in Lima.", "User: I live in Lima."),
        ("My dog is called Biscuit.", "my dog is called Rex, not Biscuit", "User: My dog is called Rex."),
        ("We got a puppy called Biscuit.", "It's Rex, not Biscuit.", "User: We got a puppy called Rex."),
        ("The meeting is on Monday at noon.", "The meeting is on Tuesday, not Monday.", None),
        ("I hate olives.", "No, I love olives!", "User: I love olives!"),
        ("My flight leaves at seven.", "Actually my flight leaves at nine", "User: My flight leaves at nine"),
    ],
)
def test_a_correction_updates_what_it_is_about(
    store: MemoryStore, cube: str, before: str, feedback: str, after: str | None, named: bool
) -> None:
    other, memory = told(store, cube, "The wifi password is kestrel.", before)
    outcome = store.feedback.take(T, cube, feedback, memory_ids=[memory.id] if named else ())
    assert did(outcome) == [("updated", memory.id)]
    assert outcome.replaced == (memory,)
    new = store.get(T, memory.id)
    assert new.version == 2
    # The day that Monday was is not left behind Tuesday.
    assert new.text == (after or f"User: {with_dates('The meeting is on Tuesday at noon.', new.updated_at)}")
    assert new.slot == memory.slot
    change = store.history(T, memory.id)[-1]
    assert (change.action, change.text, change.detail) == ("updated", memory.text, {"feedback": outcome.id})
    assert store.get(T, other.id) == other
    assert outcome.text in {message.text for message in store.sources(T, memory.id)}
    query = new.text.removeprefix("User: ")
    assert store.search(T, query, cube_ids=[cube])[0].memory.text == new.text


def test_only_what_is_wrong_is_replaced(store: MemoryStore, cube: str) -> None:
    memory = store.add(T, cube, "I live in Oslo. I work at a school there and have two cats.", kind="fact")
    store.feedback.take(T, cube, "No, it's Lima, not Oslo", memory_ids=[memory.id])
    assert store.get(T, memory.id).text == "I live in Lima. I work at a school there and have two cats."
    store.feedback.take(T, cube, "No, I have three cats.", memory_ids=[memory.id])
    text = store.get(T, memory.id).text
    assert "school" in text
    assert text.endswith("(corrected: I have three cats.)")


def test_a_change_is_no_denial(store: MemoryStore, cube: str) -> None:
    """What was true stays, as history."""
    (memory,) = told(store, cube, "I live in Oslo.")
    outcome = store.feedback.take(T, cube, "Actually, I moved to Lima.")
    assert did(outcome)[0] == ("superseded", memory.id)
    assert [action for action, _ in did(outcome)] == ["superseded", "added"]
    assert [old.id for old in outcome.replaced] == [memory.id]
    assert store.get(T, memory.id).status == "archived"
    for id in (memory.id, did(outcome)[1][1]):
        assert id is not None
        assert store.history(T, id)[-1].detail["feedback"] == outcome.id


def test_of_several_the_right_one_is_corrected(store: MemoryStore, cube: str) -> None:
    home, dog, cat = told(store, cube, "I live in Oslo.", "My dog is called Biscuit.", "My cat is called Mittens.")
    ids = [home.id, dog.id, cat.id]
    assert did(store.feedback.take(T, cube, "No, my cat is called Felix.", memory_ids=ids)) == [("updated", cat.id)]
    assert did(store.feedback.take(T, cube, "It's Rex, not Biscuit", memory_ids=ids)) == [("updated", dog.id)]
    outcome = store.feedback.take(T, cube, "No, I live in Lima. And my dog is called Max, not Rex.", memory_ids=ids)
    assert did(outcome) == [("updated", home.id), ("updated", dog.id)]
    assert "Max" in store.get(T, dog.id).text


def test_a_correction_of_nothing_known_is_new(store: MemoryStore, cube: str) -> None:
    (home,) = told(store, cube, "I live in Oslo.")
    outcome = store.feedback.take(T, cube, "No, I am allergic to peanuts.", memory_ids=())
    ((action, id),) = did(outcome)
    assert (action, outcome.replaced) == ("added", ())
    assert id is not None
    assert store.get(T, id).text == "User: I am allergic to peanuts."
    assert store.get(T, home.id) == home
    assert did(store.feedback.take(T, cube, "Actually it's Lima")) == [("nothing", None)]
    # It denies something else than what it was said of.
    assert did(store.feedback.take(T, cube, "No, I work as a nurse.", memory_ids=[home.id]))[0][0] == "added"
    assert store.get(T, home.id) == home


def test_denials_archive_and_removals_delete(store: MemoryStore, cube: str) -> None:
    a, b, c = told(store, cube, "I live in Oslo.", "I like olives.", "My dog is called Biscuit.")
    outcome = store.feedback.take(T, cube, "That's wrong.", memory_ids=[a.id])
    assert did(outcome) == [("archived", a.id)]
    assert outcome.replaced == (a,)
    assert store.get(T, a.id).status == "archived"
    assert did(store.feedback.take(T, cube, "forget that", memory_ids=[b.id])) == [("deleted", b.id)]
    with pytest.raises(NotFound):
        store.get(T, b.id)
    assert store.undelete(T, b.id).text == b.text
    assert did(store.feedback.take(T, cube, "Please forget that my dog is called Biscuit.")) == [("deleted", c.id)]
    for text in ("that's wrong", "delete that", "forget that I own a yacht"):
        assert did(store.feedback.take(T, cube, text)) == [("nothing", None)]
    assert did(store.feedback.take(T, cube, "Wrong", memory_ids=[a.id])) == [("nothing", None)]


def test_statements_go_the_ordinary_way(store: MemoryStore, cube: str) -> None:
    (home,) = told(store, cube, "I live in Oslo.")
    outcome = store.feedback.take(T, cube, "I live in Lima now.", at=1_710_000_000.0)
    assert [action for action, _ in did(outcome)] == ["superseded", "added"]
    assert store.get(T, home.id).status == "archived"
    again = store.feedback.take(T, cube, "I live in Lima now.")
    assert [action for action, _ in did(again)] == ["reinforced"]
    assert did(store.feedback.take(T, cube, "Is that so?")) == [("nothing", None)]


def test_a_corrected_text_is_taken_as_it_is(store: MemoryStore, cube: str) -> None:
    a, b = told(store, cube, "I live in Oslo.", "My flat in Oslo is small.")
    outcome = store.feedback.take(T, cube, "wrong city", memory_ids=[a.id, b.id, a.id], corrected=" You live in Lima. ")
    assert did(outcome) == [("updated", a.id), ("superseded", b.id)]
    assert outcome.replaced == (a, b)
    new, old = store.get(T, a.id), store.get(T, b.id)
    assert (new.text, new.version) == ("You live in Lima.", 2)
    assert (old.status, old.replaced_by) == ("archived", a.id)
    outcome = store.feedback.take(T, cube, "it was about the dog", corrected="Is the dog old?")
    ((action, id),) = did(outcome)
    assert action == "added"
    assert id is not None
    assert store.get(T, id).text == "Is the dog old?"
    found = store.feedback.take(T, cube, "not quite", corrected="I live in Cusco.")
    assert [action for action, _ in did(found)] == ["added"]


def test_feedback_is_kept_and_forgotten_with_what_it_was_about(store: MemoryStore, cube: str, tmp_path: Path) -> None:
    (memory,) = told(store, cube, "I live in Oslo.")
    first = store.feedback.take(T, cube, "No, I live in Quetzaltenango, not Oslo", at=100.0)
    second = store.feedback.take(T, cube, "hmm")
    listed = store.feedback.all(T, cube)
    assert [item.id for item in listed] == [second.id, first.id]
    assert (listed[1].text, listed[1].at, listed[1].actions) == (first.text, 100.0, first.actions)
    assert store.feedback.all(T, cube, limit=1) == listed[:1]
    proof = store.forget(T, memory.id)
    assert proof.scan.total == 0
    assert [item.id for item in store.feedback.all(T, cube)] == [second.id]
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert b"uetzaltenango" not in raw


def test_forgotten_at_once_where_nothing_can_be_brought_back(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(), undelete_s=0)
    cube = store.default_cube(T).id
    memory = store.add(T, cube, "xylophonist quetzalcoatl")
    store.feedback.take(T, cube, "delete that", memory_ids=[memory.id])
    with pytest.raises(NotFound):
        store.undelete(T, memory.id)
    assert b"xylophon" not in b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    store.close()


def test_nothing_is_kept_of_feedback_that_fails(store: MemoryStore, cube: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (memory,) = told(store, cube, "I live in Oslo.")

    cities = iter(["Bergen", "Lima", "Bergen"])

    def changed_meanwhile(step: object) -> object:
        store.update(T, memory.id, text=f"I live in {next(cities)}.")
        return step

    monkeypatch.setattr(store.feedback, "_with_vector", changed_meanwhile)
    with pytest.raises(Conflict):
        store.feedback.take(T, cube, "that's wrong", memory_ids=[memory.id])
    assert store.feedback.all(T, cube) == []
    assert store.get(T, memory.id).status == "active"
    assert {message.text for message in store.messages(T, cube)} == {"I live in Oslo."}
    assert [hit.memory.id for hit in store.search(T, "Bergen", cube_ids=[cube])] == [memory.id]


def test_feedback_on_what_is_changed_meanwhile_is_done_on_what_it_is_then(
    store: MemoryStore, cube: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (memory,) = told(store, cube, "I live in Oslo.")
    with_vector = store.feedback._with_vector
    changes: Iterator[dict[str, Any]] = iter([{"tags": ["a"]}, {"metadata": {"b": 1}}])

    def changed_meanwhile(step: Any) -> Any:
        for fields in changes:
            store.update(T, memory.id, **fields)
            break
        return with_vector(step)

    monkeypatch.setattr(store.feedback, "_with_vector", changed_meanwhile)
    store.feedback.take(T, cube, "No, I live in Bergen.", memory_ids=[memory.id])
    now = store.get(T, memory.id)
    assert (now.text, now.tags, now.metadata) == ("User: I live in Bergen.", ("a",), {"b": 1})
    assert [step.action for step in store.history(T, memory.id)] == ["added", "changed", "changed", "updated"]
    assert len(store.feedback.all(T, cube)) == 1


def test_others_memories_are_unknown(store: MemoryStore, cube: str) -> None:
    memory = store.add(T, cube, "secret")
    theirs = store.default_cube("other").id
    elsewhere = store.cubes.create(T, "elsewhere").id
    calls: list[Callable[[], object]] = [
        lambda: store.feedback.take("other", theirs, "that's wrong", memory_ids=[memory.id]),
        lambda: store.feedback.take("other", cube, "that's wrong"),
        lambda: store.feedback.all("other", cube),
        lambda: store.feedback.take(T, elsewhere, "that's wrong", memory_ids=[memory.id]),
        lambda: store.feedback.take(T, cube, "that's wrong", memory_ids=["mem_0"]),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    store.cubes.share(T, cube, "other", "read")
    with pytest.raises(Forbidden):
        store.feedback.take("other", cube, "that's wrong", memory_ids=[memory.id])
    assert store.get(T, memory.id) == memory
    store.cubes.share(T, cube, "other", "write")
    assert did(store.feedback.take("other", cube, "yes", memory_ids=[memory.id])) == [("reinforced", memory.id)]


def test_bad_feedback_is_refused(store: MemoryStore, cube: str) -> None:
    for text, settings in (
        (" ", {}),
        ("a\x00b", {}),
        ("x", {"corrected": ""}),
        ("x", {"at": 1e300}),
        ("yesterday", {"at": -1e11}),
        ("x", {"memory_ids": [str(i) for i in range(101)]}),
    ):
        with pytest.raises(InvalidMemory):
            store.feedback.take(T, cube, text, **settings)


@pytest.mark.slow
@given(st.text(min_size=1, max_size=80))
def test_any_feedback_is_taken_or_refused_by_name(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    store = MemoryStore(tmp_path_factory.mktemp("any") / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    memory = store.add(T, cube, "I live in Oslo, not far from the sea. It rains.")
    try:
        for said in (text, f"No, {text}", f"{text}, not Oslo", f"It's {text}"):
            outcome = store.feedback.take(T, cube, said, memory_ids=[memory.id])
            json.dumps([item.action for item in outcome.actions])
    except (InvalidMemory, NotFound):
        pass
    finally:
        store.close()
