"""The interface of a storage backend. ``memory.storage.sqlite`` is one; another one passes the same tests
(``tests/memory/storage``).

A backend keeps memories, messages and all that goes with them, and proposes candidates for a search: by words, by
vectors, by names. It does not score, read or judge texts; that is the domain's. Ids and times are the caller's, numbers
(``memory.storage.records``) the backend's.

Values that cannot be stored, lone surrogates or integers of more than 64 bits, raise ``InvalidMemory``, wherever they
are given.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from memory.storage.candidates import Candidates, Names, Texts, Vectors
from memory.storage.content import Cubes, Documents, Feedback, History, Lists, Memories, Messages, Removal, Sources
from memory.storage.service import Jobs, Keys, Requests


class Storage(Protocol):
    """Reads and transactions, from any thread, one at a time: whoever is inside one is alone, and may begin another
    inside it (a write inside a read; a read inside a write sees what was written)."""

    def read(self) -> AbstractContextManager[Transaction]:
        """Begin to read; nobody writes until it ends. Raises ``StoreCorrupt`` when damage is found."""
        ...

    def write(self) -> AbstractContextManager[Transaction]:
        """Begin a transaction: all of it is kept, durably, or, on any exception, nothing. The row of a request with a
        key (``memory.storage.ticket``) that makes it is marked in it. Raises ``StorageFull``, ``StoreCorrupt``."""
        ...

    def overwrite_deleted(self) -> None:
        """Overwrite what was removed, wherever the backend still holds it."""
        ...

    def check(self) -> None:
        """Verify the whole store. Raises ``StoreCorrupt`` when its structure is damaged."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...


class Transaction(Protocol):
    """Everything that can be read and (in a transaction that may write) written, by what it is about."""

    @property
    def cubes(self) -> Cubes: ...
    @property
    def memories(self) -> Memories: ...
    @property
    def lists(self) -> Lists: ...
    @property
    def history(self) -> History: ...
    @property
    def messages(self) -> Messages: ...
    @property
    def sources(self) -> Sources: ...
    @property
    def removal(self) -> Removal: ...
    @property
    def texts(self) -> Texts: ...
    @property
    def vectors(self) -> Vectors: ...
    @property
    def names(self) -> Names: ...
    @property
    def candidates(self) -> Candidates: ...
    @property
    def documents(self) -> Documents: ...
    @property
    def feedback(self) -> Feedback: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def requests(self) -> Requests: ...
