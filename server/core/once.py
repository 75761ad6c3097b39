"""Names for what a request with an ``Idempotency-Key`` makes, so that the same request makes the same again."""

from __future__ import annotations

import hashlib
import secrets
from contextvars import ContextVar


class Once:
    """A request's name, and those of what it makes: in the same order they are the same, whenever it is done."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._made = 0

    def next(self) -> str:
        """Make the next name: 64 hex digits."""
        self._made += 1
        return hashlib.sha256(f"{self._name}\0{self._made}".encode()).hexdigest()


once: ContextVar[Once | None] = ContextVar("once", default=None)
"""The request that is worked on, where it has a key."""


def token() -> str:
    """Make 64 hex digits for an id: always new, or, in a request with a key, that request's next ones."""
    now = once.get()
    return secrets.token_hex(32) if now is None else now.next()
