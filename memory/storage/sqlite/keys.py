"""API keys as rows."""

from __future__ import annotations

import sqlite3

from memory.errors import Conflict
from memory.types import KeyInfo


class SqliteKeys:
    """See ``memory.storage.service.Keys``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(self, hash: str, key: KeyInfo) -> None:
        try:
            values = (hash, key.name, key.tenant, key.created_at)
            self._db.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?)", values)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"There is a key named '{key.name}' already.") from error

    def tenant_of(self, hash: str) -> str | None:
        row = self._db.execute("SELECT tenant FROM api_keys WHERE hash = ?", (hash,)).fetchone()
        return None if row is None else str(row["tenant"])

    def all(self) -> list[KeyInfo]:
        rows = self._db.execute("SELECT name, tenant, created_at FROM api_keys ORDER BY created_at, name")
        return [KeyInfo(row["name"], row["tenant"], row["created_at"]) for row in rows]

    def remove(self, name: str) -> bool:
        return self._db.execute("DELETE FROM api_keys WHERE name = ?", (name,)).rowcount > 0
