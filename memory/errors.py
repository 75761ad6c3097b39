"""Errors of the memory store.

MemoryStoreError
├── NotFound           no such memory or cube for this tenant (another tenant's id looks the same)
├── Forbidden          the cube may be read, not changed
├── InvalidMemory      text empty or too long, unknown kind, bad metadata
├── UnreadableDocument a file that is damaged, too large, locked, or of an unknown kind
├── Conflict           a cube of that name exists
│   └── Stale          the memory or cube is another revision than the one that was to be changed
├── RequestRefused     a request with a key that
│   ├── KeyReused      another request has used
│   ├── StillRunning   the same request is still being worked on
│   ├── CutOff         a request had that was cut off after it had written something
│   └── ReplyGone      the same request has used, whose reply is not kept any longer
├── JobEnded           a job was ended while it was being done (never leaves its worker)
├── StorageFull        the disk is full; nothing was written
├── StoreCorrupt       the database file is damaged or of a newer version
├── EmbedderError      the embedder could not be loaded or reached
├── EmbedderRefused    the embedder cannot do what it is asked: too much text, another number of dimensions
├── RerankError        the reranker could not be reached
└── CompletionError    a language model gave no answer (never leaves the store: there is another way)
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


class Stale(Conflict):
    """The memory or cube is not of a revision that was expected; ``revision`` is what it is."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(f"It was changed meanwhile: it is revision {revision} now; read it again.")


class RequestRefused(MemoryStoreError):
    """A request with a key is not done, since another one had the key."""


class KeyReused(RequestRefused):
    """The key was used for another request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request: give each request a key of its own.")


class StillRunning(RequestRefused):
    """The first request with the key is still being worked on."""

    def __init__(self) -> None:
        super().__init__("The first request with this Idempotency-Key is still being worked on; try again.")


class CutOff(RequestRefused):
    """The first request with the key wrote something, and then failed or was cut off."""

    def __init__(self) -> None:
        super().__init__(
            "The first request with this Idempotency-Key has written something, and was then cut off or failed: look at"
            " what there is, and use another key for what is missing."
        )


class ReplyGone(RequestRefused):
    """The request was done, and its reply is not kept any longer; ``status`` is what it had."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(
            f"The request with this Idempotency-Key was done, with status {status}. Its reply is not kept any longer:"
            " what it quotes may be forgotten, or it was too large."
        )


class JobEnded(MemoryStoreError):
    """A job was ended, because what it was to add was deleted, while it was being done."""


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


class CompletionError(MemoryStoreError):
    """A language model could not be reached, or did not answer."""
