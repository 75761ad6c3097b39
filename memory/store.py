"""The side store: plaintext memories in cubes, with hybrid search."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memory.checks import checked_fidelity, checked_kind, checked_metadata, checked_status, checked_text, unstorable
from memory.database import Database
from memory.embed import Embedder
from memory.errors import Conflict, InvalidMemory, NotFound
from memory.keys import KeyStore
from memory.rows import Vector, active_memories, cube_of, find_row, memory_of, text_ranking, wipe, write_vector
from memory.search import MIN_COSINE, VectorIndex, fuse
from memory.types import STATUSES, Cube, Hit, Memory

log = logging.getLogger(__name__)

DEFAULT_CUBE = "default"
_MAX_NAME_CHARS = 200
_REEMBED_BATCH = 256
# FTS5 overwrites deleted text by itself from this version on; before, the index has to be merged for that.
_FTS_SECURE_DELETE = sqlite3.sqlite_version_info >= (3, 42, 0)


@dataclass(frozen=True)
class Page:
    """Part of a list; ``next`` is the cursor of the part that follows, None at the end."""

    items: list[Memory]
    next: str | None


class MemoryStore:
    """Memories of all tenants in one SQLite file. Every method is bound to the tenant it is given: another
    tenant's id is ``NotFound``. May be called from any thread; blocks while it works."""

    def __init__(self, path: Path, embedder: Embedder) -> None:
        self._database = Database(path)
        self._embedder = embedder
        self._indexes: dict[str, VectorIndex] = {}
        self.keys = KeyStore(self._database)

    # -- cubes -----------------------------------------------------------------------------------------------

    def create_cube(self, tenant: str, name: str, fidelity: str | None = None) -> Cube:
        """Raises ``InvalidMemory`` for a bad name or fidelity, ``Conflict`` when the tenant has a cube of that name."""
        if not name.strip() or len(name) > _MAX_NAME_CHARS or unstorable(name):
            raise InvalidMemory(f"A cube's name has 1 to {_MAX_NAME_CHARS} characters.", "name")
        cube = Cube("cube_" + secrets.token_hex(12), tenant, name.strip(), time.time(), checked_fidelity(fidelity))
        try:
            with self._database.write() as db:
                values = (cube.id, tenant, cube.name, cube.created_at, cube.fidelity)
                db.execute("INSERT INTO cubes VALUES (?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"There is a cube named '{cube.name}' already.") from error
        return cube

    def set_fidelity(self, tenant: str, cube_id: str, fidelity: str | None) -> Cube:
        """Say how exact the KV of the cube's memories must be; None: as the server says. Raises ``NotFound``,
        ``InvalidMemory``."""
        cube = self.cube(tenant, cube_id)
        with self._database.write() as db:
            db.execute("UPDATE cubes SET fidelity = ? WHERE id = ?", (checked_fidelity(fidelity), cube.id))
        return self.cube(tenant, cube.id)

    def cubes(self, tenant: str) -> list[Cube]:
        with self._database.read() as db:
            rows = db.execute("SELECT * FROM cubes WHERE tenant = ? ORDER BY created_at, id", (tenant,)).fetchall()
        return [cube_of(row) for row in rows]

    def cube(self, tenant: str, cube_id: str) -> Cube:
        """A cube by id, or by name. Raises ``NotFound``."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT * FROM cubes WHERE tenant = ? AND (id = ? OR name = ?) ORDER BY id = ? DESC",
                (tenant, cube_id, cube_id, cube_id),
            ).fetchone()
        if row is None:
            raise NotFound("cube", cube_id)
        return cube_of(row)

    def default_cube(self, tenant: str) -> Cube:
        """The cube that is meant when none is named; made at first use."""
        try:
            return self.cube(tenant, DEFAULT_CUBE)
        except NotFound:
            pass
        try:
            return self.create_cube(tenant, DEFAULT_CUBE)
        except Conflict:  # another thread was faster
            return self.cube(tenant, DEFAULT_CUBE)

    def delete_cube(self, tenant: str, cube_id: str) -> list[Memory]:
        """Delete a cube with all its memories, which are returned as they were. Raises ``NotFound``."""
        cube = self.cube(tenant, cube_id)
        with self._database.write() as db:
            rows = db.execute("SELECT * FROM memories WHERE cube_id = ?", (cube.id,)).fetchall()
            for row in rows:
                wipe(db, row["rowid"], row["id"])
            db.execute("DELETE FROM memories WHERE cube_id = ?", (cube.id,))
            db.execute("DELETE FROM cubes WHERE id = ?", (cube.id,))
            self._indexes.pop(cube.id, None)
        self._merge_text_index()
        return [memory_of(row) for row in rows if row["status"] != "deleted"]

    # -- memories --------------------------------------------------------------------------------------------

    def add(
        self,
        tenant: str,
        cube_id: str,
        text: str,
        *,
        kind: str = "fact",
        owner: str | None = None,
        pinned: bool = False,
        event_at: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Memory:
        """Store a memory; it is on disk when this returns. Raises ``InvalidMemory``, ``NotFound`` (cube),
        ``StorageFull``, ``EmbedderError``."""
        cube = self.cube(tenant, cube_id)
        now = time.time()
        memory = Memory(
            id="mem_" + secrets.token_hex(12),
            cube_id=cube.id,
            owner=owner,
            kind=checked_kind(kind),
            text=checked_text(text),
            status="active",
            pinned=pinned,
            version=1,
            created_at=now,
            updated_at=now,
            event_at=event_at,
            metadata=metadata or {},
        )
        encoded = checked_metadata(memory.metadata)
        vector = self._embed(memory.text)
        with self._database.write() as db:
            db.execute(
                "INSERT INTO memories (id, cube_id, owner, kind, text, status, pinned, version, created_at,"
                " updated_at, event_at, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    memory.id,
                    memory.cube_id,
                    memory.owner,
                    memory.kind,
                    memory.text,
                    memory.status,
                    memory.pinned,
                    memory.version,
                    memory.created_at,
                    memory.updated_at,
                    memory.event_at,
                    encoded,
                ),
            )
            self._write_search_rows(db, memory, vector)
        self._index_put(memory, vector)
        return memory

    def get(self, tenant: str, memory_id: str) -> Memory:
        """Raises ``NotFound``, also for a deleted memory."""
        with self._database.read() as db:
            return memory_of(find_row(db, tenant, memory_id))

    def list_memories(
        self,
        tenant: str,
        cube_id: str | None = None,
        *,
        kind: str | None = None,
        status: str = "active",
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """Memories in order of creation. ``after`` is the ``next`` of the page before. Raises ``NotFound``,
        ``InvalidMemory`` (kind, status)."""
        if status not in STATUSES or status == "deleted":
            raise InvalidMemory(f"'{status}' is not a status that can be listed.", "status")
        where, values = ["c.tenant = ?", "m.status = ?"], [tenant, status]
        if cube_id is not None:
            where.append("m.cube_id = ?")
            values.append(self.cube(tenant, cube_id).id)
        if kind is not None:
            where.append("m.kind = ?")
            values.append(checked_kind(kind))
        with self._database.read() as db:
            if after is not None:
                where.append("m.rowid > ?")
                values.append(find_row(db, tenant, after, with_deleted=True)["rowid"])
            rows = db.execute(
                "SELECT m.* FROM memories m JOIN cubes c ON c.id = m.cube_id"  # noqa: S608 - conditions are constants
                f" WHERE {' AND '.join(where)} ORDER BY m.rowid LIMIT ?",
                (*values, limit + 1),
            ).fetchall()
        items = [memory_of(row) for row in rows[:limit]]
        return Page(items, items[-1].id if len(rows) > limit else None)

    def standing(self, tenant: str, cube_id: str) -> list[Memory]:
        """Active memories that are pinned or make up the profile, in order of creation: part of every prompt.
        Raises ``NotFound``."""
        cube = self.cube(tenant, cube_id)
        with self._database.read() as db:
            rows = db.execute(
                "SELECT * FROM memories WHERE cube_id = ? AND status = 'active' AND (pinned OR kind = 'profile')"
                " ORDER BY rowid",
                (cube.id,),
            ).fetchall()
        return [memory_of(row) for row in rows]

    def update(
        self,
        tenant: str,
        memory_id: str,
        *,
        text: str | None = None,
        kind: str | None = None,
        pinned: bool | None = None,
        event_at: float | None = None,
        metadata: dict[str, Any] | None = None,
        status: str | None = None,
    ) -> Memory:
        """Change what is given; a new text makes a new version and keeps the old one as history. Raises
        ``NotFound``, ``InvalidMemory``, ``StorageFull``, ``EmbedderError``."""
        old = self.get(tenant, memory_id)
        new = replace(
            old,
            text=old.text if text is None else checked_text(text),
            kind=old.kind if kind is None else checked_kind(kind),
            pinned=old.pinned if pinned is None else pinned,
            event_at=old.event_at if event_at is None else event_at,
            metadata=old.metadata if metadata is None else metadata,
            status=old.status if status is None else checked_status(status),
            updated_at=time.time(),
        )
        encoded = checked_metadata(new.metadata)
        changed = new.text != old.text
        new = replace(new, version=old.version + 1) if changed else new
        vector = self._embed(new.text)
        with self._database.write() as db:
            row = find_row(db, tenant, memory_id)
            if row["version"] != old.version:
                raise Conflict("The memory was changed by another request meanwhile; read it again.")
            if changed:
                db.execute(
                    "INSERT INTO memory_versions VALUES (?, ?, ?, ?)", (old.id, old.version, old.text, new.updated_at)
                )
            db.execute(
                "UPDATE memories SET text = ?, kind = ?, pinned = ?, event_at = ?, metadata = ?, status = ?,"
                " version = ?, updated_at = ? WHERE id = ?",
                (
                    new.text,
                    new.kind,
                    new.pinned,
                    new.event_at,
                    encoded,
                    new.status,
                    new.version,
                    new.updated_at,
                    new.id,
                ),
            )
            db.execute("DELETE FROM memory_text WHERE rowid = ?", (row["rowid"],))
            db.execute("DELETE FROM vectors WHERE memory_id = ?", (new.id,))
            if new.status == "active":
                self._write_search_rows(db, new, vector)
        if new.status == "active":
            self._index_put(new, vector)
        else:
            self._index_remove(new)
        return new

    def history(self, tenant: str, memory_id: str) -> list[tuple[int, str]]:
        """Earlier versions of a memory's text, oldest first. Raises ``NotFound``."""
        with self._database.read() as db:
            find_row(db, tenant, memory_id)
            rows = db.execute(
                "SELECT version, text FROM memory_versions WHERE memory_id = ? ORDER BY version", (memory_id,)
            ).fetchall()
        return [(row["version"], row["text"]) for row in rows]

    def delete(self, tenant: str, memory_id: str) -> Memory:
        """Delete a memory and overwrite its text, its versions' texts and its search rows. The memory as it was
        is returned. Raises ``NotFound``."""
        with self._database.write() as db:
            row = find_row(db, tenant, memory_id)
            memory = memory_of(row)
            wipe(db, row["rowid"], memory.id)
            db.execute(
                "UPDATE memories SET status = 'deleted', text = '', metadata = '{}', pinned = 0, updated_at = ?"
                " WHERE id = ?",
                (time.time(), memory.id),
            )
        self._index_remove(memory)
        self._merge_text_index()
        return memory

    # -- search ----------------------------------------------------------------------------------------------

    def search(
        self,
        tenant: str,
        query: str,
        *,
        cube_ids: Sequence[str],
        top_k: int = 5,
        kinds: Sequence[str] | None = None,
    ) -> list[Hit]:
        """The ``top_k`` best active memories of these cubes, best first. Raises ``NotFound``, ``InvalidMemory``,
        ``EmbedderError``."""
        cubes = [self.cube(tenant, cube_id).id for cube_id in dict.fromkeys(cube_ids)]
        wanted = {checked_kind(kind) for kind in kinds} if kinds is not None else None
        if top_k < 1 or not cubes or not query.strip():
            return []
        vector = self._embed(query)
        depth = max(50, 4 * top_k)
        with self._database.read() as db:
            by_text = text_ranking(db, query, cubes, depth)
            by_vector = self._vector_ranking(db, vector, cubes, depth)
            scores = fuse([by_text, by_vector])
            memories = active_memories(db, list(scores))
        text_rank = {id: rank for rank, id in enumerate(by_text, start=1)}
        vector_rank = {id: rank for rank, id in enumerate(by_vector, start=1)}
        hits = [
            Hit(memory, scores[memory.id], text_rank.get(memory.id), vector_rank.get(memory.id))
            for memory in memories
            if wanted is None or memory.kind in wanted
        ]
        hits.sort(key=lambda hit: (-hit.score, -hit.memory.created_at, hit.memory.id))
        return hits[:top_k]

    def _vector_ranking(self, db: sqlite3.Connection, query: Vector, cubes: list[str], depth: int) -> list[str]:
        found: list[tuple[str, float]] = []
        for cube in cubes:
            found += self._index(db, cube).nearest(query, depth, MIN_COSINE)
        found.sort(key=lambda pair: -pair[1])
        return [id for id, _ in found[:depth]]

    def _index(self, db: sqlite3.Connection, cube_id: str) -> VectorIndex:
        """The cube's vectors in memory; read, and re-embedded where another embedder made them, at first use."""
        index = self._indexes.get(cube_id)
        if index is None:
            index = VectorIndex()
            for id, vector in self._current_vectors(db, cube_id):
                index.put(id, vector)
            self._indexes[cube_id] = index
        return index

    def _current_vectors(self, db: sqlite3.Connection, cube_id: str) -> list[tuple[str, Vector]]:
        rows = db.execute(
            "SELECT m.id, m.text, v.embedder, v.vector FROM memories m LEFT JOIN vectors v ON v.memory_id = m.id"
            " WHERE m.cube_id = ? AND m.status = 'active' ORDER BY m.rowid",
            (cube_id,),
        ).fetchall()
        name = self._embedder.name
        stale = [row for row in rows if row["embedder"] != name]
        vectors = {row["id"]: np.frombuffer(row["vector"], np.float32) for row in rows if row["embedder"] == name}
        if stale:
            log.info("embedding %d memories anew: the embedder has changed", len(stale))
        for begin in range(0, len(stale), _REEMBED_BATCH):
            batch = stale[begin : begin + _REEMBED_BATCH]
            fresh = self._embedder.embed([row["text"] for row in batch])
            with self._database.write() as writable:
                for row, vector in zip(batch, fresh, strict=True):
                    vectors[row["id"]] = vector
                    write_vector(writable, row["id"], name, vector)
        return list(vectors.items())

    # -- upkeep ----------------------------------------------------------------------------------------------

    def count(self, tenant: str) -> int:
        """Number of the tenant's active memories."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT count(*) FROM memories m JOIN cubes c ON c.id = m.cube_id"
                " WHERE c.tenant = ? AND m.status = 'active'",
                (tenant,),
            ).fetchone()
        return int(row[0])

    def labels_of(self, tenant: str) -> set[str]:
        """Labels of the tenant's active memories."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT m.id, m.version FROM memories m JOIN cubes c ON c.id = m.cube_id"
                " WHERE c.tenant = ? AND m.status = 'active'",
                (tenant,),
            ).fetchall()
        return _labels(rows)

    def active_labels(self) -> set[str]:
        """Labels (``Memory.label``) of all active memories of all tenants: what segments may stand for."""
        with self._database.read() as db:
            rows = db.execute("SELECT id, version FROM memories WHERE status = 'active'").fetchall()
        return _labels(rows)

    def check(self) -> None:
        """Raises ``StoreCorrupt`` when the file's structure is damaged."""
        self._database.check()

    def close(self) -> None:
        self._database.close()

    def _embed(self, text: str) -> Vector:
        vector: Vector = self._embedder.embed([text])[0]
        return vector

    def _write_search_rows(self, db: sqlite3.Connection, memory: Memory, vector: Vector) -> None:
        db.execute("INSERT INTO memory_text (rowid, text) SELECT rowid, text FROM memories WHERE id = ?", (memory.id,))
        write_vector(db, memory.id, self._embedder.name, vector)

    def _index_put(self, memory: Memory, vector: Vector) -> None:
        with self._database.read():
            if memory.cube_id in self._indexes:
                self._indexes[memory.cube_id].put(memory.id, vector)

    def _index_remove(self, memory: Memory) -> None:
        with self._database.read():
            if memory.cube_id in self._indexes:
                self._indexes[memory.cube_id].remove(memory.id)

    def _merge_text_index(self) -> None:
        """Rewrite the full-text index without what was deleted, and truncate the log that still holds it."""
        if not _FTS_SECURE_DELETE:
            with self._database.write() as db:
                db.execute("INSERT INTO memory_text (memory_text) VALUES ('optimize')")
        with self._database.read() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _labels(rows: Iterable[sqlite3.Row]) -> set[str]:
    """``Memory.label`` of rows of id and version."""
    return {f"{row['id']}@{row['version']}" for row in rows}
