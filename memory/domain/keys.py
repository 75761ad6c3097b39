"""API keys. Only their hashes are stored."""

from __future__ import annotations

import hashlib
import secrets
import time

from memory.errors import NotFound
from memory.storage.base import Storage
from memory.types import KeyInfo

PREFIX = "rk_"


class KeyStore:
    """The keys of one side store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def create(self, tenant: str, name: str) -> str:
        """Create a key, and return it, this once. Raises ``Conflict`` when there is one of that name."""
        key = PREFIX + secrets.token_urlsafe(32)
        with self._storage.write() as tx:
            tx.keys.insert(_hash(key), KeyInfo(name, tenant, time.time()))
        return key

    def tenant_of(self, key: str) -> str | None:
        """Return the tenant a key stands for; None for an unknown key.

        A key has 256 random bits and is looked up by its hash, so that timing tells nothing of stored keys.
        """
        with self._storage.read() as tx:
            return tx.keys.tenant_of(_hash(key))

    def all(self) -> list[KeyInfo]:
        """Return what is known of each key, in order of creation."""
        with self._storage.read() as tx:
            return tx.keys.all()

    def revoke(self, name: str) -> None:
        """Remove a key. Raises ``NotFound``."""
        with self._storage.write() as tx:
            if not tx.keys.remove(name):
                raise NotFound("key", name)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
