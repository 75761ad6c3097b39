from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from memory import (
    Conflict,
    Forbidden,
    HashEmbedder,
    InvalidMemory,
    Loaded,
    Memory,
    MemoryStore,
    NotFound,
    Said,
    Stored,
    new_message,
)
from memory.domain import bundle_file
from memory.domain.bundle_file import AttachedFiles, MemoryLine, read_bundle
from tests.raw import reading, writing

T = "tenant"
QUESTIONS = ("where does Ingrid live?", "what is the dog called?", "harbour office opens", "Olav sails every weekend")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryStore]:
    opened = MemoryStore(tmp_path_factory.mktemp("store") / "memories.sqlite", HashEmbedder())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def cube(store: MemoryStore) -> str:
    """A cube with something of everything."""
    id = store.cubes.create(T, "full", "fast").id
    said = Said("talk-1", owner="ingrid", tags=("boats",))
    messages = [
        new_message("I live in Oslo. My dog is called Biscuit.", author="Ingrid"),
        new_message("That is a fine name for a dog, I think, and it suits a sailor.", "assistant"),
        new_message("I now live in Bergen. Olav sails every weekend in June.", author="Ingrid"),
    ]
    store.add_messages(T, id, messages, said)
    store.documents.add(T, id, "harbour.md", b"# Harbour\n\n" + b"The harbour office opens at nine. " * 60)
    pinned = store.add(T, id, "Answer briefly.", kind="profile", pinned=True, metadata={"a": [1, None]})
    store.update(T, pinned.id, text="Answer briefly, please.", tags=["style"])
    store.update(T, store.add(T, id, "The lamp is green.", event_at=5.5).id, status="archived")
    store.add_messages(T, id, [new_message("The secret word is walnut, never tell.")], Said("talk-2"))
    (secret,) = (m for m in store.list_memories(T, id).items if "walnut" in m.text)
    store.add_messages(T, id, [new_message("After that nothing else was said about trees.")], Said("talk-2"))
    store.delete(T, secret.id)
    return id


@pytest.fixture(scope="module")
def dumped(store: MemoryStore, cube: str) -> bytes:
    into = io.BytesIO()
    store.bundles.dump(T, cube, into)
    return into.getvalue()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[MemoryStore]:
    opened = MemoryStore(tmp_path / "other.sqlite", HashEmbedder(96))
    yield opened
    opened.close()


def all_of(store: MemoryStore, cube: str, tenant: str = T) -> list[Memory]:
    found = [
        memory
        for status in ("active", "archived", "merged")
        for memory in store.list_memories(tenant, cube, status=status, limit=500).items
    ]
    return sorted(found, key=lambda memory: (memory.created_at, memory.text))


def load(store: MemoryStore, data: bytes, name: str = "loaded", tenant: str = T) -> Loaded:
    return store.bundles.load(tenant, name, io.BytesIO(data))


def test_the_same_searches_find_the_same_texts(
    store: MemoryStore, cube: str, dumped: bytes, other: MemoryStore
) -> None:
    """Also with another embedder, which then made all vectors anew: as if the texts had been added there."""
    loaded = load(other, dumped, tenant="someone")
    again = load(store, dumped, "again").cube.id
    for question in QUESTIONS:
        texts = [hit.memory.text for hit in store.search(T, question, cube_ids=[cube])]
        assert [hit.memory.text for hit in store.search(T, question, cube_ids=[again])] == texts
        found = other.search("someone", question, cube_ids=[loaded.cube.id])
        assert found[0].memory.text == texts[0]
        assert found[0].parts["vector"] > 0
    store.cubes.delete(T, again)


