"""Memories after they were added: read, listed, changed, deleted, brought back."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from memory.base import Findable
from memory.checks import checked_kind, checked_metadata, checked_status, checked_tags, checked_text
from memory.erasing import ErasingMethods
from memory.errors import Conflict, InvalidMemory
from memory.filters import compile_filter
from memory.placing import restated
from memory.rows import (
    LIVE,
    changes_of,
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

    def update(
        self,
        tenant: str,
        memory_id: str,
        *,
        text: str | None = None,
        metadata: dict[str, Any] | None = None,
        kind: str | None = None,
        status: str | None = None,
        **fields: Any,
    ) -> Memory:
        """Change what is given (None: as it is); a new text makes a new version and keeps the old one as history. More
        ``fields``: pinned, event_at, event_until, tags, importance, expires_at. Raises ``NotFound``, ``Forbidden``,
        ``InvalidMemory``, ``Conflict``, ``StorageFull``, ``EmbedderError``."""
        old = self.get(tenant, memory_id)
        given = {name: value for name, value in fields.items() if value is not None}
        if "tags" in given:
            given["tags"] = checked_tags(given["tags"])
        new = replace(
            old,
            text=old.text if text is None else checked_text(text),
            kind=old.kind if kind is None else checked_kind(kind),
            metadata=old.metadata if metadata is None else metadata,
            status=old.status if status is None else checked_status(status),
            updated_at=time.time(),
            **given,
        )
        changed = new.text != old.text
        if changed or (new.status == "active" and old.status != "active"):
            new = replace(new, version=old.version + 1)
        new = restated(new) if changed else new
        checked_metadata(new.metadata)
        with self._database.read() as db:
            vector = self._vector_in_place(db, new)
        with self._database.write() as db:
            row = find_row(db, tenant, memory_id, need="write")
            if row["version"] != old.version:
                raise Conflict("The memory was changed by another request meanwhile; read it again.")
            update_memory(db, new)
            note_change(db, new, _action(old, new), old.text if changed else None)
            findable = self._make_unfindable(db, row["row"], new.cube_id)
            if new.status == "active":
                findable = self._make_findable(db, row["row"], new, vector)
        self._settle([findable])
        return new

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

    def delete(self, tenant: str, memory_id: str) -> Memory:
        """Take a memory out of use at once; for ``undelete_s`` seconds it can be brought back, then it is forgotten
        (0: forgotten now). The memory as it was is returned. Raises ``NotFound``, ``Forbidden``."""
        if self.undelete_s <= 0:
            return self.forget(tenant, memory_id).memory
        with self._database.write() as db:
            row = find_row(db, tenant, memory_id, need="write")
            memory = memory_of(row)
            gone = self._make_unfindable(db, row["row"], memory.cube_id)
            mark_deleted(db, row["row"])
            note_change(db, memory, "deleted")
        self._settle([gone])
        return memory

    def undelete(self, tenant: str, memory_id: str) -> Memory:
        """Bring a deleted memory back as it was. Raises ``NotFound`` (also when it is too late), ``Forbidden``."""
        with self._database.read() as db:
            row = find_row(db, tenant, memory_id, with_deleted=True, need="write")
            if row["deleted_at"] is None or row["deleted_at"] + self.undelete_s < time.time():
                find_row(db, tenant, memory_id)  # not deleted: it stays; too late: not found
                return memory_of(row)
            # Another version: what was computed from the one that was deleted stays refused.
            memory = replace(memory_of(row), status=row["status_before"] or "active", version=row["version"] + 1)
            vector = self._vector_in_place(db, memory)
        changed: list[Findable] = []
        with self._database.write() as db:
            memory = _as_history_where_replaced(db, memory)
            done = db.execute(
                "UPDATE memories SET status = ?, replaced_by = ?, version = ?, status_before = NULL, deleted_at = NULL"
                " WHERE rowid = ? AND deleted_at IS NOT NULL",
                (memory.status, memory.replaced_by, memory.version, row["row"]),
            )
            if done.rowcount == 0:  # another request was faster
                return memory_of(find_row(db, tenant, memory_id))
            note_change(db, memory, "undeleted")
            if memory.status == "active":
                changed.append(self._make_findable(db, row["row"], memory, vector))
        self._settle(changed)
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


def _action(old: Memory, new: Memory) -> str:
    if old.text != new.text:
        return "updated"
    return new.status if old.status != new.status else "changed"
