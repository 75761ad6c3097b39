"""Memories after they were added: read, listed, changed, deleted, brought back, forgotten."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from memory.base import Findable, StoreBase
from memory.checks import checked_kind, checked_metadata, checked_status, checked_tags, checked_text
from memory.errors import InvalidMemory
from memory.filters import compile_filter
from memory.placing import restated
from memory.proof import Proof, Scan, scan
from memory.rows import (
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
    write_vector,
)
from memory.types import STATUSES, Change, Memory, Message
from memory.wiping import wipe_memory

DAY_S = 86_400.0


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


class KeepingMethods(StoreBase):
    """The life of memories that there are."""

    undelete_s: float = DAY_S
    """How long a deleted memory can be brought back, in seconds."""

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
        where, values = ["m.status = ?"], [status]
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
                "SELECT * FROM memories WHERE cube_id = ? AND status = 'active' AND (pinned OR kind = 'profile')"
                " AND (expires_at IS NULL OR expires_at > ?) ORDER BY rowid",
                (cube.id, time.time()),
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

    def forget(self, tenant: str, memory_id: str, expected: Collection[int] | None = None) -> Proof:
        """Overwrite a memory, its history, what it is from and what was computed from it here; then look for what is
        left. Also for one that is deleted but can still be brought back. ``expected`` as for ``change``. Raises
        ``NotFound``, ``Forbidden``, ``Stale``."""
        with self._database.read() as db:  # until it is done, so that nothing is merged into it meanwhile
            row = find_row(db, tenant, memory_id, with_deleted=True, need="write")
            if row["status"] == "deleted" and row["deleted_at"] is None:
                find_row(db, tenant, memory_id)  # forgotten already: not found
            memory = memory_of(row)
            check_revision(memory, expected)
            merged = db.execute(
                "SELECT rowid AS row FROM memories WHERE cube_id = ? AND replaced_by = ? AND status = 'merged'",
                (memory.cube_id, memory.id),
            ).fetchall()
            texts = self._forget_rows([row["row"], *(other["row"] for other in merged)])
        return self.prove(memory, texts)

    def prove(self, memory: Memory, texts: Sequence[str] = ()) -> Proof:
        """What a scan for a forgotten memory finds. ``texts`` are its earlier texts and its messages'."""
        with self._database.read() as db:
            found: Scan = scan(db, memory, texts)
        return Proof(memory, found, time.time())

    def purge(self, now: float | None = None) -> list[Memory]:
        """Forget what was deleted longer ago than it can be brought back; archive what has expired. The memories that
        went out of use by expiry are returned: what was computed from them is to be removed."""
        now = time.time() if now is None else now
        with self._database.read() as db:
            late = db.execute(
                "SELECT rowid AS row FROM memories WHERE deleted_at IS NOT NULL AND deleted_at < ? LIMIT 1000",
                (now - self.undelete_s,),
            ).fetchall()
        if late:
            self._forget_rows([row["row"] for row in late])
        with self._writing() as (db, changed):
            rows = db.execute(
                "SELECT rowid AS row, * FROM memories WHERE expires_at IS NOT NULL AND expires_at <= ?"
                " AND status = 'active' LIMIT 1000",
                (now,),
            ).fetchall()
            for row in rows:
                expired = update_memory(db, replace(memory_of(row), status="archived", updated_at=now))
                note_change(db, expired, "expired")
                changed.append(self._make_unfindable(db, row["row"], expired.cube_id))
        return memories_of(rows)

    def _forget_rows(self, rows: Sequence[int]) -> list[str]:
        """Wipe memories; the texts that went, for a scan. What follows them in a conversation gets its vector anew,
        without them."""
        texts: list[str] = []
        behind: list[str] = []
        with self._writing() as (db, changed):
            for row in rows:
                data = db.execute("SELECT id, cube_id FROM memories WHERE rowid = ?", (row,)).fetchone()
                texts += [change.text for change in changes_of(db, data["id"]) if change.text]
                texts += [message.text for message in sources_of(db, data["id"])]
                wipe_memory(db, row, data["id"])
                changed.append(Findable(data["cube_id"], row, None))
                behind.append(data["id"])
            self._embeddings.forget()
            for _ in range(2):  # as far as a memory's vector reaches back
                anew = [item for id in behind for item in self._vectors_behind(db, id)]
                changed += [findable for _, findable in anew]
                behind = [id for id, _ in anew]
            for cube_id in {item.cube_id for item in changed}:
                self._saved.drop(cube_id)
        self._overwrite_deleted()
        return texts

    def _vectors_behind(self, db: sqlite3.Connection, memory_id: str) -> list[tuple[str, Findable]]:
        """Ids and new vectors of the memories right behind this one, without what was wiped."""
        rows = db.execute(
            "SELECT rowid AS row, * FROM memories WHERE follows = ? AND status = 'active'", (memory_id,)
        ).fetchall()
        found = []
        for row in rows:
            vector = self._vector_in_place(db, memory_of(row))
            write_vector(db, row["row"], self._embeddings.name, vector)
            found.append((str(row["id"]), Findable(row["cube_id"], row["row"], vector)))
        return found


def _as_history_where_replaced(db: sqlite3.Connection, memory: Memory) -> Memory:
    """A state that comes back when another holds its slot by now is history."""
    if memory.slot is None or memory.status != "active":
        return memory
    row = db.execute(
        "SELECT id FROM memories WHERE cube_id = ? AND slot = ? AND owner IS ? AND status = 'active'",
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
