"""Cubes: made, listed, shared, deleted."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Collection
from dataclasses import dataclass

from memory.checks import checked_fidelity, unstorable
from memory.domain.jobs import end_messages
from memory.errors import Conflict, InvalidMemory, NotFound
from memory.search.index import StoreBase
from memory.storage.sqlite.database import note_cube, uncounted
from memory.storage.sqlite.rows import VISIBLE, check_revision, cube_of, memory_of
from memory.storage.sqlite.wiping import wipe_cube
from memory.types import Access, Cube, Memory

DEFAULT_CUBE = "default"
_MAX_NAME_CHARS = 200


@dataclass(frozen=True)
class Grant:
    """Who else may use a cube: ``principal`` is a tenant, or the id of a group."""

    cube_id: str
    principal: str
    access: Access


@dataclass(frozen=True)
class Group:
    """A set of tenants that cubes can be shared with at once. Owned by the tenant that made it."""

    id: str
    name: str
    members: tuple[str, ...]


class CubeMethods(StoreBase):
    """Everything about cubes as a whole."""

    def create_cube(self, tenant: str, name: str, fidelity: str | None = None) -> Cube:
        """Raises ``InvalidMemory`` for a bad name or fidelity, ``Conflict`` when the tenant has a cube of that name."""
        name = checked_name(name)
        cube = Cube("cube_" + secrets.token_hex(12), tenant, name, time.time(), checked_fidelity(fidelity))
        try:
            with self._database.write() as db:
                values = (cube.id, tenant, cube.name, cube.created_at, cube.fidelity)
                db.execute("INSERT INTO cubes (id, tenant, name, created_at, fidelity) VALUES (?, ?, ?, ?, ?)", values)
                note_cube(cube.id)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"There is a cube named '{cube.name}' already.") from error
        return cube

    def set_fidelity(
        self, tenant: str, cube_id: str, fidelity: str | None, expected: Collection[int] | None = None
    ) -> Cube:
        """Say how exact the KV of the cube's memories must be; None: as the server says. ``expected`` are the revisions
        that may be changed (None: any). Raises ``Stale`` for another one, ``NotFound``, ``Forbidden``,
        ``InvalidMemory``."""
        with self._database.write() as db:
            cube = self.cube(tenant, cube_id, "write")
            check_revision(cube, expected)
            values = (checked_fidelity(fidelity), cube.id)
            db.execute("UPDATE cubes SET fidelity = ?, revision = revision + 1 WHERE id = ?", values)
            return self.cube(tenant, cube.id)

    def cubes(self, tenant: str) -> list[Cube]:
        """The tenant's own cubes, then those that others share with it, each in order of creation."""
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT * FROM cubes WHERE id IN {VISIBLE} ORDER BY tenant != :tenant, created_at, id",
                {"tenant": tenant},
            ).fetchall()
        return [cube_of(row) for row in rows]

    def default_cube(self, tenant: str) -> Cube:
        """The cube that is meant when none is named; made at first use."""
        return self.named_cube(tenant, DEFAULT_CUBE)

    def own_cube(self, tenant: str, name: str) -> Cube:
        """One's own cube of that name; an id is no name. Raises ``NotFound``."""
        with self._database.read() as db:
            row = db.execute("SELECT * FROM cubes WHERE tenant = ? AND name = ?", (tenant, name.strip())).fetchone()
        if row is None:
            raise NotFound("cube", name)
        note_cube(row["id"])
        return cube_of(row)

    def named_cube(self, tenant: str, name: str) -> Cube:
        """``own_cube``, made where there is none. Raises ``InvalidMemory``."""
        try:
            return self.own_cube(tenant, name)
        except NotFound:
            pass
        try:
            with uncounted():  # a retry finds it, and that is all
                return self.create_cube(tenant, name)
        except Conflict:  # another thread was faster
            return self.own_cube(tenant, name)

    def delete_cube(self, tenant: str, cube_id: str, expected: Collection[int] | None = None) -> list[Memory]:
        """Delete one's own cube with all its memories and messages, which are overwritten. The memories are returned
        as they were. ``expected`` as for ``set_fidelity``. Raises ``NotFound``, ``Stale``."""
        with self._database.write() as db:
            cube = self._own(tenant, cube_id)
            check_revision(cube, expected)
            rows = db.execute("SELECT * FROM memories WHERE cube_id = ?", (cube.id,)).fetchall()
            end_messages(db, tenant, lambda id, _: id == cube.id)
            wipe_cube(db, cube.id)
            self._forget_index(cube.id)
            self._erasures += 1
        self._overwrite_deleted()
        return [memory_of(row) for row in rows if row["status"] != "deleted"]

    # -- sharing ---------------------------------------------------------------------------------------------

    def share(self, tenant: str, cube_id: str, principal: str, access: Access) -> Grant:
        """Let another tenant, or a group (by its id, or one's own by name), read or change one's own cube. Raises
        ``NotFound``, ``InvalidMemory``."""
        if access not in ("read", "write"):
            raise InvalidMemory("Access is read or write.", "access")
        with self._database.write() as db:
            cube = self._own(tenant, cube_id)
            grant = Grant(cube.id, self._principal(tenant, principal), access)
            db.execute(
                "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", (cube.id, grant.principal, access, time.time())
            )
        return grant

    def unshare(self, tenant: str, cube_id: str, principal: str) -> None:
        """Take a grant back. Raises ``NotFound``."""
        with self._database.write() as db:
            cube = self._own(tenant, cube_id)
            values = (cube.id, self._principal(tenant, principal))
            if db.execute("DELETE FROM grants WHERE cube_id = ? AND principal = ?", values).rowcount == 0:
                raise NotFound("grant", principal)

    def grants(self, tenant: str, cube_id: str) -> list[Grant]:
        """Who else may use one's own cube. Raises ``NotFound``."""
        cube = self._own(tenant, cube_id)
        with self._database.read() as db:
            rows = db.execute("SELECT * FROM grants WHERE cube_id = ? ORDER BY principal", (cube.id,)).fetchall()
        return [Grant(row["cube_id"], row["principal"], row["access"]) for row in rows]

    def set_group(self, tenant: str, name: str, members: list[str]) -> Group:
        """Make one's own group of that name, or change who is in it. Raises ``InvalidMemory``."""
        name = checked_name(name)
        if not all(checked_name(member) for member in members) or len(members) > 10_000:
            raise InvalidMemory("A group has at most 10000 members.", "members")
        with self._database.write() as db:
            db.execute(
                "INSERT OR IGNORE INTO groups VALUES (?, ?, ?)", ("group_" + secrets.token_hex(12), tenant, name)
            )
            (id,) = db.execute("SELECT id FROM groups WHERE tenant = ? AND name = ?", (tenant, name)).fetchone()
            db.execute("DELETE FROM group_members WHERE group_id = ?", (id,))
            db.executemany("INSERT OR IGNORE INTO group_members VALUES (?, ?)", [(id, member) for member in members])
        return self.group(tenant, name)

    def group(self, tenant: str, name: str) -> Group:
        """One's own group, by name or id. Raises ``NotFound``."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT * FROM groups WHERE tenant = ? AND (name = ? OR id = ?)", (tenant, name, name)
            ).fetchone()
            if row is None:
                raise NotFound("group", name)
            members = db.execute("SELECT member FROM group_members WHERE group_id = ? ORDER BY member", (row["id"],))
            return Group(row["id"], row["name"], tuple(member["member"] for member in members))

    def _principal(self, tenant: str, principal: str) -> str:
        if principal.startswith("group:"):
            return self.group(tenant, principal.removeprefix("group:")).id
        return checked_name(principal)

    def _own(self, tenant: str, cube_id: str) -> Cube:
        """Only a cube's owner may delete or share it: for others there is no such cube."""
        cube = self.cube(tenant, cube_id)
        if cube.tenant != tenant:
            raise NotFound("cube", cube_id)
        return cube


def checked_name(name: str) -> str:
    """A name without white space around it. Raises ``InvalidMemory``."""
    if not name.strip() or len(name) > _MAX_NAME_CHARS or unstorable(name):
        raise InvalidMemory(f"A name has 1 to {_MAX_NAME_CHARS} characters.", "name")
    return name.strip()