def test_everything_is_kept_but_ids(store: MemoryStore, cube: str, dumped: bytes, other: MemoryStore) -> None:
    loaded = load(other, dumped)
    before, after = all_of(store, cube), all_of(other, loaded.cube.id)
    assert loaded.n_memories == len(before) == len(after) > 8
    assert loaded.cube.fidelity == "fast"
    ids = {old.id: new.id for old, new in zip(before, after, strict=True)}
    assert not ids.keys() & set(ids.values())
    (document,) = other.documents.all(T, loaded.cube.id)
    for old, new in zip(before, after, strict=True):
        metadata = old.metadata
        if "document" in metadata:
            metadata = metadata | {"document": document.id}
        moved = replace(
            old,
            id=new.id,
            cube_id=loaded.cube.id,
            metadata=metadata,
            follows=None if old.follows is None else ids.get(old.follows),
            replaced_by=None if old.replaced_by is None else ids.get(old.replaced_by),
            revision=1,
        )
        assert new == moved
        assert [(c.at, c.action, c.text) for c in other.history(T, new.id)] == [
            (c.at, c.action, c.text) for c in store.history(T, old.id)
        ]
        assert [m.text for m in other.sources(T, new.id)] == [m.text for m in store.sources(T, old.id)]
    assert any(new.follows for new in after)
    assert any(new.replaced_by for new in after)
    assert [m.text for m in other.messages(T, loaded.cube.id, "talk-1")] == [
        m.text for m in store.messages(T, cube, "talk-1")
    ]
    superseded = next(new for new in after if new.replaced_by)
    assert other.history(T, superseded.id)[-1].detail["by"] == superseded.replaced_by
    assert len(other.documents.delete(T, loaded.cube.id, document.id)) == document.n_chunks


def test_the_line_has_every_field_of_a_memory() -> None:
    assert {field.name for field in fields(Memory)} - {"cube_id", "revision"} == MemoryLine.model_fields.keys() - {
        "sources",
        "computed",
    }


def test_what_was_deleted_is_not_dumped(store: MemoryStore, cube: str, dumped: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(dumped)) as archive:
        texts = b"".join(archive.read(name) for name in archive.namelist())
    assert b"walnut" not in texts
    assert b"nothing else was said about trees" in texts
    contents = read_bundle(io.BytesIO(dumped))
    (place,) = (i for i, line in enumerate(contents.memories) if "trees" in line.text)
    alone = HashEmbedder().embed([contents.memories[place].text])[0]
    assert float(alone @ contents.vectors[place].astype(np.float32)) > 0.999  # nothing of what stood before it


class Turned(HashEmbedder):
    """Other weights under the same name."""

    def embed(self, texts: Any, role: Any = "passage") -> Any:
        return -super().embed(texts, role)


def test_vectors_are_used_only_when_they_are_this_embedder_s(dumped: bytes, tmp_path: Path) -> None:
    def used(embedder: HashEmbedder) -> bool:
        store = MemoryStore(tmp_path / f"{type(embedder).__name__}.sqlite", embedder)
        loaded = load(store, dumped)
        (hit, *_) = store.search(T, "Ingrid: My dog is called Biscuit.", cube_ids=[loaded.cube.id])
        assert (hit.memory.text, hit.vector_rank) == ("Ingrid: My dog is called Biscuit.", 1)
        with reading(store) as db:
            rows = db.execute("SELECT vector FROM vectors ORDER BY memory").fetchall()
        store.close()
        contents = read_bundle(io.BytesIO(dumped))
        active = [row for row, line in zip(contents.vectors, contents.memories, strict=True) if line.status == "active"]
        return [row["vector"] for row in rows] == [row.tobytes() for row in active]

    assert used(HashEmbedder())
    assert not used(Turned())


def test_who_may_dump(store: MemoryStore, cube: str) -> None:
    def dump(tenant: str) -> None:
        store.bundles.dump(tenant, cube, io.BytesIO())

    with pytest.raises(NotFound):
        dump("reader")
    store.cubes.share(T, cube, "reader", "read")
    with pytest.raises(Forbidden):
        dump("reader")
    store.cubes.share(T, cube, "writer", "write")
    dump("writer")


def test_computed_memories_are_named(store: MemoryStore, cube: str, other: MemoryStore) -> None:
    wanted = store.list_memories(T, cube).items[0]
    into = io.BytesIO()
    store.bundles.dump(T, cube, into, fingerprint="ab" * 32, computed={wanted.label, "mem_x@1"})
    loaded = load(other, into.getvalue())
    assert [memory.text for memory in loaded.computed] == [wanted.text]
    assert loaded.computed[0].cube_id == loaded.cube.id
    assert read_bundle(into).manifest.fingerprint == "ab" * 32


def with_attached(store: MemoryStore, cube: str, n: int = 2) -> tuple[bytes, list[str]]:
    """A dump with ``n`` attached files, and the texts that were offered for them."""
    offered: list[str] = []

    def attach(texts: Mapping[str, str]) -> Iterator[Stored]:
        offered.extend(texts.values())
        labels = sorted(texts)
        for i in range(n):
            yield Stored(f"{i:064x}", labels[i : i + 2], {"number": i}, [b"first", memoryview(b"second" * i)])

    into = io.BytesIO()
    store.bundles.dump(T, cube, into, fingerprint="ab" * 32, attach=attach)
    return into.getvalue(), offered


