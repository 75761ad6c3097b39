"""Records that a storage backend hands out, besides the nouns of ``memory.types``.

Memories and messages have a *number* in it, which is the backend's own: later ones have higher numbers. The number of
one that was removed (not only wiped) may be given again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from memory.types import Memory, MemoryStatus


@dataclass(frozen=True, slots=True)
class StoredMemory:
    """A memory with its number, and what is noted of it only for storage: ``deleted_at`` (Unix seconds) and
    ``status_before`` while it is deleted and can be brought back."""

    number: int
    memory: Memory
    digest: str | None
    deleted_at: float | None
    status_before: MemoryStatus | None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message's number, id and cube."""

    number: int
    id: str
    cube_id: str


class Candidate(NamedTuple):
    """The part of a memory that is needed for its score in a search. ``length`` is its text's, in characters."""

    number: int
    id: str
    author: str | None
    created_at: float
    event_at: float | None
    event_until: float | None
    importance: float
    uses: int
    slot: str | None
    replaced_by: str | None
    session: str | None
    follows: str | None
    length: int


class Former(NamedTuple):
    """A memory that held until another took its place, and its text."""

    data: Candidate
    text: str


class Unembedded(NamedTuple):
    """A memory without a vector of the embedder's: its text, and those of up to two before it, the nearest first."""

    number: int
    text: str
    before: list[str]


@dataclass(frozen=True, slots=True)
class Listing:
    """The memories that a list has: of one cube or (None) of all the tenant's own, of this kind (None: any), behind the
    one numbered ``after``. ``deleted`` ones are those that can be brought back."""

    tenant: str
    cube_id: str | None
    status: str
    kind: str | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with a key; ``status`` None until it has been answered, ``body`` None where it is not kept."""

    number: int
    request: str
    at: float
    wrote: bool
    gone: bool
    status: int | None
    headers: dict[str, str] | None
    body: bytes | None


@dataclass(frozen=True)
class Text:
    """A memory's text, its cube, and the embedder that made its vector (None: there is none)."""

    cube_id: str
    text: str
    embedder: str | None
