"""Cubes as files: one cube dumped to a bundle (``memory.domain.bundle_file`` has the format), or loaded as a new one.

Keys and values come along only where the server asks for it, and are only ever believed where it has signed them, and
this is why. Segments are found by content, in all cubes of a tenant, and a checksum says only that a file is whole, not
that its numbers were computed from its tokens: whoever could make a bundle that is believed could make a text that the
tenant has elsewhere be read as something else, and receipts would go on saying ``exact``. So a server signs what it
dumps with a key of its own (``server.bundles``): each page with its tenant, its model and the texts of its memories.
Nor can another tenant use them: a segment's key is salted with the tenant, and a page's also stands for the tokens of
its lead, which are not in its file, so that it cannot be given the key that it would have there. What is not signed by
this server, or of another tenant or model, is left, and its memories, which the bundle names, are computed from their
texts in idle time (``Loaded.computed``), as those of a bundle without any.

This side knows no keys and values: it writes files that it is handed (``Attach``), and says of those that it finds
which memories they are of (``Attached``).

Vectors do come along, because all they can do is to find or miss memories of their own cube; they are used when the
embedder has the same name and a sample of them is what it makes of the texts.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from memory.checks import checked_fidelity, checked_message, checked_metadata, checked_tags, checked_text
from memory.domain.bundle_file import (
    Attachment,
    ChangeLine,
    Contents,
    Counts,
    DocumentLine,
    Half,
    Manifest,
    MemoryLine,
    MessageLine,
    SegmentLine,
    read_bundle,
    write_bundle,
)
from memory.domain.cubes import checked_name
from memory.domain.documents import Document, checked_document_name, document_of, insert_document
from memory.errors import Conflict
from memory.search.index import StoreBase
from memory.search.vectors import Vector
from memory.storage.sqlite.database import note_cube
from memory.storage.sqlite.rows import (
    changes_of,
    context_of,
    insert_memory,
    insert_message,
    memory_of,
    message_of,
    write_search_rows,
)
from memory.storage.sqlite.whose import name_messages
from memory.types import Cube, Memory, Message

_BATCH = 256
_SAMPLE = 8
# A memory's vector has a little of what was said before it, which may not be in the bundle.
_MIN_LIKENESS = 0.85
_ID = re.compile(r"(?:mem|msg|doc)_[0-9a-f]{24}")


@dataclass(frozen=True)
class Stored:
    """A file of keys and values to be written to a bundle: its name (64 hex digits), the labels of the memories that it
    depends on, what is to be known of it, and its bytes."""

    name: str
    labels: Collection[str]
    note: dict[str, Any]
    content: Iterable[bytes | memoryview]


Attach = Callable[[Mapping[str, str]], Iterable[Stored]]
"""Given the active memories of a bundle, texts by label, the files that go with them, one at a time."""


@dataclass(frozen=True)
class Attached:
    """A file of keys and values in a bundle that was loaded (``memory.domain.bundle_file.AttachedFiles`` reads it): the
    memories that it depends on, by the labels that they had where it comes from."""

    name: str
    note: dict[str, Any]
    memories: Mapping[str, Memory]


@dataclass(frozen=True)
class Loaded:
    """A cube that was loaded, how many memories it has, and those whose keys and values had been computed where it
    comes from; the model that they were computed by, and those that came along."""

    cube: Cube
    n_memories: int
    computed: list[Memory]
    fingerprint: str | None = None
    attached: list[Attached] = field(default_factory=list)


class BundleMethods(StoreBase):
    """Dumping and loading cubes."""

    def dump_cube(
        self,
        tenant: str,
        cube_id: str,
        into: BinaryIO,
        *,
        fingerprint: str | None = None,
        computed: Collection[str] = (),
        attach: Attach | None = None,
    ) -> Counts:
        """Write a cube to a file: for its owner and those whom it was shared with for writing. Deleted memories, and
        the messages that only they are from, are left out; so are feedback and who may use the cube. ``fingerprint``
        is the model's, ``computed`` the labels of memories whose keys and values are stored, ``attach`` says which of
        these go along. Raises ``NotFound``, ``Forbidden``, ``EmbedderError``."""
        cube = self.cube(tenant, cube_id, "write")
        with self._database.read() as db:
            self._index(cube.id)  # vectors that are missing, or of another embedder, are made
            rows = _Rows.of(db, cube.id)
        contents = self._contents(cube, rows, fingerprint, computed)
        write_bundle(contents, into, () if attach is None else _attachments(rows.memories, attach))
        return contents.manifest.counts

    def _contents(self, cube: Cube, rows: _Rows, fingerprint: str | None, computed: Collection[str]) -> Contents:
        places = {memory.id: i for i, memory in enumerate(rows.memories)}
        memories = [_memory_line(memory, places, rows, computed) for memory in rows.memories]
        messages = [
            MessageLine(
                id=message.id,
                conversation=conversation,
                role=message.role,
                author=message.author,
                text=message.text,
                sent_at=message.sent_at,
                utc_offset=message.utc_offset,
                metadata=message.metadata,
            )
            for conversation, message in rows.messages
        ]
        documents = [DocumentLine(**_without(document, "cube_id")) for document in rows.documents]
        counts = Counts(
            memories=len(memories), messages=len(messages), changes=len(rows.changes), documents=len(documents)
        )
        manifest = Manifest(
            format="recallkv.cube/1",
            created=time.time(),
            embedder=self._embeddings.name,
            fingerprint=fingerprint,
            fidelity=cube.fidelity,  # type: ignore[arg-type]
            counts=counts,
        )
        return Contents(manifest, memories, messages, rows.changes, documents, self._matrix(rows))

    def _matrix(self, rows: _Rows) -> Half:
        """float16 [memories, dim]. A vector that has something of a deleted memory in it is made anew, without."""
        texts = {memory.id: memory.text for memory in rows.memories}
        follows = {memory.id: memory.follows for memory in rows.memories}
        vectors = dict(rows.vectors)
        tainted = [m for m in rows.memories if m.id in vectors and _follows_any(m.id, follows, rows.deleted)]
        for begin in range(0, len(tainted), _BATCH):
            batch = tainted[begin : begin + _BATCH]
            before = [_texts_before(memory.id, follows, texts) for memory in batch]
            fresh = self._embeddings.in_context([memory.text for memory in batch], before)
            vectors.update({memory.id: vector for memory, vector in zip(batch, fresh, strict=True)})
        dim = next((len(vector) for vector in vectors.values()), 1)
        matrix = np.zeros((len(rows.memories), dim), dtype=np.float16)
        for i, memory in enumerate(rows.memories):
            if memory.id in vectors:
                matrix[i] = vectors[memory.id]
        return matrix

    def load_cube(self, tenant: str, name: str, source: BinaryIO, *, max_packed_bytes: int | None = None) -> Loaded:
        """Make a new cube of that name from a bundle, or nothing. Everything gets new ids; links, histories and times
        are kept. ``max_packed_bytes`` bounds what of the bundle is no segments. Raises ``InvalidMemory`` (also for a
        bad bundle), ``Conflict`` (the name), ``StorageFull``, ``EmbedderError``."""
        name = checked_name(name)
        contents = read_bundle(source, max_packed_bytes)
        cube = Cube("cube_" + secrets.token_hex(12), tenant, name, time.time(), contents.manifest.fidelity)
        with self._database.read() as db:
            _check_free(db, cube)  # embedding may take a while
        fresh = _Fresh.of(contents, cube)
        vectors = self._loaded_vectors(contents)
        with self._database.write() as db:
            _insert_cube(db, cube)
            for conversation, message in fresh.messages:
                insert_message(db, cube.id, conversation, message)
            rows = [insert_memory(db, memory) for memory in fresh.memories]
            db.executemany("INSERT INTO provenance VALUES (?, ?)", fresh.sources)
            name_messages(db, cube.id)
            db.executemany(
                "INSERT INTO memory_changes (memory_id, at, action, version, text, detail) VALUES (?, ?, ?, ?, ?, ?)",
                fresh.changes,
            )
            for document in fresh.documents:
                insert_document(db, document)
            for row, memory, vector in zip(rows, fresh.memories, vectors, strict=True):
                if vector is not None:
                    write_search_rows(db, row, memory, context_of(db, memory.id), self._embeddings.name, vector)
        return _loaded(cube, contents, fresh.memories)

    def _loaded_vectors(self, contents: Contents) -> list[Vector | None]:
        """A vector for each active memory."""
        lines = contents.memories
        active = [i for i, line in enumerate(lines) if line.status == "active"]
        found: list[Vector | None] = [None] * len(lines)
        if contents.manifest.embedder == self._embeddings.name and self._are_ours(contents, active):
            for i in active:
                found[i] = contents.vectors[i].astype(np.float32)
            return found
        texts = {line.id: line.text for line in lines}
        follows = {line.id: line.follows for line in lines}
        for begin in range(0, len(active), _BATCH):
            batch = active[begin : begin + _BATCH]
            before = [_texts_before(lines[i].id, follows, texts) for i in batch]
            fresh = self._embeddings.in_context([lines[i].text for i in batch], before)
            for i, vector in zip(batch, fresh, strict=True):
                found[i] = vector
        return found

    def _are_ours(self, contents: Contents, active: Sequence[int]) -> bool:
        """Whether a sample of the vectors is what this embedder makes of the texts."""
        sample = list(active[:: max(1, len(active) // _SAMPLE)])
        if not sample:
            return True
        made = np.stack(self._embeddings.of([contents.memories[i].text for i in sample]))
        there = contents.vectors[sample].astype(np.float32)
        if made.shape != there.shape:
            return False
        telling = np.linalg.norm(made, axis=1) > 0
        return bool(np.all((made * there).sum(1)[telling] >= _MIN_LIKENESS))


@dataclass(frozen=True)
class _Rows:
    """What of a cube is dumped. ``vectors`` by memory; ``deleted``: ids of memories that still have a text."""

    memories: list[Memory]
    messages: list[tuple[str | None, Message]]
    sources: dict[str, list[str]]
    changes: list[ChangeLine]
    documents: list[Document]
    vectors: dict[str, Vector]
    deleted: set[str]

    @classmethod
    def of(cls, db: sqlite3.Connection, cube_id: str) -> _Rows:
        there = "FROM memories WHERE cube_id = ?1 AND status != 'deleted'"
        kept = f"SELECT id {there}"
        memories = [memory_of(row) for row in db.execute(f"SELECT * {there} ORDER BY rowid", (cube_id,))]
        messages = db.execute(
            "SELECT * FROM messages s WHERE s.cube_id = ?1 AND s.text != '' AND (NOT EXISTS (SELECT 1 FROM provenance p"
            f" WHERE p.message_id = s.id) OR EXISTS (SELECT 1 FROM provenance p WHERE p.message_id = s.id"
            f" AND p.memory_id IN ({kept}))) ORDER BY s.rowid",
            (cube_id,),
        ).fetchall()
        links = db.execute(
            f"SELECT p.memory_id, p.message_id FROM provenance p JOIN messages s ON s.id = p.message_id"
            f" WHERE s.text != '' AND p.memory_id IN ({kept}) ORDER BY s.rowid",
            (cube_id,),
        )
        sources: dict[str, list[str]] = {}
        for link in links:
            sources.setdefault(link["memory_id"], []).append(link["message_id"])
        vectors = db.execute(
            "SELECT m.id, v.vector FROM vectors v JOIN memories m ON m.rowid = v.memory WHERE m.cube_id = ?"
            " AND m.status = 'active'",
            (cube_id,),
        )
        documents = db.execute("SELECT * FROM documents WHERE cube_id = ? ORDER BY created_at, id", (cube_id,))
        deleted = db.execute("SELECT id FROM memories WHERE cube_id = ? AND status = 'deleted'", (cube_id,))
        return cls(
            memories,
            [(row["conversation"], message_of(row)) for row in messages],
            sources,
            [line for memory in memories for line in _change_lines(db, memory)],
            [document_of(row) for row in documents],
            {row["id"]: np.frombuffer(row["vector"], np.float16) for row in vectors},
            {row["id"] for row in deleted},
        )


def _change_lines(db: sqlite3.Connection, memory: Memory) -> list[ChangeLine]:
    return [
        ChangeLine(memory=memory.id, at=c.at, action=c.action, version=c.version, text=c.text, detail=c.detail)
        for c in changes_of(db, memory.id)
    ]


def _attachments(memories: Sequence[Memory], attach: Attach) -> Iterable[Attachment]:
    active = {memory.label: memory for memory in memories if memory.status == "active"}
    for stored in attach({label: memory.text for label, memory in active.items()}):
        ids = tuple(active[label].id for label in sorted(stored.labels))
        yield Attachment(SegmentLine(name=stored.name, memories=ids, note=stored.note), stored.content)


def _loaded(cube: Cube, contents: Contents, memories: Sequence[Memory]) -> Loaded:
    paired = list(zip(contents.memories, memories, strict=True))
    by_id = {line.id: (line.label, memory) for line, memory in paired}
    return Loaded(
        cube,
        len(memories),
        [memory for line, memory in paired if line.computed and line.status == "active"],
        contents.manifest.fingerprint,
        [Attached(line.name, line.note, dict(by_id[id] for id in line.memories)) for line in contents.segments],
    )


def _memory_line(memory: Memory, places: dict[str, int], rows: _Rows, computed: Collection[str]) -> MemoryLine:
    fields = _without(memory, "cube_id")
    del fields["revision"]  # a loaded memory begins anew
    if memory.replaced_by not in places:
        fields["replaced_by"] = None
    if memory.follows is not None and places.get(memory.follows, len(places)) >= places[memory.id]:
        fields["follows"] = None
    return MemoryLine(**fields, sources=tuple(rows.sources.get(memory.id, ())), computed=memory.label in computed)


def _without(item: Any, name: str) -> dict[str, Any]:
    return {key: getattr(item, key) for key in item.__dataclass_fields__ if key != name}


def _texts_before(id: str, follows: dict[str, str | None], texts: dict[str, str]) -> list[str]:
    """The texts of the two memories before this one, the nearest first."""
    found: list[str] = []
    before = follows.get(id)
    while before is not None and len(found) < 2 and before in texts:
        found.append(texts[before])
        before = follows.get(before)
    return found


def _follows_any(id: str, follows: dict[str, str | None], deleted: set[str]) -> bool:
    first = follows.get(id)
    second = None if first is None else follows.get(first)
    return first in deleted or second in deleted


@dataclass(frozen=True)
class _Fresh:
    """What is to be inserted, with new ids."""

    memories: list[Memory]
    messages: list[tuple[str | None, Message]]
    sources: list[tuple[str, str]]
    changes: list[tuple[str, float, str, int, str | None, str]]
    documents: list[Document]

    @classmethod
    def of(cls, contents: Contents, cube: Cube) -> _Fresh:
        """Raises ``InvalidMemory``."""
        checked_fidelity(cube.fidelity)
        ids = {line.id: "mem_" + secrets.token_hex(12) for line in contents.memories}
        said = {line.id: "msg_" + secrets.token_hex(12) for line in contents.messages}
        files = {line.id: "doc_" + secrets.token_hex(12) for line in contents.documents}
        everything = {**ids, **said, **files}
        return cls(
            [_fresh_memory(line, cube.id, ids, files) for line in contents.memories],
            [(line.conversation, _fresh_message(line, said)) for line in contents.messages],
            [(ids[line.id], said[source]) for line in contents.memories for source in line.sources],
            [
                (ids[c.memory], c.at, c.action, c.version, c.text, checked_metadata(_renamed(c.detail, everything)))
                for c in contents.changes
            ],
            [
                Document(
                    files[line.id],
                    cube.id,
                    checked_document_name(line.name),
                    line.digest,
                    line.n_chunks,
                    line.created_at,
                )
                for line in contents.documents
            ],
        )


def _fresh_memory(line: MemoryLine, cube_id: str, ids: dict[str, str], files: dict[str, str]) -> Memory:
    fields = {name: getattr(line, name) for name in MemoryLine.model_fields if name not in ("sources", "computed")}
    metadata = dict(line.metadata)
    if isinstance(document := metadata.get("document"), str) and document in files:
        metadata["document"] = files[document]
    checked_metadata(metadata)
    fields |= {
        "id": ids[line.id],
        "cube_id": cube_id,
        "text": checked_text(line.text),
        "tags": checked_tags(line.tags),
        "metadata": metadata,
        "replaced_by": None if line.replaced_by is None else ids[line.replaced_by],
        "follows": None if line.follows is None else ids[line.follows],
    }
    return Memory(**fields)


def _fresh_message(line: MessageLine, ids: dict[str, str]) -> Message:
    message = Message(
        ids[line.id], line.role, line.text, line.sent_at, line.author, line.utc_offset, dict(line.metadata)
    )
    return checked_message(message)


def _renamed(value: Any, ids: dict[str, str]) -> Any:
    """The same with new ids; those of what is not in the bundle are None, so that they name nothing else."""
    if isinstance(value, str):
        return ids.get(value, None if _ID.fullmatch(value) else value)
    if isinstance(value, list):
        return [_renamed(item, ids) for item in value]
    if isinstance(value, dict):
        return {key: _renamed(item, ids) for key, item in value.items()}
    return value


def _check_free(db: sqlite3.Connection, cube: Cube) -> None:
    """Raises ``Conflict`` when the tenant has a cube of that name."""
    known = db.execute("SELECT 1 FROM cubes WHERE tenant = ? AND name = ?", (cube.tenant, cube.name)).fetchone()
    if known is not None:
        raise Conflict(f"There is a cube named '{cube.name}' already.")


def _insert_cube(db: sqlite3.Connection, cube: Cube) -> None:
    _check_free(db, cube)
    db.execute(
        "INSERT INTO cubes (id, tenant, name, created_at, fidelity) VALUES (?, ?, ?, ?, ?)",
        (cube.id, cube.tenant, cube.name, cube.created_at, cube.fidelity),
    )
    note_cube(cube.id)
