from __future__ import annotations

import time
from pathlib import Path

import pytest

from memory import FolderEmbedder, Forbidden, HashEmbedder, InvalidMemory, MemoryStore, NotFound, Said, new_message
from memory.language.dates import parse_time
from tests.raw import writing

T = "tenant"


def say(store: MemoryStore, cube: str, text: str, at: float | None = None, **said: object) -> list[str]:
    """Add one message of the user's; what was done."""
    placed = store.add_messages(T, cube, [new_message(text, "user", at)], Said(**said))  # type: ignore[arg-type]
    return [item.action for item in placed]


def texts(store: MemoryStore, cube: str, query: str, **options: object) -> list[str]:
    return [hit.memory.text for hit in store.search(T, query, cube_ids=[cube], **options)]  # type: ignore[arg-type]


def test_a_newer_state_takes_the_place_of_the_one_before(tmp_path: Path, minilm: FolderEmbedder) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", minilm)
    cube = store.default_cube(T).id
    assert say(store, cube, "I live in Oslo.", 1000.0) == ["added"]
    assert say(store, cube, "I like brown cheese.", 1500.0) == ["added"]
    assert say(store, cube, "I moved to Lima.", 2000.0) == ["superseded"]
    assert texts(store, cube, "Where do I live now?")[0] == "User: I moved to Lima."
    assert "User: I live in Oslo." not in texts(store, cube, "Where do I live?", top_k=10)
    assert texts(store, cube, "Where did I live before?")[0] == "User: I live in Oslo."
    (old,) = store.list_memories(T, cube, status="archived").items
    (new,) = [m for m in store.list_memories(T, cube).items if m.slot == "user|home"]
    assert (old.valid_until, old.replaced_by) == (2000.0, new.id)
    assert [change.action for change in store.history(T, old.id)] == ["added", "superseded"]
    store.close()


def test_a_chain_of_states_and_one_that_is_told_late(store: MemoryStore, cube: str) -> None:
    say(store, cube, "I live in Oslo.", 1000.0)
    say(store, cube, "I live in Lima.", 3000.0)
    assert say(store, cube, "I live in Paris.", 2000.0) == ["outdated"]
    active = [m.text for m in store.list_memories(T, cube).items]
    assert active == ["User: I live in Lima."]
    assert len(store.list_memories(T, cube, status="archived").items) == 2


def test_the_same_state_in_other_words_is_merged(store: MemoryStore, cube: str) -> None:
    say(store, cube, "I live in Oslo.", 1000.0)
    assert say(store, cube, "As I said, I live in Oslo with my sister.", 2000.0) == ["merged"]
    (memory,) = store.list_memories(T, cube).items
    assert (memory.uses, memory.text) == (2, "User: As I said, I live in Oslo with my sister.")
    (merged,) = store.list_memories(T, cube, status="merged").items
    assert merged.replaced_by == memory.id


def test_states_of_others_and_other_slots_stay(store: MemoryStore, cube: str) -> None:
    for text in ("I live in Oslo.", "Anna lives in Rome.", "I work as a baker.", "I love tea.", "I love coffee."):
        assert say(store, cube, text) == ["added"]
    assert say(store, cube, "I hate coffee now.") == ["superseded"]
    assert say(store, cube, "I no longer live in Rome.") == ["added"]
    assert say(store, cube, "I quit my job.") == ["superseded"]
    active = {m.text for m in store.list_memories(T, cube).items}
    assert {"User: I live in Oslo.", "User: Anna lives in Rome.", "User: I love tea."} <= active
    assert "User: I work as a baker." not in active


def test_events_stay_apart_and_repeats_are_reinforced(store: MemoryStore, cube: str) -> None:
    may, june = parse_time("2023-05-08")[0], parse_time("2023-06-08")[0]
    assert say(store, cube, "I ran a marathon yesterday.", may) == ["added"]
    assert say(store, cube, "I ran a marathon yesterday.", june) == ["added"]
    assert say(store, cube, "I ran a marathon yesterday!", june) == ["reinforced"]
    found = store.list_memories(T, cube).items
    assert [(m.kind, m.uses) for m in found] == [("event", 1), ("event", 2)]
    assert len(store.sources(T, found[1].id)) == 2
    assert "2023-06-07" in texts(store, cube, "When did I run a marathon in June 2023?", at=june + 1e6)[0]
    assert "2023-05-07" in texts(store, cube, "When did I run a marathon last month?", at=june)[0]


