from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory import (
    Conflict,
    FolderEmbedder,
    HashEmbedder,
    InvalidMemory,
    MemoryStore,
    NotFound,
    StoreCorrupt,
    new_message,
)
from memory.language.words import digest_of
from memory.storage.sqlite.migrations import MIGRATIONS

T = "tenant"


def test_a_memory_comes_back_as_it_was(store: MemoryStore, cube: str) -> None:
    added = store.add(
        T,
        cube,
        "  My dog is called Biscuit.  ",
        kind="event",
        owner="anna",
        pinned=True,
        event_at=5.0,
        metadata={"source": ["a", 1]},
    )
    assert added.text == "My dog is called Biscuit."
    assert added.version == 1
    assert store.get(T, added.id) == added
    assert store.list_memories(T).items == [added]
    assert store.count(T) == 1
    assert store.active_labels() == {added.label}


def test_memories_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    store = MemoryStore(path, HashEmbedder())
    added = store.add(T, store.default_cube(T).id, "I live in Lisbon.")
    store.close()
    store = MemoryStore(path, HashEmbedder())
    assert store.get(T, added.id) == added
    assert [hit.memory for hit in store.search(T, "Lisbon", cube_ids=[added.cube_id])] == [added]
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()


@pytest.mark.parametrize("text", ["", "   \n", "x" * 100_001, "a\x00b", "\ud800"])
def test_bad_texts_are_refused(store: MemoryStore, cube: str, text: str) -> None:
    with pytest.raises(InvalidMemory) as caught:
        store.add(T, cube, text)
    assert caught.value.param == "text"
    assert store.count(T) == 0


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"kind": "thought"}, "kind"),
        ({"metadata": {"x": float("nan")}}, "metadata"),
        ({"metadata": {"x": object()}}, "metadata"),
        ({"metadata": {"x": "y" * 20_000}}, "metadata"),
    ],
)
def test_bad_fields_are_refused(store: MemoryStore, cube: str, settings: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidMemory) as caught:
        store.add(T, cube, "x", **settings)
    assert caught.value.param == param


