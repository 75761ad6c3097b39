"""What every storage backend does with cubes, memories, messages, documents and feedback."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import Conflict, Forbidden, InvalidMemory, NotFound
from memory.search.filters import parse_filter
from memory.storage.base import Storage, Transaction
from memory.storage.conditions import EVERYTHING
from memory.storage.records import Listing, Text
from memory.types import (
    KINDS,
    Change,
    Cube,
    Document,
    FeedbackAction,
    FeedbackOutcome,
    Grant,
    Memory,
    Message,
    Subject,
)
from tests.memory.storage.conftest import Open
from tests.memory.storage.making import T, a_cube, a_memory, a_message, kept, new_id, said
from tests.memory.test_filters import FILTERS, KEYS, SCALARS, lets_through

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
TIME = st.floats(-1e9, 1e10)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXT, lambda x: st.lists(x, max_size=3))


# -- transactions ----------------------------------------------------------------------------------------------


def test_a_transaction_is_kept_whole_or_not_at_all(storage: Storage) -> None:
    cube = a_cube(storage)
    memory = a_memory(cube)

    def fails() -> None:
        with storage.write() as tx:
            tx.memories.insert(memory)
            assert tx.memories.find(T, memory.id).memory == memory
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    with storage.read() as tx, pytest.raises(NotFound):
        tx.memories.find(T, memory.id)


def test_what_was_kept_is_there_when_the_store_is_opened_again(backend: Open, tmp_path: Path) -> None:
    storage = backend(tmp_path)
    cube = a_cube(storage)
    memory = a_memory(cube)
    with storage.write() as tx:
        number = tx.memories.insert(memory)
    storage.close()
    storage = backend(tmp_path)
    with storage.read() as tx:
        assert tx.memories.find(T, memory.id).number == number
    storage.check()
    storage.close()


def test_whoever_reads_or_writes_is_alone(storage: Storage) -> None:
    cube = a_cube(storage)
    entered = threading.Event()

    def other() -> None:
        with storage.write() as tx:
            tx.cubes.set_fidelity(cube, "fast")
            entered.set()

    with storage.read() as tx:
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.1)
        with storage.write() as writable:
            writable.cubes.set_fidelity(cube, "high")
        assert tx.cubes.find(T, cube).fidelity == "high"
    thread.join(10)
    with storage.read() as tx:
        assert tx.cubes.find(T, cube).fidelity == "fast"


@pytest.mark.parametrize("value", ["\ud800", 1 << 70])
def test_what_cannot_be_stored_is_refused(storage: Storage, value: Any) -> None:
    cube = a_cube(storage)
    with pytest.raises(InvalidMemory), storage.write() as tx:
        tx.memories.insert(a_memory(cube, author=value))


# -- cubes -----------------------------------------------------------------------------------------------------


def test_a_cube_is_found_by_its_id_and_by_its_owner_by_name(storage: Storage) -> None:
    cube = Cube(new_id("cube"), T, "work", 5.0, "high")
    with storage.write() as tx:
        tx.cubes.insert(cube)
        assert tx.cubes.find(T, cube.id) == tx.cubes.find(T, " work ") == tx.cubes.named(T, "work") == cube
        assert tx.cubes.name_of(cube.id) == "work"
        assert tx.cubes.named("other", "work") is None
        assert tx.cubes.name_of("cube_x") is None
        tx.cubes.set_fidelity(cube.id, None)
        assert tx.cubes.find(T, cube.id) == replace(cube, fidelity=None, revision=2)
        for id in (cube.id, "work"):
            with pytest.raises(NotFound):
                tx.cubes.find("other", id)
    with pytest.raises(Conflict), storage.write() as tx:
        tx.cubes.insert(Cube(new_id("cube"), T, "work", 5.0))


def test_grants_to_tenants_and_groups(storage: Storage) -> None:
    cube, own = a_cube(storage), a_cube(storage, "friend")
    group = new_id("group")
    with storage.write() as tx:
        tx.cubes.set_group(group, T, "family", ["friend", "aunt", "friend"])
        tx.cubes.share(Grant(cube, group, "read"))
        found = tx.cubes.group(T, "family")
        assert found is not None
        assert (found.id, found.members) == (group, ("aunt", "friend"))
        assert tx.cubes.group(T, group) == found
        assert tx.cubes.group("friend", "family") is None
        assert [c.id for c in tx.cubes.visible("friend")] == [own, cube]
        with pytest.raises(Forbidden):
            tx.cubes.find("friend", cube, "write")
        tx.cubes.share(Grant(cube, group, "write"))
        assert tx.cubes.find("friend", cube, "write").id == cube
        assert tx.cubes.grants(cube) == [Grant(cube, group, "write")]
        tx.cubes.set_group(new_id("group"), T, "family", ["aunt"])
        with pytest.raises(NotFound):
            tx.cubes.find("friend", cube)
        assert tx.cubes.unshare(cube, group)
        assert not tx.cubes.unshare(cube, group)


def test_a_cube_goes_with_everything_in_it_and_nothing_else(storage: Storage) -> None:
    cube, other = a_cube(storage), a_cube(storage)
    memory, stays = a_memory(cube), a_memory(other)
    message, remains = a_message("said"), a_message("also said")
    with storage.write() as tx:
        kept(tx, memory, stays)
        said(tx, memory, message)
        said(tx, stays, remains)
        tx.cubes.remove(cube)
        assert tx.lists.of_cube(cube) == []
        assert tx.messages.of_cube(cube) == []
        assert tx.lists.of_cube(other) == [stays]
        assert tx.sources.of(stays.id) == [remains]
        with pytest.raises(NotFound):
            tx.cubes.find(T, cube)


# -- memories --------------------------------------------------------------------------------------------------


MEMORIES = st.builds(
    Memory,
    id=st.builds(lambda: new_id("mem")),
    cube_id=st.just(""),
    owner=st.none() | TEXT,
    kind=st.sampled_from(KINDS),
    text=TEXT,
    status=st.sampled_from(["active", "merged", "archived"]),
    pinned=st.booleans(),
    version=st.integers(1, 9),
    created_at=TIME,
    updated_at=TIME,
    event_at=st.none() | TIME,
    metadata=st.dictionaries(TEXT, JSON, max_size=3),
    event_until=st.none() | TIME,
    author=st.none() | TEXT,
    agent=st.none() | TEXT,
    session=st.none() | TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    importance=st.floats(0, 1),
    slot=st.none() | TEXT,
    value=st.none() | TEXT,
    valid_until=st.none() | TIME,
    replaced_by=st.none() | TEXT,
    uses=st.integers(1, 1000),
    follows=st.none() | TEXT,
)


@settings(max_examples=60, deadline=None)
@given(MEMORIES, MEMORIES)
def test_a_memory_comes_back_as_it_was(shared: Storage, first: Memory, second: Memory) -> None:
    cube = a_cube(shared)
    first = replace(first, cube_id=cube)
    with shared.write() as tx:
        number = tx.memories.insert(first)
        found = tx.memories.find(T, first.id)
        assert (found.number, found.memory, found.deleted_at) == (number, first, None)
        changed = replace(second, id=first.id, cube_id=cube, revision=first.revision)
        assert tx.memories.update(changed) == replace(changed, revision=first.revision + 1)
        assert tx.memories.find(T, first.id).memory == replace(changed, revision=first.revision + 1)
        (stored,) = tx.memories.stored([number, number + 1])
        assert stored.memory.id == first.id


def test_numbers_grow(storage: Storage) -> None:
    cube = a_cube(storage)
    with storage.write() as tx:
        numbers = kept(tx, *(a_memory(cube) for _ in range(5)))
    assert numbers == sorted(set(numbers))


def test_others_memories_are_unknown_or_read_only(storage: Storage) -> None:
    cube = a_cube(storage)
    memory = a_memory(cube)
    with storage.write() as tx:
        kept(tx, memory)
        with pytest.raises(NotFound):
            tx.memories.find("other", memory.id)
        tx.cubes.share(Grant(cube, "other", "read"))
        assert tx.memories.find("other", memory.id).memory == memory
        with pytest.raises(Forbidden):
            tx.memories.find("other", memory.id, need="write")


def test_a_deleted_memory_is_kept_to_be_brought_back(storage: Storage) -> None:
    cube = a_cube(storage)
    memory = a_memory(cube, status="archived")
    with storage.write() as tx:
        (number,) = kept(tx, memory)
        tx.memories.mark_deleted(number)
        with pytest.raises(NotFound):
            tx.memories.find(T, memory.id)
        found = tx.memories.find(T, memory.id, with_deleted=True)
        assert found.deleted_at is not None
        assert (found.memory.status, found.status_before, found.memory.revision) == ("deleted", "archived", 2)
        assert tx.lists.late(found.deleted_at + 1, 9) == [(number, T)]
        assert tx.lists.late(found.deleted_at, 9) == []
        tx.memories.update(replace(found.memory, status="archived"))
        tx.memories.unmark_deleted(number)
        assert tx.memories.find(T, memory.id).deleted_at is None
        assert tx.lists.late(time.time() + 9, 9) == []


def test_what_has_expired_is_archived_at_once(storage: Storage) -> None:
    cube = a_cube(storage)
    over, lasting = a_memory(cube, expires_at=10.0), a_memory(cube, expires_at=time.time() + 900)
    with storage.write() as tx:
        numbers = kept(tx, over, lasting)
        assert tx.memories.find(T, over.id).memory.status == "archived"
        assert tx.lists.count(T) == 1
        assert tx.lists.labels_of(T) == {lasting.label}
        assert lasting.label in tx.lists.all_labels()
        assert over.label not in tx.lists.all_labels()
        assert [item.number for item in tx.lists.expired(20.0, 9)] == numbers[:1]
        assert tx.lists.expired(9.0, 9) == []
        pages = {
            status: [m.id for m in tx.lists.page(Listing(T, cube, status), EVERYTHING, 9)]
            for status in ("active", "archived")
        }
    assert pages == {"active": [lasting.id], "archived": [over.id]}


def test_slots_belong_to_an_owner(storage: Storage) -> None:
    cube = a_cube(storage)
    oslo, lima, theirs = (a_memory(cube, slot="user|home", owner=owner) for owner in (None, None, "ann"))
    gone = a_memory(cube, slot="user|home", status="archived")
    with storage.write() as tx:
        kept(tx, oslo, lima, theirs, gone)
        assert [item.memory for item in tx.memories.by_slot(cube, "user|home", None)] == [oslo, lima]
        assert [item.memory for item in tx.memories.by_slot(cube, "user|home", "ann")] == [theirs]
        assert tx.memories.by_slot_of_anyone(cube, "user|home") == [theirs, lima, oslo]
        assert tx.memories.by_slot(cube, "user|job", None) == []


def test_the_same_words_by_the_same_author(storage: Storage) -> None:
    cube = a_cube(storage)
    memory = a_memory(cube, "I like tea!", author="Ann")
    with storage.write() as tx:
        (number,) = kept(tx, memory)
        again = replace(memory, text="i like  tea")
        found = tx.memories.same_words(again)
        assert found is not None
        assert found.memory == memory
        for other in (replace(again, author="Ben"), replace(again, owner="x"), replace(again, text="I like")):
            assert tx.memories.same_words(other) is None
        assert tx.memories.same_kind(number, replace(memory, text="else")) == found
        for other in (replace(memory, kind="event"), replace(memory, author=None), replace(memory, owner="x")):
            assert tx.memories.same_kind(number, other) is None


def test_memories_follow_each_other(storage: Storage) -> None:
    cube = a_cube(storage)
    first = a_memory(cube, "one", session="s")
    second = a_memory(cube, "two", session="s", follows=first.id)
    third = a_memory(cube, "three", session="s", follows=second.id)
    fourth = a_memory(cube, "four", session="s", follows=third.id)
    with storage.write() as tx:
        kept(tx, first, second, third, fourth)
        assert tx.memories.texts_before(fourth) == ["three", "two"]
        assert tx.memories.texts_before(second) == ["one"]
        assert tx.memories.last_of(cube, "s") == [(fourth.id, "four"), (third.id, "three")]
        assert tx.memories.last_of(cube, "t") == []
        behind = tx.memories.behind([cube], [first.id, third.id])
        assert {item.memory.id for item in behind} == {second.id, fourth.id}


def test_what_a_memory_has_taken_the_place_of(storage: Storage) -> None:
    cube = a_cube(storage)
    last = a_memory(cube)
    middle = a_memory(cube, status="merged", replaced_by=last.id)
    first = a_memory(cube, status="merged", replaced_by=middle.id)
    former = a_memory(cube, status="archived", replaced_by=last.id)
    with storage.write() as tx:
        numbers = kept(tx, last, middle, first, former)
        assert set(tx.memories.with_former(numbers[:1], ["merged"])) == set(numbers[:3])
        assert set(tx.memories.with_former(numbers[:1], ["merged", "archived"])) == set(numbers)
        assert tx.memories.with_former([], ["merged"]) == []


def test_lists_are_in_order_and_go_on_where_they_ended(storage: Storage) -> None:
    cube, other = a_cube(storage), a_cube(storage)
    memories = [a_memory(other if i == 3 else cube, kind=["fact", "event"][i % 2]) for i in range(7)]
    with storage.write() as tx:
        numbers = kept(tx, *memories)
        everything = Listing(T, None, "active")
        assert tx.lists.page(everything, EVERYTHING, 99) == memories
        assert tx.lists.page(everything, EVERYTHING, 2) == memories[:2]
        assert tx.lists.page(replace(everything, after=numbers[1]), EVERYTHING, 2) == memories[2:4]
        assert tx.lists.page(Listing(T, cube, "active", kind="event"), EVERYTHING, 99) == [memories[1], memories[5]]
        assert tx.lists.page(Listing("other", None, "active"), EVERYTHING, 99) == []
        assert tx.lists.of_cube(other) == [memories[3]]
        assert [item.memory for item in tx.lists.active(other)] == [memories[3]]


def test_the_newest_texts_of_one_cube_or_of_all(storage: Storage) -> None:
    one, other = a_cube(storage), a_cube(storage)
    with storage.write() as tx:
        rows = [(one, "first", 1.0), (other, "second", 2.0), (one, "third", 3.0), (one, "gone", 4.0)]
        memories = [a_memory(cube, text, created_at=at) for cube, text, at in rows]
        numbers = [tx.memories.insert(memory) for memory in memories[:3]]
        tx.memories.insert(replace(memories[3], status="archived"))
        tx.vectors.put(numbers[2], "an embedder", np.ones(2, np.float32))
    with storage.read() as tx:
        third, first = Text(one, "third", "an embedder"), Text(one, "first", None)
        assert tx.lists.newest(9, one) == [third, first]
        assert tx.lists.newest(1, one) == [third]
        assert [found for found in tx.lists.newest(3) if found.cube_id in (one, other)][:2] == [
            third,
            Text(other, "second", None),
        ]


def test_what_is_part_of_every_prompt(storage: Storage) -> None:
    cube = a_cube(storage)
    pinned, profile = a_memory(cube, pinned=True), a_memory(cube, kind="profile")
    instruction = a_memory(cube, kind="instruction")
    with storage.write() as tx:
        gone = a_memory(cube, kind="instruction", status="archived")
        kept(tx, pinned, a_memory(cube), profile, instruction, gone, a_memory(cube, pinned=True, status="archived"))
        assert tx.lists.standing(cube) == [pinned, profile, instruction]


@pytest.fixture(scope="module")
def filtered(shared: Storage) -> tuple[Storage, list[Memory]]:
    cube = a_cube(shared, "filtering")
    memories = []
    for i, value in enumerate([*SCALARS, None, [], SCALARS[:3], [None, SCALARS[0]], {"n": 1}]):
        metadata = {key: value for j, key in enumerate(KEYS) if (i + j) % 3}
        memories.append(a_memory(cube, owner=[None, "done", "x"][i % 3], event_at=float(i), metadata=metadata))
    with shared.write() as tx:
        kept(tx, *memories)
    return shared, memories


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(FILTERS)
def test_a_condition_holds_where_the_rule_says(filtered: tuple[Storage, list[Memory]], wanted: dict[str, Any]) -> None:
    storage, memories = filtered
    condition = parse_filter(wanted)
    with storage.read() as tx:
        cube = tx.cubes.visible("filtering")[0].id
        found = tx.lists.page(Listing("filtering", None, "active"), condition, 999)
        matching = tx.candidates.matching([cube], condition, 999, past=False)
        assert {item.memory.id for item in tx.memories.stored(matching)} == {m.id for m in found}
    assert [m.id for m in found] == [m.id for m in memories if lets_through(wanted, m)]


# -- history ---------------------------------------------------------------------------------------------------


def test_history(storage: Storage) -> None:
    cube = a_cube(storage)
    memory = a_memory(cube)
    old = Change(5.0, "added", 1, None, {"a": [1, None]})
    with storage.write() as tx:
        (number,) = kept(tx, memory)
        tx.history.add_all([(memory.id, old)])
        tx.history.add(memory, "updated", "before", {"b": 2})
        tx.history.note_feedback(memory.id, "fb_1")
        steps = tx.history.of(memory.id)
        assert tx.history.texts_of([number]) == ["before"]
    assert steps[0] == old
    assert (steps[1].action, steps[1].version, steps[1].text) == ("updated", 1, "before")
    assert steps[1].detail == {"b": 2, "feedback": "fb_1"}
    assert time.time() - 60 < steps[1].at <= time.time()


# -- messages --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        Message,
        id=st.builds(lambda: new_id("msg")),
        role=st.sampled_from(["user", "assistant", "tool", "system"]),
        text=TEXT.filter(bool),
        sent_at=TIME,
        author=st.none() | TEXT,
        utc_offset=st.integers(-43200, 43200),
        metadata=st.dictionaries(TEXT.filter(lambda key: key != "utc_offset"), JSON, max_size=3),
    )
)
def test_a_message_comes_back_as_it_was_and_is_kept_once(shared: Storage, message: Message) -> None:
    cube = a_cube(shared)
    with shared.write() as tx:
        assert not tx.messages.has(message.id)
        assert tx.messages.insert(cube, "c", message)
        assert not tx.messages.insert(cube, "d", replace(message, text="otherwise"))
        assert tx.messages.has(message.id)
        assert tx.messages.last(cube, None, 9) == [message]
        assert tx.messages.of_cube(cube) == [("c", message)]


def test_the_last_messages_of_a_conversation(storage: Storage) -> None:
    cube = a_cube(storage)
    messages = [a_message(f"message {i}") for i in range(6)]
    with storage.write() as tx:
        for i, message in enumerate(messages):
            tx.messages.insert(cube, "even" if i % 2 == 0 else None, message)
        assert tx.messages.last(cube, None, 3) == messages[3:]
        assert tx.messages.last(cube, "even", 2) == [messages[2], messages[4]]
        assert tx.messages.before(cube, "even") == [messages[2], messages[4]]
        assert tx.messages.before(cube, None) == [messages[3], messages[5]]
        assert tx.messages.before(cube, "none") == []


def test_sources_and_what_was_said_before(storage: Storage) -> None:
    cube = a_cube(storage)
    messages = [a_message(f"message {i}", author="Ann") for i in range(4)]
    memory, gone = a_memory(cube), a_memory(cube, status="deleted")
    with storage.write() as tx:
        numbers = kept(tx, memory, gone)
        said(tx, gone, messages[0])
        tx.messages.insert(cube, "c", messages[1])
        said(tx, memory, messages[2], messages[3])
        tx.sources.link([(memory.id, messages[3].id)])  # known
        assert tx.sources.of(memory.id) == messages[2:]
        assert tx.sources.of_cube(cube) == {memory.id: [messages[2].id, messages[3].id]}
        assert tx.sources.context(memory.id) == "Ann: message 0 Ann: message 1"
        assert tx.sources.context(gone.id) == tx.sources.context("mem_x") == ""
        assert [message for _, message in tx.messages.of_cube(cube)] == messages[1:]
        from_memory = tx.sources.messages_of(numbers[:1])
        assert tx.messages.texts(from_memory) == dict(zip(from_memory, ["message 2", "message 3"], strict=True))
        assert tx.sources.memories_of(from_memory[0]) == [(numbers[0], memory.text)]
        tx.messages.set_text(from_memory[0], "changed")
        assert tx.messages.texts(from_memory[:1]) == {from_memory[0]: "changed"}


def test_conversations_that_no_memory_is_left_of(storage: Storage) -> None:
    cube = a_cube(storage)
    memory, other = a_memory(cube), a_memory(cube)
    with storage.write() as tx:
        numbers = kept(tx, memory, other)
        said(tx, memory, a_message("one"), a_message("two"), conversation="alone")
        said(tx, other, a_message("three"), conversation="shared")
        said(tx, memory, a_message("four"), conversation="shared")
        messages = tx.sources.messages_of(numbers[:1])
        emptied = tx.messages.texts(tx.sources.emptied(messages, numbers[:1]))
        both = tx.messages.texts(tx.sources.emptied(messages, numbers))
    assert set(emptied.values()) == {"one", "two"}
    assert set(both.values()) == {"one", "two", "three", "four"}


def test_ids_of_messages_are_inferred_from_their_memories_and_conversation(storage: Storage) -> None:
    cube = a_cube(storage)
    memory = a_memory(cube, owner="ann", agent="cook", metadata={"app_id": "shop"})
    with storage.write() as tx:
        kept(tx, memory)
        said(tx, memory, a_message("one"))
        tx.messages.insert(cube, "c", a_message("two"))
        tx.messages.insert(cube, "d", a_message("three"))
        tx.messages.infer_ids(cube)
        theirs = tx.messages.of_subject(T, Subject("ann", "cook", app="shop"), None)
        assert set(tx.messages.texts([message.number for message in theirs]).values()) == {"one", "two"}


# -- the end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "cubes", "expected"),
    [
        (Subject("ann"), None, "bcd"),
        (Subject(agent="cook"), None, "ad"),
        (Subject("ann", "cook"), None, "d"),
        (Subject(session="s"), None, "a"),
        (Subject(app="shop"), None, "b"),
        (Subject("ann"), ["ann"], "cd"),
        (Subject("nobody"), None, ""),
    ],
)
def test_memories_of_a_subject(storage: Storage, subject: Subject, cubes: list[str] | None, expected: str) -> None:
    """What is in a cube that is named for an id has that id."""
    plain, named, others = a_cube(storage, name="plain"), a_cube(storage, name="ann"), a_cube(storage, "other")
    memories = [
        a_memory(plain, "a", agent="cook", session="s"),
        a_memory(plain, "b", owner="ann", metadata={"app_id": "shop"}),
        a_memory(named, "c"),
        a_memory(named, "d", agent="cook"),
        a_memory(others, "e", owner="ann", agent="cook", session="s"),
    ]
    with storage.write() as tx:
        kept(tx, *memories)
        found = tx.lists.of_subject(T, subject, cubes)
    assert "".join(sorted(item.memory.text for item in found)) == expected


def _removed(tx: Transaction, memory: Memory) -> None:
    (stored,) = [tx.memories.find(T, memory.id)]
    messages = tx.sources.messages_of([stored.number])
    tx.removal.wipe_memories([stored.number])
    tx.removal.wipe_messages(messages)


def test_nothing_is_left_of_what_was_wiped(storage: Storage, tmp_path: Path) -> None:
    cube = a_cube(storage)
    memory, other = a_memory(cube, "the walnut password"), a_memory(cube, "something else")
    message = a_message("my walnut password")
    with storage.write() as tx:
        for kept_memory in (memory, other):
            (number,) = kept(tx, kept_memory)
            tx.history.add(kept_memory, "updated", "the old walnut password")
            tx.texts.add(number, kept_memory, "before")
            tx.names.link(cube, number, ["Walnut"])
        said(tx, memory, message)
        assert tx.removal.scan(memory, [message.text]).total > 0
        _removed(tx, memory)
        assert tx.removal.scan(memory, [message.text]).total == 0
        with pytest.raises(NotFound):
            tx.memories.find(T, memory.id)
        found = tx.memories.find(T, memory.id, with_deleted=True)
        assert (found.memory.text, found.deleted_at) == ("", None)
        assert tx.sources.of(memory.id) == []
        assert len(tx.history.of(other.id)) == 1
        assert tx.names.mentions(tx.names.known([cube], ["Walnut"]), 9) == [[number]]
        tx.removal.remove_memories([found.number])
        with pytest.raises(NotFound):
            tx.memories.find(T, memory.id, with_deleted=True)
        _removed(tx, other)
    storage.overwrite_deleted()
    storage.check()
    assert [file for file in tmp_path.rglob("*") if file.is_file() and b"walnut" in file.read_bytes()] == []


def test_messages_go_with_feedback_whose_words_they_were(storage: Storage) -> None:
    cube = a_cube(storage)
    memory = a_memory(cube)
    message = replace(a_message("that's wrong"), id="msg_1")
    outcome = FeedbackOutcome("fb_1", cube, "that's wrong", 5.0, (FeedbackAction("archived", memory.id),))
    with storage.write() as tx:
        kept(tx, memory)
        said(tx, memory, message)
        tx.feedback.insert(outcome)
        tx.feedback.insert(replace(outcome, id="fb_2", at=6.0, actions=(FeedbackAction("nothing"),)))
        assert tx.feedback.of_cube(cube, 9)[1] == outcome
        assert [item.id for item in tx.feedback.of_cube(cube, 1)] == ["fb_2"]
        tx.removal.remove_messages(tx.messages.of_subject(T, Subject(), None))
        assert [item.id for item in tx.feedback.of_cube(cube, 9)] == ["fb_2"]
        assert tx.messages.of_cube(cube) == []
        assert tx.sources.of(memory.id) == []


def test_documents_and_their_chunks(storage: Storage) -> None:
    cube = a_cube(storage)
    two, one = (Document(new_id("doc"), cube, name, "00", 1, 5.0) for name in ("two", "one"))
    chunk = a_memory(cube, kind="document", metadata={"document": one.id})
    with storage.write() as tx:
        tx.documents.insert(two)
        tx.documents.insert(one)
        (number,) = kept(tx, chunk)
        assert tx.documents.of_cube(cube) == [one, two]
        assert tx.documents.find(cube, id=two.id) == tx.documents.find(cube, name="two") == two
        assert tx.documents.find(cube, name="three") is None
        assert [item.memory for item in tx.memories.of_document(cube, one.id)] == [chunk]
        tx.documents.remove_empty([cube])
        assert tx.documents.of_cube(cube) == [one]
        tx.memories.mark_deleted(number)
        assert tx.memories.of_document(cube, one.id) == []
        tx.documents.remove(one.id)
        assert tx.documents.of_cube(cube) == []


def test_a_store_can_be_closed_twice(backend: Open, tmp_path: Path) -> None:
    storage = backend(tmp_path)
    storage.close()
    storage.close()