def test_files_come_along_and_say_of_which_memories_they_are(store: MemoryStore, cube: str, other: MemoryStore) -> None:
    data, offered = with_attached(store, cube)
    active = store.list_memories(T, cube, limit=500).items
    assert sorted(offered) == sorted(memory.text for memory in active), "what is in use, and nothing else"
    loaded = load(other, data)
    texts = {memory.label: memory.text for memory in active}
    assert [attached.note for attached in loaded.attached] == [{"number": 0}, {"number": 1}]
    for attached in loaded.attached:
        assert len(attached.memories) == 2
        for label, memory in attached.memories.items():
            assert memory == other.get(T, memory.id)
            assert memory.text == texts[label]
    files = AttachedFiles(io.BytesIO(data))
    assert [b"".join(files.content(attached.name)) for attached in loaded.attached] == [b"first", b"firstsecond"]
    assert [files.size(attached.name) for attached in loaded.attached] == [5, 11]
    files.close()
    assert loaded.fingerprint == "ab" * 32


def test_a_dump_without_files_is_as_it_was(store: MemoryStore, cube: str, dumped: bytes) -> None:
    def members(data: bytes) -> list[str]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()

    assert members(with_attached(store, cube, 0)[0]) == members(dumped)


def test_what_is_no_files_is_bounded(store: MemoryStore, cube: str, other: MemoryStore) -> None:
    data, _ = with_attached(store, cube)
    with pytest.raises(InvalidMemory, match="without its segments it has more than 1000 bytes"):
        other.bundles.load(T, "loaded", io.BytesIO(data), max_packed_bytes=1000)
    assert other.bundles.load(T, "loaded", io.BytesIO(data), max_packed_bytes=len(data)).attached


