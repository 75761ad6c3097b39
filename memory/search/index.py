"""What all parts of the side store work with: the database, the embedder, and the vectors in memory."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memory.search.embed import Embedder
from memory.search.embedding import Embeddings
from memory.search.graph_files import SavedGraphs
from memory.search.vectors import CubeIndex, Vector
from memory.storage.sqlite.database import Database
from memory.storage.sqlite.rows import (
    LIVE,
    VISIBLE,
    context_of,
    find_cube,
    memory_of,
    remove_search_rows,
    vector_of,
    write_search_rows,
    write_text_rows,
    write_vector,
)
from memory.types import Access, Cube, Memory

log = logging.getLogger(__name__)

_BATCH = 256
# FTS5 overwrites deleted text by itself from this version on; before, the index has to be made anew for that.
_FTS_SECURE_DELETE = sqlite3.sqlite_version_info >= (3, 42, 0)


@dataclass(frozen=True)
class Findable:
    """A memory that was written or removed in a transaction, for the vectors in memory once it is kept."""

    cube_id: str
    row: int
    vector: Vector | None


class StoreBase:
    """One SQLite file. Every method is bound to the tenant it is given: another tenant's id is ``NotFound``. May be
    called from any thread; blocks while it works."""

    def __init__(self, path: Path, embedder: Embedder) -> None:
        self._database = Database(path)
        self._embeddings = Embeddings(embedder)
        self._indexes: dict[str, CubeIndex] = {}
        self._saved = SavedGraphs(path.with_suffix(".vectors"))
        self._erasures = 0  # how often text was removed: what was read before is not to be written after

    def cube(self, tenant: str, cube_id: str, need: Access = "read") -> Cube:
        """A cube by id, or one's own by name. Raises ``NotFound``, ``Forbidden``."""
        with self._database.read() as db:
            return find_cube(db, tenant, cube_id, need)

    # -- vectors ---------------------------------------------------------------------------------------------

    def _index(self, cube_id: str) -> CubeIndex:
        """The cube's vectors in memory; read, and made anew where another embedder made them, at first use."""
        with self._database.read() as db:
            index = self._indexes.get(cube_id)
            if index is not None:
                return index
            self._embed_missing(db, cube_id)
            index = self._saved.load(db, cube_id, self._embeddings.name) or self._read_index(db, cube_id)
            self._indexes[cube_id] = index
            return index

    @staticmethod
    def _read_index(db: sqlite3.Connection, cube_id: str) -> CubeIndex:
        index = CubeIndex()
        rows = db.execute(
            "SELECT v.memory, v.vector FROM vectors v JOIN memories m ON m.rowid = v.memory"
            " WHERE m.cube_id = ? AND m.status = 'active' ORDER BY v.memory",
            (cube_id,),
        )
        while batch := rows.fetchmany(10_000):
            index.put((row["memory"], vector_of(row["vector"])) for row in batch)
        return index

    def _embed_missing(self, db: sqlite3.Connection, cube_id: str) -> None:
        name = self._embeddings.name
        rows = db.execute(
            # Those that are missing are found from indexes alone: of a large cube, no other rows are read.
            "SELECT m.rowid AS row, m.text, a.text AS before1, b.text AS before2 FROM memories m"
            " LEFT JOIN memories a ON a.id = m.follows LEFT JOIN memories b ON b.id = a.follows"
            " WHERE m.rowid IN (SELECT x.rowid FROM memories x LEFT JOIN vectors v INDEXED BY vectors_written"
            " ON v.memory = x.rowid WHERE x.cube_id = ? AND x.status = 'active' AND v.embedder IS NOT ?)"
            " ORDER BY m.rowid",
            (cube_id, name),
        ).fetchall()
        if rows:
            log.info("embedding %d memories anew: the embedder has changed", len(rows))
        for begin in range(0, len(rows), _BATCH):
            batch = rows[begin : begin + _BATCH]
            before = [[text for text in (row["before1"], row["before2"]) if text] for row in batch]
            fresh = self._embeddings.in_context([row["text"] for row in batch], before)
            with self._database.write() as writable:
                for row, vector in zip(batch, fresh, strict=True):
                    write_vector(writable, row["row"], name, vector)

    def _vector_in_place(self, db: sqlite3.Connection, memory: Memory) -> Vector:
        """A memory's vector, with what was said before it. In a transaction, everybody waits for it: let
        ``_embed_ahead`` come first."""
        return self._embeddings.in_context([memory.text], [self._texts_before(db, memory)])[0]

    def _embed_ahead(self, memory: Memory) -> None:
        """Embed what ``_vector_in_place`` will need, outside of a transaction: there it is then remembered, but for
        texts that were changed in between. Raises ``EmbedderError``."""
        with self._database.read() as db:
            before = self._texts_before(db, memory)
        self._embeddings.of([memory.text, *before])

    @staticmethod
    def _texts_before(db: sqlite3.Connection, memory: Memory) -> list[str]:
        before: list[str] = []
        follows = memory.follows
        while follows is not None and len(before) < 2:
            row = db.execute("SELECT text, follows FROM memories WHERE id = ?", (follows,)).fetchone()
            if row is None or not row["text"]:
                break
            before.append(row["text"])
            follows = row["follows"]
        return before

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, list[Findable]]]:
        """A transaction, and a list for what it makes findable or not. The vectors in memory are brought up to that
        before anybody else reads or writes: of two changes, the later one is what a search finds."""
        changed: list[Findable] = []
        with self._database.read():
            with self._database.write() as db:
                yield db, changed
            self._settle(changed)

    def _make_findable(
        self, db: sqlite3.Connection, row: int, memory: Memory, vector: Vector, context: str | None = None
    ) -> Findable:
        """``context`` is what was said just before; None: to be looked up."""
        said_before = context_of(db, memory.id) if context is None else context
        write_search_rows(db, row, memory, said_before, self._embeddings.name, vector)
        return Findable(memory.cube_id, row, vector)

    @staticmethod
    def _make_unfindable(db: sqlite3.Connection, row: int, cube_id: str) -> Findable:
        remove_search_rows(db, row)
        return Findable(cube_id, row, None)

    def _settle(self, changed: Iterable[Findable]) -> None:
        """Bring the vectors in memory up to what was just kept on disk."""
        with self._database.read() as db:
            puts: dict[str, dict[int, Vector]] = {}
            for item in changed:
                index = self._indexes.get(item.cube_id)
                if index is None:
                    continue
                if item.vector is None:
                    puts.get(item.cube_id, {}).pop(item.row, None)
                    index.remove(item.row)
                else:
                    puts.setdefault(item.cube_id, {})[item.row] = item.vector
            for cube_id, vectors in puts.items():
                there = db.execute(
                    "SELECT memory FROM vectors WHERE memory IN (SELECT value FROM json_each(?))",
                    (json.dumps(list(vectors)),),
                )  # what was deleted since it was kept stays out
                self._indexes[cube_id].put([(row, vectors[row]) for (row,) in there])

    def _forget_index(self, cube_id: str) -> None:
        """Read a cube's vectors anew at next use."""
        with self._database.read():
            self._indexes.pop(cube_id, None)
            self._saved.drop(cube_id)

    # -- upkeep ----------------------------------------------------------------------------------------------

    def reindex(self, tenant: str, cube_id: str) -> int:
        """Make a cube's full text, vectors and names anew from its memories; how many there are. Raises ``NotFound``,
        ``EmbedderError``."""
        cube = self.cube(tenant, cube_id)
        with self._database.write() as db:
            rows = db.execute(
                "SELECT rowid AS row, * FROM memories WHERE cube_id = ? AND status = 'active'", (cube.id,)
            ).fetchall()
            for row in rows:
                remove_search_rows(db, row["row"])
                write_text_rows(db, row["row"], memory_of(row), context_of(db, row["id"]))
            self._forget_index(cube.id)
        self._index(cube.id)
        return len(rows)

    def count(self, tenant: str) -> int:
        """Number of active memories in the tenant's own cubes."""
        with self._database.read() as db:
            (n,) = db.execute(
                f"SELECT count(*) FROM memories m JOIN cubes c ON c.id = m.cube_id WHERE c.tenant = ? AND {LIVE}",
                (tenant,),
            ).fetchone()
        return int(n)

    def labels_of(self, tenant: str) -> set[str]:
        """Labels of the active memories that the tenant may read."""
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT m.id, m.version FROM memories m WHERE {LIVE} AND m.cube_id IN {VISIBLE}",
                {"tenant": tenant},
            ).fetchall()
        return _labels(rows)

    def active_labels(self) -> set[str]:
        """Labels (``Memory.label``) of all active memories of all tenants: what segments may stand for."""
        with self._database.read() as db:
            rows = db.execute(f"SELECT id, version FROM memories WHERE {LIVE}").fetchall()
        return _labels(rows)

    def check(self) -> None:
        """Raises ``StoreCorrupt`` when the file's structure is damaged."""
        self._database.check()

    def close(self) -> None:
        """Save the graphs of large cubes, and close the file."""
        with self._database.read():
            for cube_id, index in self._indexes.items():
                if index.graph is not None:
                    self._saved.save(cube_id, index.graph, self._embeddings.name, index.graph.dim)
            self._indexes.clear()
        self._database.close()

    def _overwrite_deleted(self) -> None:
        """Rewrite the full-text index without what was deleted, and truncate the log that still holds it."""
        if not _FTS_SECURE_DELETE:
            with self._database.write() as db:
                # Not 'optimize': each one adds a level, and FTS5 refuses an index of more than 2000.
                db.execute("INSERT INTO memory_text (memory_text) VALUES ('rebuild')")
        with self._database.read() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._embeddings.forget()


def _labels(rows: Sequence[sqlite3.Row]) -> set[str]:
    """``Memory.label`` of rows of id and version."""
    return {f"{row['id']}@{row['version']}" for row in rows}
