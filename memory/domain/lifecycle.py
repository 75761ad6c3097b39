"""Memories after they were added: read, listed, changed, deleted, brought back."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from memory.checks import checked_kind, checked_metadata, checked_status, checked_tags, checked_text
from memory.domain.erasing import ErasingMethods
from memory.domain.merging import restated
from memory.errors import InvalidMemory
from memory.search.filters import compile_filter
from memory.storage.sqlite.rows import (
    LIVE,
    changes_of,
    check_revision,
    find_row,
    mark_deleted,
    memories_of,
    memory_of,
    message_of,
    note_change,
    sources_of,
    update_memory,
)
from memory.types import STATUSES, Change, Memory, Message

# What has expired counts as archived at once.
_OF_STATUS = {
    "active": LIVE,
    "archived": f"(m.status = 'archived' OR (m.status = 'active' AND NOT {LIVE}))",
}


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


class KeepingMethods(ErasingMethods):
    """The life of memories that there are."""

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
        filter: Mapping[str, Any] | None = None,
    ) -> Page:
        """Memories in order of creation, of one cube or of all one's own. ``after`` is the ``next`` of the page before.
        ``deleted`` ones are those that can be brought back. Raises ``NotFound``, ``InvalidMemory``."""
        if status not in STATUSES:
            raise InvalidMemory(f"'{status}' is not a status; there are {', '.join(STATUSES)}.", "status")
        values: list[Any]
        where, values = [_OF_STATUS.get(status, "m.status = ?")], [] if status in _OF_STATUS else [status]
        if cube_id is not None:
            where.append("m.cube_id = ?")
            values.append(self.cube(tenant, cube_id).id)
        else:
            where.append("m.cube_id IN (SELECT id FROM cubes WHERE tenant = ?)")
            values.append(tenant)
        if status == "deleted":
            where.append("m.deleted_at IS NOT NULL")
        if kind is not None:
            where.append("m.kind = ?")
            values.append(checked_kind(kind))
        if filter:
            condition, more = compile_filter(filter)
            where.append(condition)
            values += more
        with self._database.read() as db:
            if after is not None:
                where.append("m.rowid > ?")
                values.append(find_row(db, tenant, after, with_deleted=True)["row"])
            rows = db.execute(
                f"SELECT m.* FROM memories m WHERE {' AND '.join(where)} ORDER BY m.rowid LIMIT ?",
                (*values, limit + 1),
            ).fetchall()
        items = memories_of(rows[:limit])
        return Page(items, items[-1].id if len(rows) > limit else None)

    def standing(self, tenant: str, cube_id: str) -> list[Memory]:
        """Active memories that are pinned or make up the profile, in order of creation: part of every prompt.
        Raises ``NotFound``."""
        cube = self.cube(tenant, cube_id)
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT * FROM memories WHERE cube_id = ? AND {LIVE} AND (pinned OR kind = 'profile') ORDER BY rowid",
                (cube.id,),
            ).fetchall()
        return memories_of(rows)

    def update(self, tenant: str, memory_id: str, **fields: Any) -> Memory:
        """``change``, and the memory as it is then."""
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
        known = self.get(tenant, memory_id)
        planned = _with(known, given, overlay)
        if _is_found_otherwise(known, planned):
            self._embed_ahead(planned)
        with self._writing() as (db, changed):
            row = find_row(db, tenant, memory_id, need="write")
            old = memory_of(row)
            check_revision(old, expected)
            new = update_memory(db, _with(old, given, overlay))
            note_change(db, new, _action(old, new), None if new.text == old.text else old.text)
            if _is_found_otherwise(old, new):
                changed.append(self._make_unfindable(db, row["row"], new.cube_id))
                if new.status == "active":
                    changed[:] = [self._make_findable(db, row["row"], new, self._vector_in_place(db, new))]
        return Changed(old, new)

    def history(self, tenant: str, memory_id: str) -> list[Change]:
        """What was done to a memory, oldest first. Raises ``NotFound``."""
        with self._database.read() as db:
            find_row(db, tenant, memory_id)
            return changes_of(db, memory_id)

    def sources(self, tenant: str, memory_id: str) -> list[Message]:
        """The messages that a memory is from, in order. Raises ``NotFound``."""
        with self._database.read() as db:
            find_row(db, tenant, memory_id)
            return sources_of(db, memory_id)

    def messages(self, tenant: str, cube_id: str, session: str | None = None, limit: int = 50) -> list[Message]:
        """The last messages of a cube, or of one conversation in it, oldest first. Raises ``NotFound``."""
        cube = self.cube(tenant, cube_id)
        with self._database.read() as db:
            rows = db.execute(
                "SELECT * FROM messages WHERE cube_id = ?1 AND (?2 IS NULL OR conversation = ?2) AND text != ''"
                " ORDER BY rowid DESC LIMIT ?3",
                (cube.id, session, limit),
            ).fetchall()
        return [message_of(row) for row in reversed(rows)]

    # -- the end of a memory ---------------------------------------------------------------------------------

    def delete(self, tenant: str, memory_id: str, expected: Collection[int] | None = None) -> Memory:
        """Take a memory out of use at once; for ``undelete_s`` seconds it can be brought back, then it is forgotten
        (0: forgotten now). The memory as it was is returned. ``expected`` as for ``change``. Raises ``NotFound``,
        ``Forbidden``, ``Stale``."""
        if self.undelete_s <= 0:
            return self.forget(tenant, memory_id, expected).memory
        with self._writing() as (db, changed):
            row = find_row(db, tenant, memory_id, need="write")
            memory = memory_of(row)
            check_revision(memory, expected)
            changed.append(self._make_unfindable(db, row["row"], memory.cube_id))
            mark_deleted(db, row["row"])
            note_change(db, memory, "deleted")
        return memory

    def undelete(self, tenant: str, memory_id: str) -> Memory:
        """Bring a deleted memory back as it was. Raises ``NotFound`` (also when it is too late), ``Forbidden``."""
        with self._database.read() as db:
            row = find_row(db, tenant, memory_id, with_deleted=True, need="write")
        if row["deleted_at"] is not None:
            self._embed_ahead(memory_of(row))
        with self._writing() as (db, changed):
            row = find_row(db, tenant, memory_id, with_deleted=True, need="write")
            if row["deleted_at"] is None or row["deleted_at"] + self.undelete_s < time.time():
                find_row(db, tenant, memory_id)  # not deleted: it stays; too late: not found
                return memory_of(row)
            # Another version: what was computed from the one that was deleted stays refused.
            memory = replace(memory_of(row), status=row["status_before"] or "active", version=row["version"] + 1)
            memory = update_memory(db, _as_history_where_replaced(db, memory))
            db.execute("UPDATE memories SET status_before = NULL, deleted_at = NULL WHERE rowid = ?", (row["row"],))
            note_change(db, memory, "undeleted")
            if memory.status == "active":
                changed.append(self._make_findable(db, row["row"], memory, self._vector_in_place(db, memory)))
        return memory


def _as_history_where_replaced(db: sqlite3.Connection, memory: Memory) -> Memory:
    """A state that comes back when another holds its slot by now is history."""
    if memory.slot is None or memory.status != "active":
        return memory
    row = db.execute(
        f"SELECT id FROM memories WHERE cube_id = ? AND slot = ? AND owner IS ? AND {LIVE}",
        (memory.cube_id, memory.slot, memory.owner),
    ).fetchone()
    return memory if row is None else replace(memory, status="archived", replaced_by=row["id"])


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a change as they are stored. Raises ``InvalidMemory``."""
    checks: dict[str, Callable[[Any], Any]] = {
        "text": checked_text,
        "kind": checked_kind,
        "status": checked_status,
        "tags": checked_tags,
    }
    return {name: checks[name](value) if name in checks else value for name, value in given.items()}


def _with(old: Memory, given: Mapping[str, Any], overlay: Overlay) -> Memory:
    """The memory with these fields. Raises ``InvalidMemory``."""
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
    """RFC 7396."""
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
