"""Documents: files kept as memories of kind ``document``, chunk by chunk, so that a cube is a knowledge base."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memory.checks import checked_text, unstorable
from memory.domain.lifecycle import KeepingMethods
from memory.errors import InvalidMemory, NotFound, UnreadableDocument
from memory.language import parsing
from memory.language.chunking import Chunk, chunks_of
from memory.language.parsing import Block
from memory.search.index import Findable
from memory.search.vectors import Vector
from memory.storage.sqlite.rows import find_cube, insert_noted, mark_deleted, memory_of, note_change
from memory.types import Memory

MAX_DOCUMENT_BYTES = 16 << 20
SUFFIXES = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
_MEDIA_TYPES = {
    "text/plain": "txt",
    "text/markdown": "md",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
}
_MAX_NAME_CHARS = 500
_READ_TIMEOUT_S = 90.0
_CHUNKS = "SELECT rowid AS row, * FROM memories WHERE cube_id = ? AND status != 'deleted'"
_CHUNKS += " AND json_extract(metadata, '$.document') = ? ORDER BY rowid"


@dataclass(frozen=True)
class Document:
    """A file that a cube knows. ``digest`` is of its bytes; ``created_at`` in Unix seconds."""

    id: str
    cube_id: str
    name: str
    digest: str
    n_chunks: int
    created_at: float


@dataclass(frozen=True)
class Imported:
    """What became of a file, and the memories that its text took the place of: what was computed from them is to be
    removed."""

    action: Literal["added", "replaced", "unchanged"]
    document: Document
    replaced: list[Memory]


class DocumentMethods(KeepingMethods):
    """Adding, listing and deleting documents. A chunk belongs to its document by its metadata: one whose metadata was
    changed to name none is a memory of its own, and stays when the document goes."""

    def add_document(
        self, tenant: str, cube_id: str, name: str, data: bytes, media_type: str | None = None
    ) -> Imported:
        """Keep a file's text as memories; a file of the same name is replaced, the same bytes again change nothing.
        Raises ``NotFound``, ``Forbidden``, ``InvalidMemory``, ``UnreadableDocument``, ``StorageFull``,
        ``EmbedderError``."""
        cube = self.cube(tenant, cube_id, "write")
        name = checked_document_name(name)
        kind = kind_of_file(name, media_type)
        digest = hashlib.blake2b(data, digest_size=32).hexdigest()
        with self._database.read() as db:
            known = _find(db, cube.id, name=name)
        if known is not None and known.digest == digest:
            return Imported("unchanged", known, [])
        chunks = chunks_of(read_document(data, kind))
        if not chunks:
            raise UnreadableDocument("The file cannot be read: it holds no text.")
        document = Document("doc_" + secrets.token_hex(12), cube.id, name, digest, len(chunks), time.time())
        memories = _memories(document, chunks)
        vectors = self._embeddings.in_a_row([memory.text for memory in memories])
        return self._replace_document(tenant, document, memories, vectors)

    def documents(self, tenant: str, cube_id: str) -> list[Document]:
        """A cube's documents by name. Raises ``NotFound``."""
        cube = self.cube(tenant, cube_id)
        with self._database.read() as db:
            rows = db.execute("SELECT * FROM documents WHERE cube_id = ? ORDER BY name", (cube.id,)).fetchall()
        return [document_of(row) for row in rows]

    def delete_document(self, tenant: str, cube_id: str, document_id: str) -> list[Memory]:
        """Delete a document with its chunks, as memories are deleted; they are returned. Raises ``NotFound``,
        ``Forbidden``."""
        cube = self.cube(tenant, cube_id, "write")
        with self._writing() as (db, changed):
            document = _find(db, cube.id, id=document_id)
            if document is None:
                raise NotFound("document", document_id)
            rows, gone = self._remove_document(db, document)
            changed += gone
        self._after_removal(rows)
        return [memory_of(row) for row in rows]

    def _replace_document(
        self, tenant: str, document: Document, memories: Sequence[Memory], vectors: Sequence[Vector]
    ) -> Imported:
        rows: list[sqlite3.Row] = []
        with self._writing() as (db, changed):
            find_cube(db, tenant, document.cube_id, "write")  # reading a file takes a while: it may be gone by now
            known = _find(db, document.cube_id, name=document.name)
            if known is not None and known.digest == document.digest:  # another request was faster
                return Imported("unchanged", known, [])
            if known is not None:
                rows, gone = self._remove_document(db, known)
                changed += gone
            insert_document(db, document)
            for memory, vector in zip(memories, vectors, strict=True):
                row = insert_noted(db, memory, "added")
                changed.append(self._make_findable(db, row, memory, vector, context=""))
        self._after_removal(rows)
        return Imported("added" if known is None else "replaced", document, [memory_of(row) for row in rows])

    def _remove_document(self, db: sqlite3.Connection, document: Document) -> tuple[list[sqlite3.Row], list[Findable]]:
        """Take a document and its chunks out of use; the rows of the chunks as they were."""
        rows = db.execute(_CHUNKS, (document.cube_id, document.id)).fetchall()
        gone = [self._make_unfindable(db, row["row"], document.cube_id) for row in rows]
        for row in rows:
            mark_deleted(db, row["row"])
            note_change(db, memory_of(row), "deleted", detail={"document": document.id})
        db.execute("DELETE FROM documents WHERE id = ?", (document.id,))
        return rows, gone

    def _after_removal(self, rows: Sequence[sqlite3.Row]) -> None:
        if rows and self.undelete_s <= 0:
            self._forget_rows([row["row"] for row in rows])


