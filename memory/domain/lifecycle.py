"""Memories after they were added: read, listed, changed, deleted, brought back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from memory.checks import checked_kind, checked_metadata, checked_status, checked_tags, checked_text
from memory.domain.discretion import Discretion
from memory.domain.erasing import Erasing
from memory.domain.merging import restated
from memory.domain.standing import compared
from memory.errors import InvalidMemory
from memory.search.filters import parse_filter
from memory.search.index import SearchIndex
from memory.storage.access import check_revision, find_cube
from memory.storage.base import Storage, Transaction
from memory.storage.records import Listing
from memory.types import STATUSES, Change, Memory, Message


@dataclass(frozen=True)
class Page:
    """Part of a list; ``next`` is the cursor of the part that follows, None at the end."""

    items: list[Memory]
    next: str | None


Overlay = Literal["replace", "set", "merge"]
"""Metadata that are given stand for all (``replace``), are set key by key (``set``), or are a JSON Merge Patch
(``merge``, RFC 7396): objects within are merged, null removes a key."""


@dataclass(frozen=True)
class Changed:
    """A memory as it was, and as it is: no other change came between the two."""

    before: Memory
    after: Memory


class Lifecycle:
    """The life of memories that there are."""

    def __init__(
        self, storage: Storage, index: SearchIndex, erasing: Erasing, discretion: Discretion | None = None
    ) -> None:
        self._storage = storage
        self._index = index
        self._erasing = erasing
        self._discretion = discretion or Discretion()

    def get(self, tenant: str, memory_id: str) -> Memory:
        """Return a memory. Raises ``NotFound``, also for a deleted one."""
        with self._storage.read() as tx:
            return tx.memories.find(tenant, memory_id).memory

    def list_memories(
        self,
        tenant: str,
        cube_id: str | None = None,
        *,
        kind: str | None = None,
        status: str = "active",
        limit: int = 50,
        after: str | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Page:
        """List memories in order of creation, of one cube or of all one's own. ``after`` is the ``next`` of the page
        before. ``deleted`` ones are those that can be brought back. Raises ``NotFound``, ``InvalidMemory``."""
        if status not in STATUSES:
            raise InvalidMemory(f"'{status}' is not a status; there are {', '.join(STATUSES)}.", "status")
        cube = None if cube_id is None else find_cube(self._storage, tenant, cube_id).id
        listing = Listing(tenant, cube, status, None if kind is None else checked_kind(kind))
        condition = parse_filter(filter or {})
        with self._storage.read() as tx:
            if after is not None:
                listing = replace(listing, after=tx.memories.find(tenant, after, with_deleted=True).number)
            found = tx.lists.page(listing, condition, limit + 1)
        items = found[:limit]
        return Page(items, items[-1].id if len(found) > limit else None)

    def standing(self, tenant: str, cube_id: str) -> list[Memory]:
        """Return active memories that are pinned, make up the profile or are standing instructions, in order of
        creation: part of every prompt. Raises ``NotFound``."""
        cube = find_cube(self._storage, tenant, cube_id)
        with self._storage.read() as tx:
            return tx.lists.standing(cube.id)

    def update(self, tenant: str, memory_id: str, **fields: Any) -> Memory:
        """Change a memory as ``change`` does; return it as it is then."""
        return self.change(tenant, memory_id, **fields).after

    def change(
        self,
        tenant: str,
        memory_id: str,
        *,
        overlay: Overlay = "replace",
        expected: Collection[int] | None = None,
        **fields: Any,
    ) -> Changed:
        """Change the ``fields`` that are given (None: as they are), and nothing else, whatever others change at the
        same time. They are text, kind, status, pinned, event_at, event_until, tags, importance, expires_at and
        metadata, which ``overlay`` says how to take. A new text makes a new version and keeps the old one as history.

        ``expected`` are the revisions that may be changed (None: any). Raises ``Stale`` for another one, ``NotFound``,
        ``Forbidden``, ``InvalidMemory``, ``StorageFull``, ``EmbedderError``.
        """
        given = _checked({name: value for name, value in fields.items() if value is not None})
        if "text" in given:
            given["text"] = self._discretion.memory(given["text"])
        known = self.get(tenant, memory_id)
        planned = _with(known, given, overlay)
        if _is_found_otherwise(known, planned):
            self._index.embed_ahead(planned)
        with self._index.writing() as (tx, changed):
            stored = tx.memories.find(tenant, memory_id, need="write")
            old = stored.memory
            check_revision(old, expected)
            new = tx.memories.update(_with(old, given, overlay))
            tx.history.add(new, _action(old, new), None if new.text == old.text else old.text)
            if _is_found_otherwise(old, new):
                changed.append(self._index.remove(tx, stored.number, new.cube_id))
                if new.status == "active":
                    vector = self._index.vector_in_place(tx, new)
                    changed[:] = [self._index.add(tx, stored.number, new, vector)]
        return Changed(old, new)

    def history(self, tenant: str, memory_id: str) -> list[Change]:
        """Return what was done to a memory, oldest first. Raises ``NotFound``."""
        with self._storage.read() as tx:
            tx.memories.find(tenant, memory_id)
            return tx.history.of(memory_id)

    def sources(self, tenant: str, memory_id: str) -> list[Message]:
        """Return the messages that a memory is from, in order. Raises ``NotFound``."""
        with self._storage.read() as tx:
            tx.memories.find(tenant, memory_id)
            return tx.sources.of(memory_id)

    def messages(self, tenant: str, cube_id: str, session: str | None = None, limit: int = 50) -> list[Message]:
        """Return the last messages of a cube, or of one conversation in it, oldest first. Raises ``NotFound``."""
        cube = find_cube(self._storage, tenant, cube_id)
        with self._storage.read() as tx:
            return tx.messages.last(cube.id, session, limit)

    def count(self, tenant: str) -> int:
        """Count the active memories in the tenant's own cubes."""
        with self._storage.read() as tx:
            return tx.lists.count(tenant)

    def labels_of(self, tenant: str) -> set[str]:
        """Return the labels of the active memories that the tenant may read."""
        with self._storage.read() as tx:
            return tx.lists.labels_of(tenant)

    def active_labels(self) -> set[str]:
        """Return the labels (``Memory.label``) of all active memories of all tenants: what segments may stand for."""
        with self._storage.read() as tx:
            return tx.lists.all_labels()

    # -- the end of a memory ---------------------------------------------------------------------------------

    def delete(self, tenant: str, memory_id: str, expected: Collection[int] | None = None) -> Memory:
        """Take a memory out of use at once; for ``undelete_s`` seconds it can be brought back, then it is forgotten
        (0: forgotten now). The memory as it was is returned. ``expected`` as for ``change``. Raises ``NotFound``,
        ``Forbidden``, ``Stale``."""
        if self._erasing.undelete_s <= 0:
            return self._erasing.forget(tenant, memory_id, expected).memory
        with self._index.writing() as (tx, changed):
            stored = tx.memories.find(tenant, memory_id, need="write")
            memory = stored.memory
            check_revision(memory, expected)
            changed.append(self._index.remove(tx, stored.number, memory.cube_id))
            tx.memories.mark_deleted(stored.number)
            tx.history.add(memory, "deleted")
        return memory

    def undelete(self, tenant: str, memory_id: str) -> Memory:
        """Bring a deleted memory back as it was. Raises ``NotFound`` (also when it is too late), ``Forbidden``."""
        with self._storage.read() as tx:
            stored = tx.memories.find(tenant, memory_id, with_deleted=True, need="write")
        if stored.deleted_at is not None:
            self._index.embed_ahead(stored.memory)
        with self._index.writing() as (tx, changed):
            stored = tx.memories.find(tenant, memory_id, with_deleted=True, need="write")
            if stored.deleted_at is None or stored.deleted_at + self._erasing.undelete_s < time.time():
                tx.memories.find(tenant, memory_id)  # not deleted: it stays; too late: not found
                return stored.memory
            # Another version: what was computed from the one that was deleted stays refused.
            old = stored.memory
            memory = replace(old, status=stored.status_before or "active", version=old.version + 1)
            memory = tx.memories.update(_as_history_where_replaced(tx, memory))
            tx.memories.unmark_deleted(stored.number)
            tx.history.add(memory, "undeleted")
            if memory.status == "active":
                vector = self._index.vector_in_place(tx, memory)
                changed.append(self._index.add(tx, stored.number, memory, vector))
        return memory


