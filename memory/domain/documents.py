"""Documents: files kept as memories of kind ``document``, chunk by chunk, so that a cube is a knowledge base."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from memory.checks import checked_text
from memory.domain.discretion import Discretion
from memory.domain.erasing import Erasing
from memory.domain.merging import insert
from memory.errors import InvalidMemory, NotFound, UnreadableDocument
from memory.language.chunking import Chunk, chunks_of
from memory.language.reading import kind_of_file, read_document
from memory.search.index import IndexChange, SearchIndex
from memory.storage.access import find_cube
from memory.storage.base import Storage, Transaction
from memory.storage.records import StoredMemory
from memory.types import Document, Memory, Vector, unstorable

_MAX_NAME_CHARS = 500


@dataclass(frozen=True)
class Imported:
    """The outcome for a file, and the memories that its text took the place of: what was computed from them is to be
    removed."""

    action: Literal["added", "replaced", "unchanged"]
    document: Document
    replaced: list[Memory]


class DocumentStore:
    """Adding, listing and deleting documents. A chunk belongs to its document by its metadata: one whose metadata was
    changed to name none is a memory of its own, and stays when the document goes."""

    def __init__(
        self, storage: Storage, index: SearchIndex, erasing: Erasing, discretion: Discretion | None = None
    ) -> None:
        self._storage = storage
        self._index = index
        self._erasing = erasing
        self._discretion = discretion or Discretion()

    def add(self, tenant: str, cube_id: str, name: str, data: bytes, media_type: str | None = None) -> Imported:
        """Keep a file's text as memories; a file of the same name is replaced, the same bytes again change nothing.
        Raises ``NotFound``, ``Forbidden``, ``InvalidMemory``, ``UnreadableDocument``, ``StorageFull``,
        ``EmbedderError``."""
        cube = find_cube(self._storage, tenant, cube_id, "write")
        name = checked_document_name(name)
        kind = kind_of_file(name, media_type)
        digest = hashlib.blake2b(data, digest_size=32).hexdigest()
        with self._storage.read() as tx:
            known = tx.documents.find(cube.id, name=name)
        if known is not None and known.digest == digest:
            return Imported("unchanged", known, [])
        chunks = chunks_of(read_document(data, kind))
        chunks = [replace(chunk, text=text) for chunk in chunks if (text := self._discretion.without(chunk.text))]
        if not chunks:
            raise UnreadableDocument("The file cannot be read: it holds no text.")
        document = Document("doc_" + secrets.token_hex(12), cube.id, name, digest, len(chunks), time.time())
        memories = _memories(document, chunks)
        vectors = self._index.embeddings.in_a_row([memory.text for memory in memories])
        return self._replace(tenant, document, memories, vectors)

    def all(self, tenant: str, cube_id: str) -> list[Document]:
        """Return a cube's documents by name. Raises ``NotFound``."""
        cube = find_cube(self._storage, tenant, cube_id)
        with self._storage.read() as tx:
            return tx.documents.of_cube(cube.id)

    def delete(self, tenant: str, cube_id: str, document_id: str) -> list[Memory]:
        """Delete a document with its chunks, as memories are deleted; they are returned. Raises ``NotFound``,
        ``Forbidden``."""
        cube = find_cube(self._storage, tenant, cube_id, "write")
        with self._index.writing() as (tx, changed):
            document = tx.documents.find(cube.id, id=document_id)
            if document is None:
                raise NotFound("document", document_id)
            chunks, gone = self._remove(tx, document)
            changed += gone
        self._after_removal(chunks)
        return [chunk.memory for chunk in chunks]

    def _replace(
        self, tenant: str, document: Document, memories: Sequence[Memory], vectors: Sequence[Vector]
    ) -> Imported:
        chunks: list[StoredMemory] = []
        with self._index.writing() as (tx, changed):
            tx.cubes.find(tenant, document.cube_id, "write")  # reading a file takes a while: it may be gone by now
            known = tx.documents.find(document.cube_id, name=document.name)
            if known is not None and known.digest == document.digest:  # another request was faster
                return Imported("unchanged", known, [])
            if known is not None:
                chunks, gone = self._remove(tx, known)
                changed += gone
            tx.documents.insert(document)
            for memory, vector in zip(memories, vectors, strict=True):
                changed.append(self._index.add(tx, insert(tx, memory), memory, vector, context=""))
        self._after_removal(chunks)
        replaced = [chunk.memory for chunk in chunks]
        return Imported("added" if known is None else "replaced", document, replaced)

    def _remove(self, tx: Transaction, document: Document) -> tuple[list[StoredMemory], list[IndexChange]]:
        """Take a document and its chunks out of use; return the chunks as they were."""
        chunks = tx.memories.of_document(document.cube_id, document.id)
        gone = [self._index.remove(tx, chunk.number, document.cube_id) for chunk in chunks]
        for chunk in chunks:
            tx.memories.mark_deleted(chunk.number)
            tx.history.add(chunk.memory, "deleted", detail={"document": document.id})
        tx.documents.remove(document.id)
        return chunks, gone

    def _after_removal(self, chunks: Sequence[StoredMemory]) -> None:
        if chunks and self._erasing.undelete_s <= 0:
            self._erasing.forget_memories([chunk.number for chunk in chunks])


def checked_document_name(name: str) -> str:
    """Check a file's name; return it without white space around it. Raises ``InvalidMemory``."""
    name = name.strip()
    if not name or len(name) > _MAX_NAME_CHARS or unstorable(name) or not name.isprintable():
        raise InvalidMemory(f"A document's name has 1 to {_MAX_NAME_CHARS} printable characters.", "name")
    return name


def _memories(document: Document, chunks: Sequence[Chunk]) -> list[Memory]:
    memories: list[Memory] = []
    for i, chunk in enumerate(chunks):
        metadata: dict[str, Any] = {"document": document.id, "name": document.name, "chunk": i}
        metadata["heading"] = chunk.heading
        if chunk.page is not None:
            metadata["page"] = chunk.page
        memories.append(
            Memory(
                id="mem_" + secrets.token_hex(12),
                cube_id=document.cube_id,
                owner=None,
                kind="document",
                text=checked_text(chunk.text),
                status="active",
                pinned=False,
                version=1,
                created_at=document.created_at,
                updated_at=document.created_at,
                metadata=metadata,
                follows=memories[-1].id if memories else None,
            )
        )
    return memories