def test_a_directory_is_not_read_where_it_is_too_large(
    dumped: bytes, other: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zip may be all directory: it is the one thing that is read before it can be looked at."""
    monkeypatch.setattr(bundle_file, "_MAX_DIRECTORY_BYTES", 1 << 17)
    begin = dumped.index(b"PK\x01\x02")
    at = dumped.rindex(b"PK\x05\x06")
    entries = dumped[begin:at] * 1000
    size = struct.pack("<L", len(entries))
    large = dumped[:begin] + entries + dumped[at : at + 12] + size + dumped[at + 16 :]
    with pytest.raises(InvalidMemory, match="at once"):
        load(other, large)
    assert nothing_left(other)


def test_an_empty_cube(store: MemoryStore, other: MemoryStore) -> None:
    into = io.BytesIO()
    store.bundles.dump(T, store.cubes.create(T, "empty").id, into)
    assert load(other, into.getvalue()).n_memories == 0


def test_names(dumped: bytes, other: MemoryStore) -> None:
    load(other, dumped, "one")
    with pytest.raises(Conflict):
        load(other, dumped, "one")
    load(other, dumped, "one", "someone else")
    with pytest.raises(InvalidMemory):
        load(other, dumped, " ")
    assert len(other.cubes.all(T)) == 1


# -- bad bundles -------------------------------------------------------------------------------------------------


def nothing_left(store: MemoryStore) -> bool:
    with reading(store) as db:
        tables = ("cubes", "memories", "messages", "provenance", "memory_changes", "documents", "vectors", "entities")
        return not any(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)  # noqa: S608


def repacked(data: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            packing = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, packing)
    return into.getvalue()


def with_memory(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        first, *rest = members["memories.jsonl"].splitlines(keepends=True)
        line = {**json.loads(first), **changes}
        members["memories.jsonl"] = b"".join([json.dumps(line).encode() + b"\n", *rest])

    return change


def with_manifest(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["manifest.json"] = json.dumps({**json.loads(members["manifest.json"]), **changes}).encode()

    return change


def with_vectors(make: Callable[[int], np.ndarray]) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        n = json.loads(members["manifest.json"])["counts"]["memories"]
        members["vectors.safetensors"] = save({"vectors": make(n)})

    return change


CHANGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "a path": lambda members: members.update({"../../evil": b"x"}),
    "a member is missing": lambda members: members.pop("documents.jsonl") and None,
    "another format": with_manifest(format="recallkv.cube/2"),
    "other counts": with_manifest(counts={"memories": 1, "messages": 0, "changes": 0, "documents": 0}),
    "more counts": with_manifest(counts={"memories": 10**12, "messages": 0, "changes": 0, "documents": 0}),
    "no such fidelity": with_manifest(fidelity="perfect"),
    "unknown field": with_memory(more=1),
    "deleted": with_memory(status="deleted"),
    "no such kind": with_memory(kind="virus"),
    "empty text": with_memory(text="   "),
    "NUL": with_memory(text="a\x00b"),
    "a lone surrogate": with_memory(text="\ud800"),
    "long text": with_memory(text="x" * 100_001),
    "not a number": with_memory(created_at=float("nan")),
    "a time far away": with_memory(event_at=1e300),
    "a string for a number": with_memory(version="1"),
    "version 0": with_memory(version=0),
    "too many tags": with_memory(tags=[str(i) for i in range(100)]),
    "large metadata": with_memory(metadata={"a": "x" * 20_000}),
    "follows nothing": with_memory(follows="mem_nowhere"),
    "replaced by nothing": with_memory(replaced_by="mem_nowhere"),
    "from no message": with_memory(sources=["msg_nowhere"]),
    "blank line": lambda members: members.update({"memories.jsonl": members["memories.jsonl"] + b"\n"}),
    "no JSON": lambda members: members.update({"messages.jsonl": b"{" * 5000 + b"\n"}),
    "twice": lambda members: members.update(
        {
            "memories.jsonl": members["memories.jsonl"].splitlines(keepends=True)[0]
            * members["memories.jsonl"].count(b"\n")
        }
    ),
    "a bomb": lambda members: members.update({"memories.jsonl": b" " * (65 << 20)}),
    "a history of nothing": lambda members: members.update(
        {"changes.jsonl": members["changes.jsonl"].replace(b'"memory": "mem_', b'"memory": "mum_')}
    ),
    "vectors of another type": with_vectors(lambda n: np.zeros((n, 8), np.float32)),
    "too few vectors": with_vectors(lambda n: np.zeros((n - 1, 8), np.float16)),
    "long vectors": with_vectors(lambda n: np.ones((n, 8), np.float16)),
    "vectors of no number": with_vectors(lambda n: np.full((n, 8), np.nan, np.float16)),
    "no vectors": lambda members: members.update({"vectors.safetensors": b"\xff" * 100}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_as_it_should_be_is_refused(name: str, dumped: bytes, other: MemoryStore) -> None:
    with pytest.raises(InvalidMemory):
        load(other, repacked(dumped, CHANGES[name]))
    assert nothing_left(other)


def test_a_packed_bundle_is_as_good_as_the_first(dumped: bytes, other: MemoryStore) -> None:
    """The helper above changes nothing by itself."""
    load(other, repacked(dumped, lambda members: None))


@pytest.mark.parametrize("data", [b"", b"PK", b"nothing of the kind" * 50])
def test_what_is_no_zip(data: bytes, other: MemoryStore) -> None:
    with pytest.raises(InvalidMemory):
        load(other, data)


def test_sizes_that_are_made_up(dumped: bytes, other: MemoryStore) -> None:
    """A directory that says a member is larger, packed and unpacked, than it can be."""
    at = dumped.index(b"PK\x01\x02")
    for claimed in (300 << 20, 0xFFFFFFF0):
        made_up = bytearray(dumped)
        made_up[at + 20 : at + 28] = struct.pack("<II", claimed, claimed)
        with pytest.raises(InvalidMemory):
            load(other, bytes(made_up))
    assert nothing_left(other)


def test_a_failure_while_writing_leaves_nothing(dumped: bytes, other: MemoryStore) -> None:
    with writing(other) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON documents BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(Exception, match="no"):
        load(other, dumped)
    assert nothing_left(other)


@settings(max_examples=150)
@given(place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=30), cut=st.booleans())
def test_damaged_zips(dumped: bytes, place: float, junk: bytes, cut: bool) -> None:
    """What a flipped byte does to a zip is found by its checksums, or does not matter; it is never another error."""
    at = int(place * len(dumped))
    damaged = dumped[:at] + junk + (b"" if cut else dumped[at + len(junk) :])
    try:
        contents = read_bundle(io.BytesIO(damaged))
    except InvalidMemory:
        return
    assert contents.memories == read_bundle(io.BytesIO(dumped)).memories