def test_near_duplicates_are_merged_but_not_other_numbers(store: MemoryStore, cube: str) -> None:
    base = "The red bicycle in the shop on the corner near the old town bridge costs {} euros{}"
    assert say(store, cube, base.format(300, ".")) == ["added"]
    assert say(store, cube, "Well, " + base.format(300, "!")) == ["reinforced"]
    for other in (base.format(200, "."), base.format(300, " not."), base.format(300, " then.")):
        assert say(store, cube, other)[0] in ("added", "superseded")
    (merged,) = store.list_memories(T, cube, status="merged").items
    assert merged.text.endswith("300 euros!")


def test_an_end_user_is_not_another(store: MemoryStore, cube: str) -> None:
    say(store, cube, "I live in Oslo.", owner="ada")
    assert say(store, cube, "I live in Lima.", owner="bob") == ["added"]
    say(store, cube, "The wifi code is zebra.", owner="ada")
    assert say(store, cube, "The wifi code is zebra.", owner="bob") == ["added"]
    found = store.search(T, "wifi code", cube_ids=[cube], filter={"user_id": "ada"})
    assert [hit.memory.owner for hit in found] == ["ada"]


def test_all_of_an_addition_or_nothing(store: MemoryStore, cube: str) -> None:
    messages = [new_message("The kettle is in the attic."), new_message("The lamp is in the cellar.")]

    def fail(*_: object) -> None:
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        store.add_messages(T, cube, messages, finish=fail)
    assert store.count(T) == 0
    assert store.messages(T, cube) == []
    assert texts(store, cube, "kettle") == []
    assert len(store.add_messages(T, cube, messages)) == 2
    assert store.add_messages(T, cube, messages) == []  # the same messages again
    assert store.count(T) == 2
    assert [m.text for m in store.messages(T, cube)] == [m.text for m in messages]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("x" * 100_001, {}),
        ("\ud800", {}),
        ("a\x00", {}),
        ("yesterday", {"sent_at": 1e12}),
        ("yesterday", {"sent_at": -9e10}),
        ("fine", {"role": "boss"}),
    ],
)
def test_bad_messages_are_refused(store: MemoryStore, cube: str, text: str, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidMemory):
        store.add_messages(T, cube, [new_message("good"), new_message(text, **fields)])  # type: ignore[arg-type]
    assert store.messages(T, cube) == []


def test_what_was_said_before_helps_to_find(store: MemoryStore, cube: str) -> None:
    conversation = [
        new_message("What is your favourite book, Ana?", "user", 1.0, "Sam"),
        new_message("It must be the one with the spider and the pig.", "user", 2.0, "Ana"),
        new_message("The weather is nice.", "user", 3.0, "Sam"),
    ]
    store.add_messages(T, cube, conversation, Said(session="s"))
    best = store.search(T, "Which favourite book does Ana have?", cube_ids=[cube])[0]
    assert best.memory.author == "Ana"
    assert best.parts["author"] > 0


# -- deleting, forgetting, expiring ----------------------------------------------------------------------------


def test_undelete_brings_back_what_was_deleted(store: MemoryStore, cube: str) -> None:
    say(store, cube, "The safe opens with a walnut.")
    (memory,) = store.list_memories(T, cube).items
    store.delete(T, memory.id)
    assert texts(store, cube, "safe walnut") == []
    with pytest.raises(NotFound):
        store.get(T, memory.id)
    assert store.active_labels() == set()
    back = store.undelete(T, memory.id)
    assert store.get(T, memory.id) == back
    assert (back.text, back.status, back.version) == (memory.text, "active", 2)
    assert back.label != memory.label  # segments of the old one stay refused
    assert texts(store, cube, "safe walnut") == [memory.text]
    assert store.undelete(T, memory.id) == back
    assert [change.action for change in store.history(T, memory.id)] == ["added", "deleted", "undeleted"]


