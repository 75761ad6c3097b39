"""The end of memories: forgotten one by one, with all of a user's, or when the time to bring them back is over."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from memory.domain.jobs import end_messages
from memory.domain.proof import Proof, Scan, scan
from memory.search.index import Findable, StoreBase
from memory.storage.sqlite.fulltext import past_of
from memory.storage.sqlite.rows import (
    changes_of,
    check_revision,
    find_row,
    memories_of,
    memory_of,
    message_of,
    note_change,
    update_memory,
    write_vector,
)
from memory.storage.sqlite.wiping import leave_out, messages_of, wipe_memories, wipe_messages
from memory.types import Memory

DAY_S = 86_400.0
_AT_ONCE = 1000


@dataclass(frozen=True)
class Subject:
    """Whose memories and messages are meant: they have all of the ids that are given. What is in a cube that is named
    for an id (``ANN``, ``agent:COOK``, ``run:R1``, ``app:SHOP``) has that id."""

    owner: str | None = None
    agent: str | None = None
    session: str | None = None
    app: str | None = None

    def of(self, session: str, app: str) -> tuple[str, list[str]]:
        """SQL for a row ``x`` of a cube ``c``, whose columns of these names are the session and the application."""
        parts, values = ["1"], []
        for id, column, cube in (
            (self.owner, "x.owner", ""),
            (self.agent, "x.agent", "agent:"),
            (self.session, session, "run:"),
            (self.app, app, "app:"),
        ):
            if id is not None:
                parts.append(f"({column} IS ? OR c.name = ?)")
                values += [id, f"{cube}{id}"]
        return " AND ".join(parts), values


class ErasingMethods(StoreBase):
    """What leaves nothing behind."""

    undelete_s: float = DAY_S
    """How long a deleted memory can be brought back, in seconds."""

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
            texts = self._forget_rows(_with_former(db, [row["row"]], ("merged",)))
        return self.prove(memory, texts)

    def prove(self, memory: Memory, texts: Sequence[str] = ()) -> Proof:
        """Scan for a forgotten memory. ``texts`` are its earlier texts and its messages'."""
        with self._database.read() as db:
            found: Scan = scan(db, memory, texts)
        return Proof(memory, found, time.time())

    def erase(self, tenant: str, subject: Subject, cubes: Sequence[str] | None = None) -> list[Memory]:
        """Remove all memories, messages, feedback, documents and open jobs of ``subject`` from the tenant's own cubes
        (from those of these names only), whatever their status: at once, for good, all or nothing. The memories are
        returned as they were. The cubes stay."""
        names = None if cubes is None else json.dumps(list(cubes))
        within = " FROM {} x JOIN cubes c ON c.id = x.cube_id WHERE c.tenant = ?1 AND (?2 IS NULL OR c.name IN"
        within += " (SELECT value FROM json_each(?2)))"
        with self._writing() as (db, changed):
            theirs, values = subject.of("x.session", "json_extract(x.metadata, '$.app_id')")
            found = db.execute(
                f"SELECT x.rowid AS row, x.*{within.format('memories')} AND {theirs}", (tenant, names, *values)
            ).fetchall()
            theirs, values = subject.of("x.conversation", "x.app")
            said = db.execute(
                f"SELECT x.rowid AS row, x.id, x.cube_id{within.format('messages')} AND {theirs}",
                (tenant, names, *values),
            ).fetchall()
            rows, messages = [row["row"] for row in found], [row["row"] for row in said]
            touched = {row["cube_id"] for row in (*found, *said)}
            end_messages(db, tenant, lambda cube, ids: _is_of(db, subject, cubes, cube, ids))
            changed += self._wipe(db, rows, messages)
            for table, gone in (("memories", rows), ("messages", messages)):
                db.execute(f"DELETE FROM {table} WHERE rowid IN (SELECT value FROM json_each(?))", (json.dumps(gone),))
            _remove_remains(db, touched, [row["id"] for row in said])
        if touched:
            self._overwrite_deleted()
        return [memory for memory in memories_of(found) if memory.text]

    def purge(self, now: float | None = None) -> list[Memory]:
        """Forget what was deleted longer ago than it can be brought back; archive what has expired. The memories that
        went out of use by expiry are returned: what was computed from them is to be removed."""
        self.forget_late(now)
        return self.archive_expired(now)

    def forget_late(self, now: float | None = None) -> set[str]:
        """Forget what was deleted longer ago than it can be brought back, with the states that it had replaced and the
        messages that nothing else is from (see ``memory.storage.sqlite.wiping.leave_out``). Returns the tenants it was of."""
        before = (time.time() if now is None else now) - self.undelete_s
        tenants: set[str] = set()
        while True:
            with self._database.read() as db:
                late = db.execute(
                    "SELECT m.rowid AS row, c.tenant FROM memories m JOIN cubes c ON c.id = m.cube_id"
                    " WHERE m.deleted_at IS NOT NULL AND m.deleted_at < ? LIMIT ?",
                    (before, _AT_ONCE),
                ).fetchall()
                rows = _with_former(db, [row["row"] for row in late], ("merged", "archived"))
            if not late:
                return tenants
            self._forget_rows(rows, alone=False)
            tenants |= {row["tenant"] for row in late}

    def archive_expired(self, now: float | None = None) -> list[Memory]:
        """Archive what has expired; the memories, as they were. Only a search for a time when they held finds them."""
        now = time.time() if now is None else now
        with self._writing() as (db, changed):
            rows = db.execute(
                "SELECT rowid AS row, * FROM memories WHERE expires_at IS NOT NULL AND expires_at <= ?"
                f" AND status = 'active' LIMIT {_AT_ONCE}",
                (now,),
            ).fetchall()
            for row in rows:
                expired = update_memory(db, replace(memory_of(row), status="archived", updated_at=now))
                note_change(db, expired, "expired")
                db.execute("UPDATE memory_text SET cube = ? WHERE rowid = ?", (past_of(expired.cube_id), row["row"]))
                changed.append(Findable(expired.cube_id, row["row"], None))
        return memories_of(rows)

    # -- how -------------------------------------------------------------------------------------------------

    def _forget_rows(self, rows: Sequence[int], *, alone: bool = True) -> list[str]:
        """Wipe memories, with all messages that they are from, or (``alone`` false) with those that nothing else is
        from; the texts that went, for a scan."""
        texts: list[str] = []
        with self._writing() as (db, changed):
            messages = messages_of(db, rows) if alone else leave_out(db, rows)
            ids = json.dumps(list(rows))
            for (id,) in db.execute("SELECT id FROM memories WHERE rowid IN (SELECT value FROM json_each(?))", (ids,)):
                texts += [change.text for change in changes_of(db, id) if change.text]
            said = db.execute(
                "SELECT * FROM messages WHERE rowid IN (SELECT value FROM json_each(?))", (json.dumps(messages),)
            )
            texts += [message_of(row).text for row in said]
            changed += self._wipe(db, rows, messages)
            _remove_remains(db, {item.cube_id for item in changed}, [])
        self._overwrite_deleted()
        return texts

    def _wipe(self, db: sqlite3.Connection, rows: Sequence[int], messages: Sequence[int]) -> list[Findable]:
        """Wipe memories and messages. What follows them in a conversation gets its vector anew, without them. Additions
        that have read them and are not yet written begin anew. Returns what changes in the vectors in memory."""
        found = db.execute(
            "SELECT rowid AS row, id, cube_id FROM memories WHERE rowid IN (SELECT value FROM json_each(?))",
            (json.dumps(list(rows)),),
        ).fetchall()
        changed = [Findable(row["cube_id"], row["row"], None) for row in found]
        wipe_memories(db, rows)
        wipe_messages(db, messages)
        self._embeddings.forget()
        cubes = {item.cube_id for item in changed}
        behind = [row["id"] for row in found]
        for _ in range(2):  # as far as a memory's vector reaches back
            anew = self._vectors_behind(db, cubes, behind)
            changed += [findable for _, findable in anew]
            behind = [id for id, _ in anew]
        for cube_id in cubes:
            self._saved.drop(cube_id)
        self._erasures += 1
        return changed

    def _vectors_behind(
        self, db: sqlite3.Connection, cubes: Collection[str], ids: Collection[str]
    ) -> list[tuple[str, Findable]]:
        """Ids and new vectors of the memories right behind these, without what was wiped."""
        rows = db.execute(
            "SELECT rowid AS row, * FROM memories WHERE cube_id IN (SELECT value FROM json_each(?))"
            " AND status = 'active' AND follows IN (SELECT value FROM json_each(?))",
            (json.dumps(list(cubes)), json.dumps(list(ids))),
        ).fetchall()
        found = []
        for row in rows:
            vector = self._vector_in_place(db, memory_of(row))
            write_vector(db, row["row"], self._embeddings.name, vector)
            found.append((str(row["id"]), Findable(row["cube_id"], row["row"], vector)))
        return found


