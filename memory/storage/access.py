"""Look-ups and checks that come before a change."""

from __future__ import annotations

from collections.abc import Collection

from memory.errors import Stale
from memory.storage.base import Storage
from memory.types import Access, Cube, Memory


def find_cube(storage: Storage, tenant: str, cube: str, need: Access = "read") -> Cube:
    """Return a cube by id, or one's own by name. Raises ``NotFound``, ``Forbidden``."""
    with storage.read() as tx:
        return tx.cubes.find(tenant, cube, need)


def check_revision(found: Memory | Cube, expected: Collection[int] | None) -> None:
    """Refuse a memory or cube of none of the ``expected`` revisions (None: any). Raises ``Stale``."""
    if expected is not None and found.revision not in expected:
        raise Stale(found.revision)
