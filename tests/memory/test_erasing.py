"""What is left of what was deleted: nothing, in no row and in no file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from memory import (
    HashEmbedder,
    JobEnded,
    LocalExtractor,
    MemoryStore,
    Message,
    NotFound,
    Said,
    Subject,
    Unit,
    new_message,
)
from tests.raw import writing

T = "tenant"
DAY = 86_400.0


def say(store: MemoryStore, cube: str, *texts: str, said: Said | None = None, at: float = 1000.0) -> None:
    roles = ["user", "assistant"]
    messages = [new_message(text, roles[i % 2], at + i) for i, text in enumerate(texts)]
    store.add_messages(T, cube, messages, said or Said(session="s"))


def left(folder: Path, *words: str) -> list[str]:
    """Those of the words that any file has."""
    raw = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file()).lower()
    return [word for word in words if word.lower().encode() in raw]


def readable(store: MemoryStore, cube: str) -> list[str]:
    """Every text that a cube's lists, messages and feedback show."""
    shown = [m.text for m in store.messages(T, cube, limit=500)]
    for status in ("active", "archived", "merged", "deleted"):
        shown += [m.text for m in store.list_memories(T, cube, status=status).items]
    return shown + [f.text for f in store.feedback.all(T, cube)]


@pytest.fixture
def full(tmp_path: Path) -> tuple[MemoryStore, str]:
    """A store in which a user has said, changed, corrected and deleted things."""
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.cubes.named(T, "ann").id
    say(store, cube, "I live in Zanzibar.", "Do you know Zanzibar?", said=Said("s", "ann", "cook"))
    say(store, cube, "I live in Zanzibar, as ever.", said=Said("s", "ann", "cook"), at=1500.0)
    say(store, cube, "I moved to Quito.", said=Said("s", "ann", "cook"), at=2000.0)
    say(store, cube, "My boat is called Xylophon.", "Walruses sing.", said=Said("t", "ann", "planner"), at=3000.0)
    store.feedback.take(T, cube, "My aunt is called Brunhilde.")
    gone = store.add(T, cube, "The parrot's name is Mackerel.")
    store.delete(T, gone.id)
    store.documents.add(T, cube, "notes.txt", b"The greenhouse is full of Kohlrabi.")
    said = {"session": None, "owner": "ann", "agent": None, "tags": [], "metadata": None, "expires_at": None}
    store.jobs.put(T, "messages", {"cube": cube, "messages": [{"text": "Jabberwock"}], "said": said, "extractor": None})
    return store, cube


WORDS = ("zanzibar", "quito", "xylophon", "walruses", "brunhilde", "mackerel", "kohlrabi", "jabberwock")


def test_erasing_a_user_leaves_nothing(full: tuple[MemoryStore, str], tmp_path: Path) -> None:
    store, cube = full
    other = store.cubes.named(T, "ben").id
    say(store, other, "I keep bees.", said=Said("s", "ben"))
    store.add(T, other, "Ann hid the Krugerrand.", owner="ann")
    assert left(tmp_path, *WORDS) == list(WORDS)
    gone = store.erasing.erase(T, Subject(owner="ann"))
    assert {m.status for m in gone} >= {"active", "archived", "deleted"}
    assert readable(store, cube) == []
    assert store.documents.all(T, cube) == []
    assert len(readable(store, other)) == 2  # what somebody else said stays
    assert store.search(T, "Zanzibar Quito boat parrot", cube_ids=[cube], at=2500.0) == []
    assert [job.status for job in store.jobs.all(T)] == ["failed"]
    for memory in gone:
        for action in (store.get, store.undelete, store.history, store.sources):
            with pytest.raises(NotFound):
                action(T, memory.id)
    assert left(tmp_path, *WORDS, "krugerrand", "ann hid") == []
    store.close()
    assert left(tmp_path, *WORDS) == []


@pytest.mark.parametrize(
    ("subject", "stays", "goes"),
    [
        (Subject("ann", "cook"), ("xylophon", "walruses"), ("zanzibar", "quito")),
        (Subject("ann", session="t"), ("zanzibar", "quito"), ("xylophon", "walruses")),
        (Subject(agent="planner"), ("zanzibar", "quito"), ("xylophon", "walruses")),
        (Subject("ben"), ("zanzibar", "xylophon"), ()),
        (Subject("ann", "planner", "s"), ("zanzibar", "xylophon"), ()),
    ],
)
def test_erasing_of_one_agent_or_run_takes_that_only(
    full: tuple[MemoryStore, str], tmp_path: Path, subject: Subject, stays: Sequence[str], goes: Sequence[str]
) -> None:
    store, cube = full
    store.erasing.erase(T, subject)
    assert left(tmp_path, *goes) == []
    shown = " ".join(readable(store, cube)).lower()
    assert [word for word in stays if word not in shown] == []
    assert "brunhilde" in shown
    assert store.search(T, "What is the boat called?", cube_ids=[cube]) != [] or "xylophon" in goes