def _with_former(db: sqlite3.Connection, rows: Sequence[int], statuses: Sequence[str]) -> list[int]:
    """Memories, and those of these statuses that they have taken the place of."""
    found = db.execute(
        "WITH RECURSIVE g(row, id, cube) AS (SELECT rowid, id, cube_id FROM memories WHERE rowid IN"
        " (SELECT value FROM json_each(?1)) UNION SELECT m.rowid, m.id, m.cube_id FROM g JOIN memories m"
        " ON m.cube_id = g.cube AND m.replaced_by = g.id AND m.status IN (SELECT value FROM json_each(?2)))"
        " SELECT row FROM g",
        (json.dumps(list(rows)), json.dumps(list(statuses))),
    )
    return [int(row) for (row,) in found]


def _remove_remains(db: sqlite3.Connection, cubes: Collection[str], messages: Sequence[str]) -> None:
    """Remove documents of these cubes that have no chunk any more, and feedback whose words were among these
    messages."""
    db.execute(
        "DELETE FROM documents WHERE cube_id IN (SELECT value FROM json_each(?)) AND NOT EXISTS (SELECT 1 FROM memories"
        " m WHERE m.cube_id = documents.cube_id AND json_extract(m.metadata, '$.document') = documents.id)",
        (json.dumps(list(cubes)),),
    )
    for statement in (
        "DELETE FROM feedback WHERE 'msg_' || substr(id, 4) IN (SELECT value FROM json_each(?))",
        "DELETE FROM provenance WHERE message_id IN (SELECT value FROM json_each(?))",
    ):
        db.execute(statement, (json.dumps(list(messages)),))


def _is_of(
    db: sqlite3.Connection, subject: Subject, cubes: Sequence[str] | None, cube_id: str, said: dict[str, str | None]
) -> bool:
    """Tell if messages that are to be added to a cube are a subject's."""
    row = db.execute("SELECT name FROM cubes WHERE id = ?", (cube_id,)).fetchone()
    if row is None:
        return True  # nobody's any more
    theirs, values = subject.of("x.session", "x.app")
    columns = ", ".join(f"? AS {name}" for name in said)
    found = db.execute(
        f"SELECT 1 FROM (SELECT {columns}) x, (SELECT ? AS name) c WHERE {theirs}",
        (*said.values(), row["name"], *values),
    ).fetchone()
    return found is not None and (cubes is None or row["name"] in cubes)
