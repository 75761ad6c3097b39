"""Cubes, grants and groups as rows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

from memory.errors import Conflict, Forbidden, NotFound
from memory.storage.sqlite.rows import GRANTED, VISIBLE, cube_of
from memory.storage.ticket import note_cube
from memory.types import Access, Cube, Grant, Group


class SqliteCubes:
    """See ``memory.storage.content.Cubes``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def find(self, tenant: str, cube: str, need: Access = "read") -> Cube:
        cube = cube.strip()  # as names are
        row = self._db.execute(
            f"SELECT * FROM cubes WHERE (id = :cube AND id IN {VISIBLE}) OR (tenant = :tenant AND name = :cube)"
            " ORDER BY id = :cube DESC",
            {"tenant": tenant, "cube": cube},
        ).fetchone()
        if row is None:
            raise NotFound("cube", cube)
        note_cube(row["id"])
        if need == "write" and row["tenant"] != tenant:
            check_writable(self._db, tenant, row["id"])
        return cube_of(row)

    def named(self, tenant: str, name: str) -> Cube | None:
        row = self._db.execute("SELECT * FROM cubes WHERE tenant = ? AND name = ?", (tenant, name)).fetchone()
        return None if row is None else cube_of(row)

    def name_of(self, cube_id: str) -> str | None:
        row = self._db.execute("SELECT name FROM cubes WHERE id = ?", (cube_id,)).fetchone()
        return None if row is None else str(row["name"])

    def visible(self, tenant: str) -> list[Cube]:
        rows = self._db.execute(
            f"SELECT * FROM cubes WHERE id IN {VISIBLE} ORDER BY tenant != :tenant, created_at, id",
            {"tenant": tenant},
        )
        return [cube_of(row) for row in rows]

    def insert(self, cube: Cube) -> None:
        try:
            self._db.execute(
                "INSERT INTO cubes (id, tenant, name, created_at, fidelity) VALUES (?, ?, ?, ?, ?)",
                (cube.id, cube.tenant, cube.name, cube.created_at, cube.fidelity),
            )
        except sqlite3.IntegrityError as error:
            raise Conflict(f"There is a cube named '{cube.name}' already.") from error
        note_cube(cube.id)

    def set_fidelity(self, cube_id: str, fidelity: str | None) -> None:
        self._db.execute("UPDATE cubes SET fidelity = ?, revision = revision + 1 WHERE id = ?", (fidelity, cube_id))

    def remove(self, cube_id: str) -> None:
        memories = "SELECT rowid FROM memories WHERE cube_id = ?"
        ids = "SELECT id FROM memories WHERE cube_id = ?"
        for statement in (
            f"DELETE FROM memory_text WHERE rowid IN ({memories})",
            f"DELETE FROM vectors WHERE memory IN ({memories})",
            f"DELETE FROM mentions WHERE memory IN ({memories})",
            f"DELETE FROM memory_changes WHERE memory_id IN ({ids})",
            f"DELETE FROM provenance WHERE memory_id IN ({ids})",
            "DELETE FROM entities WHERE cube_id = ?",
            "DELETE FROM messages WHERE cube_id = ?",
            "DELETE FROM feedback WHERE cube_id = ?",
            "DELETE FROM documents WHERE cube_id = ?",
            "DELETE FROM grants WHERE cube_id = ?",
            "DELETE FROM memories WHERE cube_id = ?",
            "DELETE FROM cubes WHERE id = ?",
        ):
            self._db.execute(statement, (cube_id,))

    def share(self, grant: Grant) -> None:
        values = (grant.cube_id, grant.principal, grant.access, time.time())
        self._db.execute("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", values)

    def unshare(self, cube_id: str, principal: str) -> bool:
        values = (cube_id, principal)
        return self._db.execute("DELETE FROM grants WHERE cube_id = ? AND principal = ?", values).rowcount > 0

    def grants(self, cube_id: str) -> list[Grant]:
        rows = self._db.execute("SELECT * FROM grants WHERE cube_id = ? ORDER BY principal", (cube_id,))
        return [Grant(row["cube_id"], row["principal"], row["access"]) for row in rows]

    def set_group(self, id: str, tenant: str, name: str, members: Iterable[str]) -> None:
        db = self._db
        db.execute("INSERT OR IGNORE INTO groups VALUES (?, ?, ?)", (id, tenant, name))
        (known,) = db.execute("SELECT id FROM groups WHERE tenant = ? AND name = ?", (tenant, name)).fetchone()
        db.execute("DELETE FROM group_members WHERE group_id = ?", (known,))
        pairs = [(known, member) for member in members]
        db.executemany("INSERT OR IGNORE INTO group_members VALUES (?, ?)", pairs)

    def group(self, tenant: str, name: str) -> Group | None:
        row = self._db.execute(
            "SELECT * FROM groups WHERE tenant = ? AND (name = ? OR id = ?)", (tenant, name, name)
        ).fetchone()
        if row is None:
            return None
        members = self._db.execute("SELECT member FROM group_members WHERE group_id = ? ORDER BY member", (row["id"],))
        return Group(row["id"], row["name"], tuple(member["member"] for member in members))


def check_writable(db: sqlite3.Connection, tenant: str, cube_id: str) -> None:
    """Refuse a cube of another tenant that was not shared for writing. Raises ``Forbidden``."""
    row = db.execute(
        f"SELECT 1 FROM cubes c WHERE c.id = :cube AND (c.tenant = :tenant OR EXISTS (SELECT 1 FROM ({GRANTED}) x"
        " WHERE x.cube_id = c.id AND x.access = 'write'))",
        {"tenant": tenant, "cube": cube_id},
    ).fetchone()
    if row is None:
        raise Forbidden(f"The cube '{cube_id}' may be read, not changed.")