def test_what_followed_has_nothing_of_what_was_erased(tmp_path: Path) -> None:
    """A vector and a context have something of what was said before."""
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.cubes.named(T, "ann").id
    say(store, cube, "The gong is from Ulaanbaatar.", said=Said("s", "ann", "cook"))
    say(store, cube, "The door is green.", said=Said("s", "ann", "planner"), at=2000.0)
    before = store.index.cube(cube).vectors_of([2])[2].copy()
    store.erasing.erase(T, Subject("ann", "cook"))
    assert store.search(T, "Ulaanbaatar", cube_ids=[cube], top_k=1, hops=0) == []
    assert not (store.index.cube(cube).vectors_of([2])[2] == before).all()
    assert left(tmp_path, "ulaanbaatar") == []


@pytest.mark.parametrize("restarted", [False, True])
def test_nothing_is_left_when_the_time_to_undelete_is_over(
    full: tuple[MemoryStore, str], tmp_path: Path, restarted: bool
) -> None:
    """Deleted one by one: also what they had replaced, and messages that made no memory."""
    store, cube = full
    for job in store.jobs.all(T):
        store.jobs.cancel(T, job.id)
    for memory in store.list_memories(T, cube, limit=100).items:
        store.delete(T, memory.id)
    store.erasing.purge()
    assert readable(store, cube) != []  # there is still time
    if restarted:
        store.close()
        store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    store.erasing.purge(time.time() + 26 * 3600)
    assert readable(store, cube) == []
    assert left(tmp_path, *WORDS, "notes.txt") == []


