"""Choice of the storage backend."""

from __future__ import annotations

from pathlib import Path

from memory.storage.base import Storage
from memory.storage.sqlite.database import SqliteStorage


def open_storage(path: Path) -> Storage:
    """Open the store in this file, or make it. Raises ``StoreCorrupt``."""
    return SqliteStorage(path)
