"""Cubes: made, listed, shared, deleted."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection

from memory.checks import checked_fidelity
from memory.domain.jobs import end_messages
from memory.errors import Conflict, InvalidMemory, NotFound
from memory.search.index import SearchIndex
from memory.storage.access import check_revision, find_cube
from memory.storage.base import Storage
from memory.storage.ticket import note_cube, uncounted
from memory.types import Access, Cube, Grant, Group, Memory, unstorable

DEFAULT_CUBE = "default"
_MAX_NAME_CHARS = 200


class CubeStore:
    """Everything about cubes as a whole."""

    def __init__(self, storage: Storage, index: SearchIndex) -> None:
        self._storage = storage
        self._index = index

    def get(self, tenant: str, cube_id: str, need: Access = "read") -> Cube:
        """Return a cube by id, or one's own by name. Raises ``NotFound``, ``Forbidden``."""
        return find_cube(self._storage, tenant, cube_id, need)

    def create(self, tenant: str, name: str, fidelity: str | None = None) -> Cube:
        """Create a cube. Raises ``InvalidMemory`` for a bad name or fidelity, ``Conflict`` when the tenant has a cube
        of that name."""
        name = checked_name(name)
        cube = Cube("cube_" + secrets.token_hex(12), tenant, name, time.time(), checked_fidelity(fidelity))
        with self._storage.write() as tx:
            tx.cubes.insert(cube)
        return cube

    def set_fidelity(
        self, tenant: str, cube_id: str, fidelity: str | None, expected: Collection[int] | None = None
    ) -> Cube:
        """Say how exact the KV of the cube's memories must be; None: as the server says. ``expected`` are the revisions
        that may be changed (None: any). Raises ``Stale`` for another one, ``NotFound``, ``Forbidden``,
        ``InvalidMemory``."""
        with self._storage.write() as tx:
            cube = tx.cubes.find(tenant, cube_id, "write")
            check_revision(cube, expected)
            tx.cubes.set_fidelity(cube.id, checked_fidelity(fidelity))
            return tx.cubes.find(tenant, cube.id)

    def all(self, tenant: str) -> list[Cube]:
        """Return the tenant's own cubes, then those that others share with it, each in order of creation."""
        with self._storage.read() as tx:
            return tx.cubes.visible(tenant)

    def default(self, tenant: str) -> Cube:
        """Return the cube that is meant when none is named; made at first use."""
        return self.named(tenant, DEFAULT_CUBE)

    def own(self, tenant: str, name: str) -> Cube:
        """Return one's own cube of that name; an id is no name. Raises ``NotFound``."""
        with self._storage.read() as tx:
            cube = tx.cubes.named(tenant, name.strip())
        if cube is None:
            raise NotFound("cube", name)
        note_cube(cube.id)
        return cube

    def named(self, tenant: str, name: str) -> Cube:
        """Return ``own``, made where there is none. Raises ``InvalidMemory``."""
        try:
            return self.own(tenant, name)
        except NotFound:
            pass
        try:
            with uncounted():  # a retry finds it, and that is all
                return self.create(tenant, name)
        except Conflict:  # another thread was faster
            return self.own(tenant, name)

    def delete(self, tenant: str, cube_id: str, expected: Collection[int] | None = None) -> list[Memory]:
        """Delete one's own cube with all its memories and messages, which are overwritten. The memories are returned
        as they were. ``expected`` as for ``set_fidelity``. Raises ``NotFound``, ``Stale``."""
        with self._storage.write() as tx:
            cube = self._own(tenant, cube_id)
            check_revision(cube, expected)
            memories = tx.lists.of_cube(cube.id)
            end_messages(tx, tenant, lambda id, _: id == cube.id)
            tx.cubes.remove(cube.id)
            self._index.forget(cube.id)
            self._index.erasures += 1
        self._index.overwrite_deleted()
        return [memory for memory in memories if memory.status != "deleted"]

    # -- sharing ---------------------------------------------------------------------------------------------

    def share(self, tenant: str, cube_id: str, principal: str, access: Access) -> Grant:
        """Let another tenant, or a group (by its id, or one's own by name), read or change one's own cube. Raises
        ``NotFound``, ``InvalidMemory``."""
        if access not in ("read", "write"):
            raise InvalidMemory("Access is read or write.", "access")
        with self._storage.write() as tx:
            cube = self._own(tenant, cube_id)
            grant = Grant(cube.id, self._principal(tenant, principal), access)
            tx.cubes.share(grant)
        return grant

    def unshare(self, tenant: str, cube_id: str, principal: str) -> None:
        """Take a grant back. Raises ``NotFound``."""
        with self._storage.write() as tx:
            cube = self._own(tenant, cube_id)
            if not tx.cubes.unshare(cube.id, self._principal(tenant, principal)):
                raise NotFound("grant", principal)

    def grants(self, tenant: str, cube_id: str) -> list[Grant]:
        """Return who else may use one's own cube. Raises ``NotFound``."""
        cube = self._own(tenant, cube_id)
        with self._storage.read() as tx:
            return tx.cubes.grants(cube.id)

    def set_group(self, tenant: str, name: str, members: list[str]) -> Group:
        """Make one's own group of that name, or change who is in it. Raises ``InvalidMemory``."""
        name = checked_name(name)
        if not all(checked_name(member) for member in members) or len(members) > 10_000:
            raise InvalidMemory("A group has at most 10000 members.", "members")
        with self._storage.write() as tx:
            tx.cubes.set_group("group_" + secrets.token_hex(12), tenant, name, members)
        return self.group(tenant, name)

    def group(self, tenant: str, name: str) -> Group:
        """Return one's own group, by name or id. Raises ``NotFound``."""
        with self._storage.read() as tx:
            group = tx.cubes.group(tenant, name)
        if group is None:
            raise NotFound("group", name)
        return group

    def _principal(self, tenant: str, principal: str) -> str:
        if principal.startswith("group:"):
            return self.group(tenant, principal.removeprefix("group:")).id
        return checked_name(principal)

    def _own(self, tenant: str, cube_id: str) -> Cube:
        """Return a cube only to its owner, who may delete or share it: for others there is no such cube."""
        cube = self.get(tenant, cube_id)
        if cube.tenant != tenant:
            raise NotFound("cube", cube_id)
        return cube


def checked_name(name: str) -> str:
    """Return a name without white space around it. Raises ``InvalidMemory``."""
    if not name.strip() or len(name) > _MAX_NAME_CHARS or unstorable(name):
        raise InvalidMemory(f"A name has 1 to {_MAX_NAME_CHARS} characters.", "name")
    return name.strip()