def test_a_message_that_another_memory_is_from_loses_only_what_is_deleted(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    say(store, cube, "I live in Vladivostok. I work as a carpenter.", "Noted down, all of it.")
    (home,) = (m for m in store.list_memories(T, cube).items if "Vladivostok" in m.text)
    store.delete(T, home.id)
    assert "Vladivostok" in store.messages(T, cube)[0].text
    store.erasing.purge(time.time() + 26 * 3600)
    assert [m.text for m in store.messages(T, cube)] == ["I work as a carpenter.", "Noted down, all of it."]
    assert left(tmp_path, "vladivostok") == []
    (work,) = (m for m in store.list_memories(T, cube).items if "carpenter" in m.text)
    assert [m.text for m in store.sources(T, work.id)] == ["I work as a carpenter."]


def test_more_than_a_round_of_deleted_memories_goes_at_once(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(16))
    cube = store.default_cube(T).id
    memories = store.add_many(T, cube, [f"walnut number {i}" for i in range(2500)])
    with writing(store) as db:
        db.execute("UPDATE memories SET status_before = status, status = 'deleted', deleted_at = 1.0")
    assert store.erasing.forget_late() == {T}
    assert store.erasing.forget_late() == set()
    assert left(tmp_path, "walnut") == []
    with pytest.raises(NotFound):
        store.undelete(T, memories[0].id)


# -- what happens at the same time -----------------------------------------------------------------------------


class _Waiting:
    """Reads messages, and waits before it says what is in them."""

    name = "waiting"

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = [meanwhile]
        self.before: list[list[str]] = []

    def extract(self, messages: Sequence[Message], before: Sequence[Message] = ()) -> list[Unit]:
        self.before.append([message.text for message in before])
        if self._meanwhile:
            thread = threading.Thread(target=self._meanwhile.pop())
            thread.start()
            thread.join()
        return LocalExtractor().extract(messages, before)


def test_what_is_added_while_deleting_has_nothing_of_what_was_before(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.cubes.named(T, "ann").id
    say(store, cube, "The gong is from Ulaanbaatar.", said=Said("s", "ann"))
    extractor = _Waiting(lambda: store.erasing.erase(T, Subject("ann")))
    store.add_messages(T, cube, [new_message("The door is green.")], Said("s", "ann"), extractor=extractor)
    assert extractor.before == [["The gong is from Ulaanbaatar."], []]
    assert [m.text for m in store.messages(T, cube)] == ["The door is green."]
    assert [m.text for m in store.list_memories(T, cube).items] == ["User: The door is green."]
    assert left(tmp_path, "ulaanbaatar") == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_job_that_is_being_done_while_deleting_comes_to_nothing(tmp_path: Path, whole: bool) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.cubes.named(T, "ann").id
    said = {"session": "s", "owner": "ann", "agent": None, "metadata": {"app_id": "shop"}}
    payload = {"cube": cube, "messages": ["The gong is from Ulaanbaatar."], "said": said}
    ids = [store.jobs.put(T, "messages", {**payload, "said": {**said, "session": s}}).id for s in ("s", "s", "t")]
    job = store.jobs.take()
    assert job is not None
    assert job.id == ids[0]

    def delete() -> None:
        if whole:
            store.cubes.delete(T, cube)
        else:
            store.erasing.erase(T, Subject("ann", session="s", app="shop"))

    def add() -> None:
        store.add_messages(
            T,
            cube,
            [new_message("The gong is from Ulaanbaatar.")],
            Said("s", "ann"),
            extractor=_Waiting(delete),
            finish=lambda db, placed: store.jobs.finishing(job.id)(db, len(placed)),
        )

    with pytest.raises(NotFound if whole else JobEnded):
        add()
    assert [store.jobs.get(T, id).status for id in ids] == ["failed", "failed", "failed" if whole else "waiting"]
    assert store.list_memories(T).items == []
    assert left(tmp_path, "ulaanbaatar") == ([] if whole else ["ulaanbaatar"])  # the other run's job has it


def test_many_adds_and_deletes_at_once(tmp_path: Path) -> None:
    """Whatever the order: what was there before a delete began is gone after it, the rest is whole."""
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(16))
    cube = store.cubes.named(T, "ann").id
    failures: list[Exception] = []

    def work(worker: int) -> None:
        try:
            for i in range(8):
                if worker == 0:
                    store.erasing.erase(T, Subject("ann"))
                else:
                    said = Said(f"s{worker % 2}", "ann")
                    store.add_messages(T, cube, [new_message(f"Worker {worker} has painted door {i}.")], said)
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for memory in store.list_memories(T, cube, limit=100).items:
        (message,) = store.sources(T, memory.id)
        assert message.text in memory.text
        assert memory.id in {hit.memory.id for hit in store.search(T, memory.text, cube_ids=[cube], top_k=20)}
    store.erasing.erase(T, Subject("ann"))
    assert readable(store, cube) == []
    assert left(tmp_path, "painted") == []
    store.check()


# -- expiry ----------------------------------------------------------------------------------------------------


def test_what_has_expired_is_archived_from_that_second_on(store: MemoryStore, cube: str) -> None:
    expired = store.add(T, cube, "The wifi word is marmot.", expires_at=time.time() - 1)
    later = store.add(T, cube, "The wifi word was heron.", expires_at=time.time() + DAY)
    for _ in range(2):  # before a round of chores, and after
        assert store.get(T, expired.id).status == "archived"
        assert [m.id for m in store.list_memories(T, cube).items] == [later.id]
        assert [m.id for m in store.list_memories(T, cube, status="archived").items] == [expired.id]
        assert store.list_memories(T, cube, filter={"status": "archived"}).items == []
        assert store.count(T) == 1
        assert store.active_labels() == store.labels_of(T) == {later.label}
        assert [hit.memory.id for hit in store.search(T, "wifi marmot", cube_ids=[cube])] == [later.id]
        assert expired.id not in store.around(T, cube, "wifi marmot", [expired.id]).labels
        store.erasing.purge()


def test_the_same_said_again_after_it_expired_is_new(store: MemoryStore, cube: str) -> None:
    old = store.add(T, cube, "I live in Oslo.", expires_at=time.time() - 1)
    again = store.add_noted(T, cube, "I live in Oslo.")
    assert (again.action, again.memory.id != old.id) == ("added", True)
    assert [m.id for m in store.list_memories(T, cube).items] == [again.memory.id]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_search_for_the_time_before_finds_what_held_then(tmp_path: Path, restarted: bool) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    now = time.time()
    held = store.add(T, cube, "The guest wifi word is marmot.", expires_at=now - 5, metadata={"n": 1})
    store.add(T, cube, "The guest room is upstairs.")
    archived = store.add(T, cube, "The guest wifi word is badger.", expires_at=now + DAY)
    store.update(T, archived.id, status="archived")
    store.erasing.purge()
    if restarted:
        store.close()
        store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())

    def found(at: float | None, **more: object) -> list[str]:
        return [hit.memory.id for hit in store.search(T, "guest wifi word", cube_ids=[cube], at=at, **more)]  # type: ignore[arg-type]

    assert found(now - 10)[0] == held.id
    assert found(now - 10, filter={"metadata.n": 1}) == [held.id]
    assert archived.id not in found(now - 10)
    assert held.id not in found(now - 2)
    assert held.id not in found(None)
    store.delete(T, held.id)
    assert held.id not in found(now - 10)
    store.erasing.purge(now + 2 * DAY)
    assert left(tmp_path, "marmot") == []


def test_a_clause_is_taken_out_of_its_message_with_its_memory(store: MemoryStore, cube: str) -> None:
    """Half a sentence that was remembered by itself goes by itself."""
    for text, gone, left in (
        ("I live in Oslo and I work at Equinor.", "I live in Oslo", "I work at Equinor."),
        ("My desk is 4471; my locker is 12.", "My desk is 4471", "my locker is 12."),
    ):
        store.add_messages(T, cube, [new_message(text)])
        (memory,) = [m for m in store.list_memories(T, cube).items if m.said == gone]
        store.delete(T, memory.id)
        store.erasing.purge(time.time() + 1e6)
        assert store.messages(T, cube)[-1].text == left