def test_another_tenants_ids_look_like_unknown_ones(store: MemoryStore, cube: str) -> None:
    memory = store.add(T, cube, "secret")
    calls: list[Callable[[], object]] = [
        lambda: store.get("other", memory.id),
        lambda: store.update("other", memory.id, text="mine now"),
        lambda: store.delete("other", memory.id),
        lambda: store.history("other", memory.id),
        lambda: store.sources("other", memory.id),
        lambda: store.messages("other", cube),
        lambda: store.undelete("other", memory.id),
        lambda: store.forget("other", memory.id),
        lambda: store.add_messages("other", cube, [new_message("hello there")]),
        lambda: store.cubes.share("other", cube, "me", "write"),
        lambda: store.cubes.unshare("other", cube, T),
        lambda: store.cubes.grants("other", cube),
        lambda: store.index.rebuild("other", cube),
        lambda: store.cube("other", cube),
        lambda: store.cubes.delete("other", cube),
        lambda: store.add("other", cube, "x"),
        lambda: store.standing("other", cube),
        lambda: store.search("other", "secret", cube_ids=[cube]),
        lambda: store.list_memories("other", cube),
        lambda: store.list_memories("other", after=memory.id),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    assert store.list_memories("other").items == []
    assert store.cubes.all("other") == []
    assert store.count("other") == 0
    assert store.get(T, memory.id) == memory


def test_cubes(store: MemoryStore) -> None:
    default = store.default_cube(T)
    assert store.default_cube(T) == default
    work = store.cubes.create(T, "work")
    assert store.cube(T, "work") == store.cube(T, work.id) == work
    assert store.cubes.all(T) == [default, work]
    with pytest.raises(Conflict):
        store.cubes.create(T, "work")
    assert store.cubes.create("other", "work").id != work.id
    for name in ("", " ", "x" * 201, "\ud800"):
        with pytest.raises(InvalidMemory):
            store.cubes.create(T, name)
    memory = store.add(T, work.id, "meeting on Monday")
    assert store.cubes.delete(T, work.id) == [memory]
    with pytest.raises(NotFound):
        store.get(T, memory.id)
    assert store.cubes.all(T) == [default]


def test_listing_in_pages(store: MemoryStore, cube: str) -> None:
    added = [store.add(T, cube, f"memory {i}", kind="fact" if i % 2 else "event") for i in range(7)]
    seen, after = [], None
    while True:
        page = store.list_memories(T, cube, limit=3, after=after)
        seen += page.items
        if page.next is None:
            break
        after = page.next
    assert seen == added
    assert store.list_memories(T, kind="event").items == added[::2]
    store.update(T, added[0].id, status="archived")
    assert [memory.id for memory in store.list_memories(T, status="archived").items] == [added[0].id]
    store.delete(T, added[1].id)
    assert [memory.id for memory in store.list_memories(T, status="deleted").items] == [added[1].id]
    with pytest.raises(InvalidMemory):
        store.list_memories(T, status="nonsense")


def test_standing_memories_are_pinned_or_profile(store: MemoryStore, cube: str) -> None:
    store.add(T, cube, "a fact")
    pinned = store.add(T, cube, "pinned", pinned=True)
    profile = store.add(T, cube, "profile", kind="profile")
    assert store.standing(T, cube) == [pinned, profile]


def test_an_update_makes_a_version_and_searches_find_the_new_text(store: MemoryStore, cube: str) -> None:
    old = store.add(T, cube, "I live in Lisbon.")
    new = store.update(T, old.id, text="I live in Porto.", metadata={"a": 1})
    assert (new.version, new.text, new.metadata) == (2, "I live in Porto.", {"a": 1})
    assert new.label != old.label
    assert [(c.action, c.version, c.text) for c in store.history(T, old.id)] == [
        ("added", 1, None),
        ("updated", 2, "I live in Lisbon."),
    ]
    assert store.search(T, "Lisbon", cube_ids=[cube]) == []
    assert [hit.memory.id for hit in store.search(T, "Porto", cube_ids=[cube])] == [old.id]
    assert store.update(T, old.id, pinned=True).version == 2
    archived = store.update(T, old.id, status="archived")
    assert store.search(T, "Porto", cube_ids=[cube]) == []
    assert store.active_labels() == set()
    assert store.update(T, archived.id, status="active").status == "active"
    assert len(store.search(T, "Porto", cube_ids=[cube])) == 1


def test_deleted_text_is_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    store = MemoryStore(path, HashEmbedder(), undelete_s=0)
    cube = store.default_cube(T).id
    for i in range(50):
        store.add(T, cube, f"an ordinary memory number {i}")
    secret = store.add(T, cube, "xylophonist quetzalcoatl", metadata={"note": "zanzibarian"})
    store.search(T, "xylophonist", cube_ids=[cube])
    store.update(T, secret.id, text="xylophonist quetzalcoatl again")
    store.delete(T, secret.id)
    for call in (store.get, store.delete, store.history):
        with pytest.raises(NotFound):
            call(T, secret.id)
    assert secret.id not in {hit.memory.id for hit in store.search(T, "xylophonist", cube_ids=[cube])}
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for word in (b"xylophon", b"quetzalcoatl", b"zanzibarian"):
        assert word not in raw
    assert store.count(T) == 50
    store.close()


def test_search_finds_by_meaning_and_by_words(tmp_path: Path, minilm: FolderEmbedder) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", minilm)
    cube = store.default_cube(T).id
    texts = [
        "My dog is called Biscuit.",
        "I work as a nurse in a children's hospital.",
        "The wifi password at home is zx81-kestrel.",
        "I am allergic to peanuts.",
        "We spent the summer in Norway.",
    ]
    ids = [store.add(T, cube, text).id for text in texts]

    def best(query: str) -> str:
        return store.search(T, query, cube_ids=[cube])[0].memory.id

    assert best("What is the name of my pet?") == ids[0]  # no word in common
    assert best("kestrel") == ids[2]
    assert best("Which food must I avoid?") == ids[3]
    assert best("Where did we go on holiday?") == ids[4]
    hit = store.search(T, "dog Biscuit", cube_ids=[cube])[0]
    assert (hit.text_rank, hit.vector_rank, hit.why) == (1, 1, "text #1, vector #1")
    assert store.search(T, "quantum chromodynamics lattice", cube_ids=[cube]) == []
    store.close()


def test_search_honours_cubes_kinds_and_top_k(store: MemoryStore, cube: str) -> None:
    other = store.cubes.create(T, "other").id
    a = store.add(T, cube, "apple pie", kind="preference")
    b = store.add(T, other, "apple juice")
    for i in range(5):
        store.add(T, cube, f"apple number {i}")
    found = store.search(T, "apple", cube_ids=[cube, other], top_k=50)
    assert {a.id, b.id} <= {hit.memory.id for hit in found}
    assert len(store.search(T, "apple", cube_ids=[cube], top_k=2)) == 2
    assert [hit.memory.id for hit in store.search(T, "apple", cube_ids=[other])] == [b.id]
    assert [hit.memory.id for hit in store.search(T, "apple", cube_ids=[cube], kinds=["preference"])] == [a.id]
    assert store.search(T, "apple", cube_ids=[]) == store.search(T, "apple", cube_ids=[cube], top_k=0) == []


@pytest.mark.parametrize(
    "query",
    [
        '"',
        '""" OR x',
        "a NEAR b",
        "text:dog",
        "dog*",
        "-dog",
        "(dog",
        "dog AND",
        "🐕 dog",
        "dog " * 2500,
        "'; --",
        "NOT",
    ],
)
def test_queries_are_words_never_syntax(store: MemoryStore, cube: str, query: str) -> None:
    memory = store.add(T, cube, "the dog barks")
    hits = store.search(T, query, cube_ids=[cube])
    assert [hit.memory.id for hit in hits] == ([memory.id] if "dog" in query else [])


def test_a_changed_embedder_re_embeds_at_first_search(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    store = MemoryStore(path, HashEmbedder(64))
    cube = store.default_cube(T).id
    memory = store.add(T, cube, "running shoes")
    store.close()
    store = MemoryStore(path, HashEmbedder(128))
    (hit,) = store.search(T, "running shoes", cube_ids=[cube])
    assert (hit.memory.id, hit.vector_rank) == (memory.id, 1)
    store.close()
    with sqlite3.connect(path) as db:
        (name, blob) = db.execute("SELECT embedder, vector FROM vectors").fetchone()
    db.close()
    assert name == "hash-128"
    assert np.frombuffer(blob, np.float16).shape == (128,)


def test_many_threads(store: MemoryStore, cube: str) -> None:
    def work(worker: int) -> list[str]:
        ids = []
        for i in range(25):
            ids.append(store.add(T, cube, f"worker {worker} item {i}").id)
            assert store.search(T, f"worker {worker}", cube_ids=[cube], top_k=3)
            if i % 5 == 4:
                store.delete(T, ids.pop(0))
        return ids

    with ThreadPoolExecutor(8) as pool:
        kept = {id for ids in pool.map(work, range(8)) for id in ids}
    assert store.count(T) == len(kept) == 160
    store.check()


WRITER = """
import sys
from pathlib import Path
from memory import HashEmbedder, MemoryStore
store = MemoryStore(Path(sys.argv[1]), HashEmbedder())
cube = store.default_cube("tenant").id
i = 0
while True:
    memory = store.add("tenant", cube, f"memory number {i}")
    if i % 3 == 2:
        store.delete("tenant", memory.id)
        print("-", memory.id, flush=True)
    else:
        print("+", memory.id, flush=True)
    i += 1
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    added, deleted = set(), set()
    for round_ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]  # it is up
        time.sleep(0.05 + 0.07 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        for line in lines:
            sign, _, id = line.strip().partition(" ")
            if line.endswith("\n"):
                (added if sign == "+" else deleted).add(id)
    store = MemoryStore(path, HashEmbedder())
    store.check()
    for id in added:
        assert store.get(T, id).text
    for id in deleted:
        with pytest.raises(NotFound):
            store.get(T, id)
    cube = store.default_cube(T).id
    assert len(store.search(T, "memory number", cube_ids=[cube], top_k=10)) == 10
    store.close()
    assert added


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from memory import HashEmbedder, MemoryStore, StorageFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = MemoryStore(Path(sys.argv[1]), HashEmbedder())
cube = store.default_cube("tenant").id
first = store.add("tenant", cube, "before the disk was full")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
refused = 0
for i in range(2000):
    try:
        store.add("tenant", cube, "x" * 5000)
    except StorageFull:
        refused += 1
        if refused == 3:
            break
assert refused == 3, refused
assert store.get("tenant", first.id) == first
assert store.search("tenant", "disk full", cube_ids=[cube])
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
after = store.add("tenant", cube, "after it had room again")
assert store.get("tenant", after.id) == after
store.check()
store.close()
print("recovered")
"""


@pytest.mark.slow
def test_a_full_disk_refuses_writes_and_recovers(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "m.sqlite")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "recovered", done.stderr


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreCorrupt, match=r"m\.sqlite"):
        MemoryStore(path, HashEmbedder())
    assert path.read_bytes() == b"this is no database" * 100


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    MemoryStore(path, HashEmbedder()).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(StoreCorrupt, match="schema"):
        MemoryStore(path, HashEmbedder())


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_every_older_schema_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    for step in MIGRATIONS[:version]:
        step(db)
    db.execute(f"PRAGMA user_version = {version}")
    db.close()
    store = MemoryStore(path, HashEmbedder())
    memory = store.add(T, store.default_cube(T).id, "works")
    assert store.get(T, memory.id) == memory
    assert store.keys.tenant_of(store.keys.create(T, "k")) == T
    store.close()


def test_scripts_without_spaces_are_indexed_anew_in_an_older_folder(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    store = MemoryStore(path, HashEmbedder())
    cube = store.default_cube(T).id
    texts = ["我表妹在大连当药剂师", "My cousin is a pharmacist", "It was -5 degrees"]
    for text in texts:
        store.add(T, cube, text)
    store.close()
    step = next(i for i, step in enumerate(MIGRATIONS) if step.__name__ == "_words_without_spaces")
    with sqlite3.connect(path) as db:  # as it was before that step
        db.execute("UPDATE memory_text SET text = (SELECT text FROM memories m WHERE m.rowid = memory_text.rowid)")
        db.execute("UPDATE memory_text SET context = '她在医院上班' WHERE rowid = 2")
        db.execute("UPDATE memories SET digest = 'old'")
        db.execute("DROP INDEX memories_by_newer")
        db.execute(f"PRAGMA user_version = {step}")
    db.close()
    store = MemoryStore(path, HashEmbedder())
    with store.storage.read() as tx:
        assert list(tx.texts.scores("大连的药剂师是谁", [cube], 9)) == [1]
        assert list(tx.texts.scores("pharmacist", [cube], 9)) == [2]
        assert list(tx.texts.scores("医院", [cube], 9)) == [2]
    store.close()
    with sqlite3.connect(path) as db:
        assert dict(db.execute("SELECT text, digest FROM memories")) == {text: digest_of(text) for text in texts}
    db.close()


def test_keys(store: MemoryStore, tmp_path: Path) -> None:
    key = store.keys.create("anna", "laptop")
    assert key.startswith("rk_")
    assert store.keys.tenant_of(key) == "anna"
    assert store.keys.tenant_of(key + "x") is None
    assert store.keys.tenant_of("") is None
    assert [(info.name, info.tenant) for info in store.keys.all()] == [("laptop", "anna")]
    with pytest.raises(Conflict):
        store.keys.create("boris", "laptop")
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key.encode() not in raw
    store.keys.revoke("laptop")
    assert store.keys.tenant_of(key) is None
    with pytest.raises(NotFound):
        store.keys.revoke("laptop")
