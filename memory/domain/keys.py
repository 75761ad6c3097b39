"""API keys. Only their hashes are stored."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from dataclasses import dataclass

from memory.errors import Conflict, NotFound
from memory.storage.sqlite.database import Database

PREFIX = "rk_"


@dataclass(frozen=True)
class KeyInfo:
    """What is known of a key: never the key itself. ``created_at`` is in Unix seconds."""

    name: str
    tenant: str
    created_at: float


class KeyStore:
    """The keys of one side store's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, tenant: str, name: str) -> str:
        """A new key, shown this once. Raises ``Conflict`` when there is one of that name."""
        key = PREFIX + secrets.token_urlsafe(32)
        try:
            with self._database.write() as db:
                db.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?)", (_hash(key), name, tenant, time.time()))
        except sqlite3.IntegrityError as error:
            raise Conflict(f"There is a key named '{name}' already.") from error
        return key

    def tenant_of(self, key: str) -> str | None:
        """The tenant a key stands for; None for an unknown key.

        A key has 256 random bits and is looked up by its hash, so that timing tells nothing of stored keys.
        """
        with self._database.read() as db:
            row = db.execute("SELECT tenant FROM api_keys WHERE hash = ?", (_hash(key),)).fetchone()
        return None if row is None else str(row["tenant"])

    def all(self) -> list[KeyInfo]:
        with self._database.read() as db:
            rows = db.execute("SELECT name, tenant, created_at FROM api_keys ORDER BY created_at, name").fetchall()
        return [KeyInfo(row["name"], row["tenant"], row["created_at"]) for row in rows]

    def revoke(self, name: str) -> None:
        """Raises ``NotFound``."""
        with self._database.write() as db:
            if db.execute("DELETE FROM api_keys WHERE name = ?", (name,)).rowcount == 0:
                raise NotFound("key", name)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
