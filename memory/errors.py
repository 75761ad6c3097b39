"""What the side store can refuse.

MemoryStoreError
├── NotFound           no such memory or cube for this tenant (another tenant's id looks the same)
├── Forbidden          the cube may be read, not changed
├── InvalidMemory      text empty or too long, unknown kind, bad metadata
├── UnreadableDocument a file that is damaged, too large, locked, or of an unknown kind
├── Conflict           a cube of that name exists
├── StorageFull        the disk is full; nothing was written
├── StoreCorrupt       the database file is damaged or of a newer version
├── EmbedderError      the embedder could not be loaded or reached
├── EmbedderRefused    the embedder cannot do what it is asked: too much text, another number of dimensions
├── RerankError        the reranker could not be reached
└── ExtractorError     the extraction model could not be reached (never leaves the store: there is another way)
"""

from __future__ import annotations


class MemoryStoreError(Exception):
    """Base of everything the side store raises on purpose."""


class NotFound(MemoryStoreError):
    """No such memory or cube for this tenant."""

    def __init__(self, what: str, id: str) -> None:
        self.what = what
        self.id = id
        super().__init__(f"There is no {what} '{id}'.")


class Forbidden(MemoryStoreError):
    """The cube was shared for reading only."""


class InvalidMemory(MemoryStoreError):
    """The memory cannot be stored as given; ``param`` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class UnreadableDocument(MemoryStoreError):
    """A file is damaged, too large, locked, or of an unknown kind."""


class Conflict(MemoryStoreError):
    """Something of that name exists already."""


class StorageFull(MemoryStoreError):
    """The disk is full; nothing was written."""


class StoreCorrupt(MemoryStoreError):
    """The database file is damaged or was written by a newer version."""


class EmbedderError(MemoryStoreError):
    """The embedder could not be loaded or reached."""


class EmbedderRefused(MemoryStoreError):
    """The embedder cannot do what it is asked; ``param`` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class RerankError(MemoryStoreError):
    """The reranker could not be reached, or did not do what it was asked."""


class ExtractorError(MemoryStoreError):
    """The extraction model could not be reached, or did not answer."""