def _as_history_where_replaced(tx: Transaction, memory: Memory) -> Memory:
    """Archive what comes back when a newer memory holds its place by now."""
    if memory.kind == "instruction" and memory.status == "active":
        newer = compared(tx, memory).newer
        return memory if newer is None else replace(memory, status="archived", replaced_by=newer.id)
    if memory.slot is None or memory.status != "active":
        return memory
    holders = tx.memories.by_slot(memory.cube_id, memory.slot, memory.owner)
    return replace(memory, status="archived", replaced_by=holders[0].memory.id) if holders else memory


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a change as they are stored. Raises ``InvalidMemory``."""
    checks: dict[str, Callable[[Any], Any]] = {
        "text": checked_text,
        "kind": checked_kind,
        "status": checked_status,
        "tags": checked_tags,
    }
    return {name: checks[name](value) if name in checks else value for name, value in given.items()}


def _with(old: Memory, given: Mapping[str, Any], overlay: Overlay) -> Memory:
    """Return the memory with these fields. Raises ``InvalidMemory``."""
    new = replace(old, **{name: value for name, value in given.items() if name != "metadata"}, updated_at=time.time())
    if "metadata" in given:
        new = replace(new, metadata=_overlaid(old.metadata, given["metadata"], overlay))
        checked_metadata(new.metadata)
    if new.text != old.text or (new.status == "active" and old.status != "active"):
        new = replace(new, version=old.version + 1)
    return restated(new) if new.text != old.text else new


def _is_found_otherwise(old: Memory, new: Memory) -> bool:
    return new.label != old.label or new.status != old.status


def _overlaid(old: dict[str, Any], given: dict[str, Any], overlay: Overlay) -> dict[str, Any]:
    if overlay == "replace":
        return given
    if overlay == "set":
        return {**old, **given}
    merged: dict[str, Any] = _merged(old, given)
    return merged


def _merged(old: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _action(old: Memory, new: Memory) -> str:
    if old.text != new.text:
        return "updated"
    return new.status if old.status != new.status else "changed"
