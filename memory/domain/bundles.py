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
from memory.domain.documents import checked_document_name
from memory.errors import Conflict
from memory.search.index import SearchIndex
from memory.storage.access import find_cube
from memory.storage.base import Storage, Transaction
from memory.types import Change, Cube, Document, Memory, Message, Vector

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


class Bundles:
    """Dumping and loading cubes."""

    def __init__(self, storage: Storage, index: SearchIndex) -> None:
        self._storage = storage
        self._index = index

    def dump(
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
        cube = find_cube(self._storage, tenant, cube_id, "write")
        with self._storage.read() as tx:
            self._index.cube(cube.id)  # vectors that are missing, or of another embedder, are made
            rows = _Rows.of(tx, cube.id)
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
            embedder=self._index.embeddings.name,
            fingerprint=fingerprint,
            fidelity=cube.fidelity,  # type: ignore[arg-type]
            counts=counts,
        )
        return Contents(manifest, memories, messages, rows.changes, documents, self._matrix(rows))

    def _matrix(self, rows: _Rows) -> Half:
        """Return vectors, float16 [memories, dim]. One that has something of a deleted memory in it is computed again,
        without."""
        texts = {memory.id: memory.text for memory in rows.memories}
        follows = {memory.id: memory.follows for memory in rows.memories}
        vectors = dict(rows.vectors)
        tainted = [m for m in rows.memories if m.id in vectors and _follows_any(m.id, follows, rows.deleted)]
        for begin in range(0, len(tainted), _BATCH):
            batch = tainted[begin : begin + _BATCH]
            before = [_texts_before(memory.id, follows, texts) for memory in batch]
            fresh = self._index.embeddings.in_context([memory.text for memory in batch], before)
            vectors.update({memory.id: vector for memory, vector in zip(batch, fresh, strict=True)})
        dim = next((len(vector) for vector in vectors.values()), 1)
        matrix = np.zeros((len(rows.memories), dim), dtype=np.float16)
        for i, memory in enumerate(rows.memories):
            if memory.id in vectors:
                matrix[i] = vectors[memory.id]
        return matrix

    def load(self, tenant: str, name: str, source: BinaryIO, *, max_packed_bytes: int | None = None) -> Loaded:
        """Make a new cube of that name from a bundle, or nothing. Everything gets new ids; links, histories and times
        are kept. ``max_packed_bytes`` limits everything in the bundle except segments. Raises ``InvalidMemory`` (also
        for a bad bundle), ``Conflict`` (the name), ``StorageFull``, ``EmbedderError``."""
        name = checked_name(name)
        contents = read_bundle(source, max_packed_bytes)
        cube = Cube("cube_" + secrets.token_hex(12), tenant, name, time.time(), contents.manifest.fidelity)
        with self._storage.read() as tx:
            if tx.cubes.named(tenant, name) is not None:  # known now, since embedding may take a while
                raise Conflict(f"There is a cube named '{name}' already.")
        fresh = _Fresh.of(contents, cube)
        vectors = self._loaded_vectors(contents)
        with self._storage.write() as tx:
            tx.cubes.insert(cube)
            self._write(tx, cube, fresh, vectors)
        return _loaded(cube, contents, fresh.memories)

    def _write(self, tx: Transaction, cube: Cube, fresh: _Fresh, vectors: Sequence[Vector | None]) -> None:
        for conversation, message in fresh.messages:
            tx.messages.insert(cube.id, conversation, message)
        numbers = [tx.memories.insert(memory) for memory in fresh.memories]
        tx.sources.link(fresh.sources)
        tx.messages.infer_ids(cube.id)
        tx.history.add_all(fresh.changes)
        for document in fresh.documents:
            tx.documents.insert(document)
        for number, memory, vector in zip(numbers, fresh.memories, vectors, strict=True):
            if vector is not None:
                self._index.add(tx, number, memory, vector)

    def _loaded_vectors(self, contents: Contents) -> list[Vector | None]:
        """Return a vector for each active memory."""
        lines = contents.memories
        active = [i for i, line in enumerate(lines) if line.status == "active"]
        found: list[Vector | None] = [None] * len(lines)
        if contents.manifest.embedder == self._index.embeddings.name and self._are_ours(contents, active):
            for i in active:
                found[i] = contents.vectors[i].astype(np.float32)
            return found
        texts = {line.id: line.text for line in lines}
        follows = {line.id: line.follows for line in lines}
        for begin in range(0, len(active), _BATCH):
            batch = active[begin : begin + _BATCH]
            before = [_texts_before(lines[i].id, follows, texts) for i in batch]
            fresh = self._index.embeddings.in_context([lines[i].text for i in batch], before)
            for i, vector in zip(batch, fresh, strict=True):
                found[i] = vector
        return found

    def _are_ours(self, contents: Contents, active: Sequence[int]) -> bool:
        """Tell if a sample of the vectors is what this embedder makes of the texts."""
        sample = list(active[:: max(1, len(active) // _SAMPLE)])
        if not sample:
            return True
        made = np.stack(self._index.embeddings.of([contents.memories[i].text for i in sample]))
        there = contents.vectors[sample].astype(np.float32)
        if made.shape != there.shape:
            return False
        telling = np.linalg.norm(made, axis=1) > 0
        return bool(np.all((made * there).sum(1)[telling] >= _MIN_LIKENESS))


@dataclass(frozen=True)
class _Rows:
    """The part of a cube that is dumped. ``vectors`` by memory; ``deleted``: ids of memories that still have a text."""

    memories: list[Memory]
    messages: list[tuple[str | None, Message]]
    sources: dict[str, list[str]]
    changes: list[ChangeLine]
    documents: list[Document]
    vectors: dict[str, Vector]
    deleted: set[str]

    @classmethod
    def of(cls, tx: Transaction, cube_id: str) -> _Rows:
        """Read a cube."""
        every = tx.lists.of_cube(cube_id)
        memories = [memory for memory in every if memory.status != "deleted"]
        documents = tx.documents.of_cube(cube_id)
        return cls(
            memories,
            tx.messages.of_cube(cube_id),
            tx.sources.of_cube(cube_id),
            [_change_line(memory.id, change) for memory in memories for change in tx.history.of(memory.id)],
            sorted(documents, key=lambda document: (document.created_at, document.id)),
            tx.vectors.by_memory(cube_id),
            {memory.id for memory in every if memory.status == "deleted"},
        )


def _change_line(memory_id: str, c: Change) -> ChangeLine:
    return ChangeLine(memory=memory_id, at=c.at, action=c.action, version=c.version, text=c.text, detail=c.detail)


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
    """Return the texts of the two memories before this one, the nearest first."""
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
    """Everything that is to be inserted, with new ids."""

    memories: list[Memory]
    messages: list[tuple[str | None, Message]]
    sources: list[tuple[str, str]]
    changes: list[tuple[str, Change]]
    documents: list[Document]

    @classmethod
    def of(cls, contents: Contents, cube: Cube) -> _Fresh:
        """Give everything in a bundle new ids. Raises ``InvalidMemory``."""
        checked_fidelity(cube.fidelity)
        ids = {line.id: "mem_" + secrets.token_hex(12) for line in contents.memories}
        said = {line.id: "msg_" + secrets.token_hex(12) for line in contents.messages}
        files = {line.id: "doc_" + secrets.token_hex(12) for line in contents.documents}
        everything = {**ids, **said, **files}
        return cls(
            [_fresh_memory(line, cube.id, ids, files) for line in contents.memories],
            [(line.conversation, _fresh_message(line, said)) for line in contents.messages],
            [(ids[line.id], said[source]) for line in contents.memories for source in line.sources],
            [(ids[change.memory], _fresh_change(change, everything)) for change in contents.changes],
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


def _fresh_change(line: ChangeLine, ids: dict[str, str]) -> Change:
    detail = _renamed(line.detail, ids)
    checked_metadata(detail)
    return Change(line.at, line.action, line.version, line.text, detail)


def _fresh_message(line: MessageLine, ids: dict[str, str]) -> Message:
    message = Message(
        ids[line.id], line.role, line.text, line.sent_at, line.author, line.utc_offset, dict(line.metadata)
    )
    return checked_message(message)


def _renamed(value: Any, ids: dict[str, str]) -> Any:
    """Return the same with new ids; those of what is not in the bundle are None, so that they name nothing else."""
    if isinstance(value, str):
        return ids.get(value, None if _ID.fullmatch(value) else value)
    if isinstance(value, list):
        return [_renamed(item, ids) for item in value]
    if isinstance(value, dict):
        return {key: _renamed(item, ids) for key, item in value.items()}
    return value