def test_too_late_to_undelete(store: MemoryStore, cube: str) -> None:
    store.erasing.undelete_s = 0.05
    memory = store.add(T, cube, "short lived")
    store.delete(T, memory.id)
    time.sleep(0.1)
    with pytest.raises(NotFound):
        store.undelete(T, memory.id)
    store.erasing.purge()
    assert store.list_memories(T, cube, status="deleted").items == []
    with pytest.raises(NotFound):
        store.forget(T, memory.id)


def test_forgetting_leaves_nothing_and_proves_it(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    said = [
        new_message("The vault code is xylophone-quagga.", "user", 1.0, "Ana"),
        new_message("I will write that down.", "user", 2.0, "Sam"),
        new_message("The roof is blue.", "user", 3.0, "Sam"),
        new_message("The door is green.", "user", 4.0, "Sam"),
    ]
    store.add_messages(T, cube, said, Said(session="s"))
    (secret,) = [m for m in store.list_memories(T, cube).items if "vault" in m.text]
    store.update(T, secret.id, text="Ana: The vault code was xylophone-quagga, then Zanzibarium.")
    assert "quagga" in str(store.search(T, "quagga", cube_ids=[cube]))
    vectors = {row: store.index.cube(cube).vectors_of([row])[row].copy() for row in (2, 3, 4)}
    proof = store.forget(T, secret.id)
    assert proof.scan.total == 0, proof.scan
    assert proof.as_json()["clean"]
    assert "vault" not in str(proof.as_json())
    assert store.search(T, "xylophone quagga Zanzibarium", cube_ids=[cube]) == []
    assert [m.text for m in store.messages(T, cube)] == [m.text for m in said[1:]]
    changed = {row: not (store.index.cube(cube).vectors_of([row])[row] == old).all() for row, old in vectors.items()}
    assert changed == {2: True, 3: True, 4: False}  # what was mixed into those that followed is gone too
    for action in (store.get, store.undelete, store.forget, store.delete):
        with pytest.raises(NotFound):
            action(T, secret.id)
    assert store.count(T) == 3
    store.close()
    raw = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for word in (b"quagga", b"ylophone", b"anzibari", b"vault"):
        assert word not in raw


def test_forgetting_what_was_deleted(store: MemoryStore, cube: str) -> None:
    memory = store.add(T, cube, "a thing to forget")
    store.delete(T, memory.id)
    assert store.forget(T, memory.id).scan.total == 0
    with pytest.raises(NotFound):
        store.undelete(T, memory.id)


def test_what_has_expired_is_not_found_and_then_archived(store: MemoryStore, cube: str) -> None:
    memory = store.add(T, cube, "The parking ticket is valid", expires_at=time.time() + 0.1, pinned=True)
    assert texts(store, cube, "parking ticket") == [memory.text]
    time.sleep(0.15)
    assert texts(store, cube, "parking ticket") == []
    assert store.standing(T, cube) == []
    assert [m.id for m in store.erasing.purge()] == [memory.id]
    assert store.get(T, memory.id).status == "archived"
    assert store.erasing.purge() == []


# -- sharing ---------------------------------------------------------------------------------------------------


def test_a_cube_shared_for_reading(store: MemoryStore, cube: str) -> None:
    memory = store.add(T, cube, "The picnic is at noon")
    store.cubes.share(T, cube, "friend", "read")
    assert store.get("friend", memory.id) == memory
    assert [hit.memory for hit in store.search("friend", "picnic", cube_ids=[cube])] == [memory]
    assert cube in {c.id for c in store.cubes.all("friend")}
    assert store.labels_of("friend") == {memory.label}
    for change in (
        lambda: store.add("friend", cube, "x"),
        lambda: store.add_messages("friend", cube, [new_message("hello there")]),
        lambda: store.update("friend", memory.id, text="x"),
        lambda: store.delete("friend", memory.id),
        lambda: store.forget("friend", memory.id),
        lambda: store.cubes.set_fidelity("friend", cube, "fast"),
    ):
        with pytest.raises(Forbidden):
            change()
    for owners in (lambda: store.cubes.delete("friend", cube), lambda: store.cubes.share("friend", cube, "x", "read")):
        with pytest.raises(NotFound):
            owners()
    assert store.list_memories("friend").items == []  # one's own
    store.cubes.unshare(T, cube, "friend")
    with pytest.raises(NotFound):
        store.get("friend", memory.id)


def test_a_cube_shared_for_writing_with_a_group(store: MemoryStore, cube: str) -> None:
    memory = store.add(T, cube, "The picnic is at noon")
    group = store.cubes.set_group(T, "family", ["mum", "dad"])
    store.cubes.share(T, cube, "group:family", "write")
    assert store.update("mum", memory.id, text="The picnic is at one").version == 2
    assert store.add("dad", cube, "Bring the salad").cube_id == cube
    with pytest.raises(NotFound):
        store.get("aunt", memory.id)
    with pytest.raises(NotFound):
        store.cubes.group("mum", "family")
    store.cubes.set_group(T, "family", ["dad"])
    with pytest.raises(NotFound):
        store.get("mum", memory.id)
    assert [g.principal for g in store.cubes.grants(T, cube)] == [group.id]
    assert store.cubes.delete(T, cube)
    with pytest.raises(NotFound):
        store.cube("dad", cube)


def test_anothers_shared_cube_does_not_take_a_name(store: MemoryStore, cube: str) -> None:
    """A name always means one's own cube; others' go by id."""
    work = store.cubes.create(T, "work")
    store.cubes.share(T, work.id, "friend", "read")
    with pytest.raises(NotFound):
        store.cube("friend", "work")
    mine = store.cubes.create("friend", "work")
    assert store.cube("friend", "work") == mine
    assert store.cube("friend", work.id) == work


@pytest.mark.slow
def test_forgetting_very_often(store: MemoryStore, cube: str) -> None:
    """FTS5's 'optimize' makes an index unreadable when it is used two thousand times."""
    store.erasing.undelete_s = 0
    kept = store.add(T, cube, "the one that stays")
    for i in range(2100):
        store.index.overwrite_deleted()
        if i % 100 == 0:
            store.delete(T, store.add(T, cube, f"number {i} goes").id)
        with writing(store) as db:  # every rewrite meets a change
            db.execute("UPDATE memory_text SET context = ? WHERE rowid = 1", (f"v{i}",))
    store.check()
    assert texts(store, cube, "stays") == [kept.text]


def test_forgetting_takes_what_was_merged_with_it(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    say(store, cube, "I live in Quetzaltenango.", 1000.0)
    say(store, cube, "I live in Quetzaltenango, as ever.", 2000.0)
    (memory,) = store.list_memories(T, cube).items
    assert store.forget(T, memory.id).scan.total == 0
    store.close()
    assert all(b"uetzalten" not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_proof_knows_of_its_own_cube_only(store: MemoryStore, cube: str) -> None:
    """That somebody else said the same is not to be seen."""
    for tenant, id in ((T, cube), ("other", store.default_cube("other").id)):
        said = [new_message("The bread is in the blue box.", "user", 1.0), new_message("It was good.", "user", 2.0)]
        store.add_messages(tenant, id, said, Said(session="s"))
    memory = store.list_memories(T, cube).items[0]
    assert store.forget(T, memory.id).scan.total == 0
    assert len(store.list_memories("other").items) == 2


def test_a_state_that_comes_back_too_late_is_history(store: MemoryStore, cube: str) -> None:
    say(store, cube, "I live in Oslo.", 1000.0)
    (old,) = store.list_memories(T, cube).items
    store.delete(T, old.id)
    say(store, cube, "I live in Lima.", 2000.0)
    back = store.undelete(T, old.id)
    assert back.status == "archived"
    assert [m.text for m in store.list_memories(T, cube).items] == ["User: I live in Lima."]