def kind_of_file(name: str, media_type: str | None) -> str:
    """What kind of file it is: by its media type where that is a known one, else by its name. Raises
    ``UnreadableDocument``."""
    declared = (media_type or "").partition(";")[0].strip().lower()
    kind = _MEDIA_TYPES.get(declared) or SUFFIXES.get(Path(name).suffix.lower())
    if kind is None:
        raise UnreadableDocument(f"Files of this kind cannot be read; those that can: {', '.join(parsing.KINDS)}.")
    return kind


def read_document(data: bytes, kind: str) -> list[Block]:
    """The paragraphs of a file. Raises ``UnreadableDocument``."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UnreadableDocument(f"A document has at most {MAX_DOCUMENT_BYTES >> 20} MiB.")
    if kind in ("txt", "md"):
        try:
            blocks = parsing.parse(data, kind)
        except parsing.Unreadable as error:
            raise UnreadableDocument(f"The file cannot be read: {error}.") from error
    else:
        blocks = _read_apart(data, kind)
    return [Block(text, _storable(b.heading), b.page) for b in blocks if (text := _storable(b.text).strip())]


def _read_apart(data: bytes, kind: str) -> list[Block]:
    """Parse in a process of its own (see ``memory.language.parsing``)."""
    command = [sys.executable, "-I", parsing.__file__, kind]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_READ_TIMEOUT_S, check=False, env={})
    except subprocess.TimeoutExpired as error:
        raise UnreadableDocument("The file cannot be read: it takes too long.") from error
    if done.returncode < 0:
        raise UnreadableDocument("The file cannot be read: it takes too long or too much memory.")
    if done.returncode or not done.stdout:
        raise UnreadableDocument("The file cannot be read: its parser failed.")
    reply: dict[str, Any] = json.loads(done.stdout)
    if "error" in reply:
        raise UnreadableDocument(f"The file cannot be read: {reply['error']}.")
    return [Block(**block) for block in reply["blocks"]]


def _storable(text: str) -> str:
    """Without control characters and half characters, which parsers let through."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", " ", text)


def checked_document_name(name: str) -> str:
    """A file's name without white space around it. Raises ``InvalidMemory``."""
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


def insert_document(db: sqlite3.Connection, document: Document) -> None:
    """Write a document's row."""
    db.execute(
        "INSERT INTO documents (id, cube_id, name, digest, n_chunks, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (document.id, document.cube_id, document.name, document.digest, document.n_chunks, document.created_at),
    )


def _find(db: sqlite3.Connection, cube_id: str, *, id: str | None = None, name: str | None = None) -> Document | None:
    row = db.execute(
        "SELECT * FROM documents WHERE cube_id = ?1 AND (id = ?2 OR name = ?3)", (cube_id, id, name)
    ).fetchone()
    return None if row is None else document_of(row)


def document_of(row: sqlite3.Row) -> Document:
    """The document a row stands for."""
    return Document(row["id"], row["cube_id"], row["name"], row["digest"], row["n_chunks"], row["created_at"])
