"""The key that a server signs its bundles with."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import threading
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kvcache.file import sync_folder

KEY_BYTES = 32
_PERSON = b"recallkv.bundle"


class BundleKeyError(Exception):
    """The key that bundles are signed with cannot be read, made, or used."""


class BundleKey:
    """32 secret bytes in a file. Whoever has them can make segments that are believed; they are never shown or logged.

    ``made``: where there is no file, one is made at first need, readable by its owner only; else that is an error.
    May be used from any thread.
    """

    def __init__(self, path: Path, *, made: bool) -> None:
        self._path = path
        self._made = made
        self._lock = threading.Lock()

    def check(self) -> None:
        """Refuse a file that is no key, or a missing one where none would be made. Raises ``BundleKeyError``."""
        if not self._made or self._path.exists():
            self._read()

    def sign(self, statement: Mapping[str, Any]) -> str:
        """Sign a statement of JSON's types: 64 hex digits, its one form (sorted, no blanks, ASCII only) hashed with the
        key. Raises ``BundleKeyError``."""
        text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return blake2b(text.encode(), digest_size=32, key=self._bytes(), person=_PERSON).hexdigest()

    def signed(self, statement: Mapping[str, Any], signature: str) -> bool:
        """Tell if the signature is of this statement, by this key. Raises ``BundleKeyError``."""
        return hmac.compare_digest(self.sign(statement).encode(), signature.encode())

    def _bytes(self) -> bytes:
        with self._lock:
            if self._made and not self._path.exists():
                self._make()
            return self._read()

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as stream:
                found = stream.read(KEY_BYTES + 1)
        except OSError as error:
            raise BundleKeyError(f"the bundle key {self._path} cannot be read: {error.strerror}") from error
        if len(found) != KEY_BYTES:
            raise BundleKeyError(f"the bundle key {self._path} is no key: it has not {KEY_BYTES} bytes")
        return found

    def _make(self) -> None:
        """Write a new key in one step: the file is there whole, and on disk, or not at all."""
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(secrets.token_bytes(KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise BundleKeyError(f"no bundle key can be made at {self._path}: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
