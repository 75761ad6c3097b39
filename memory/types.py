"""The side store's nouns: cubes, messages, memories, hits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

MemoryKind = Literal["fact", "preference", "event", "state", "profile", "tool", "document"]
MemoryStatus = Literal["active", "merged", "archived", "deleted"]
Access = Literal["read", "write"]
Role = Literal["user", "assistant", "tool", "system"]

KINDS: tuple[str, ...] = get_args(MemoryKind)
STATUSES: tuple[str, ...] = get_args(MemoryStatus)
ROLES: tuple[str, ...] = get_args(Role)
FIDELITIES: tuple[str, ...] = ("exact", "high", "fast")
MAX_TEXT_CHARS = 100_000


@dataclass(frozen=True)
class Cube:
    """A container of memories, owned by one tenant. Times are Unix seconds (UTC)."""

    id: str
    tenant: str
    name: str
    created_at: float
    fidelity: str | None = None
    """How exact its memories' KV must be (``exact``, ``high``, ``fast``); None: as the server says."""
    revision: int = 1
    """Counts changes, from 1."""


@dataclass(frozen=True)
class Message:
    """What was said, as it was said. ``sent_at`` is when (Unix seconds); ``utc_offset`` the sender's clock's (s)."""

    id: str
    role: Role
    text: str
    sent_at: float
    author: str | None = None
    utc_offset: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def speaker(self) -> str:
        """How a memory names who said it."""
        return self.author or {"user": "User", "assistant": "Assistant"}.get(self.role, self.role.capitalize())


@dataclass(frozen=True)
class Memory:
    """One unit of plaintext. Times are Unix seconds (UTC); ``version`` counts changes of the text, and
    returns to use, ``revision`` every change, both from 1.

    It was recorded at ``created_at`` and is about the time from ``event_at`` on (until ``event_until`` where the text
    says so). A *state* (``slot`` names of what, ``value`` how it stands) holds until
    ``valid_until``. ``replaced_by`` is the memory that took
    this one's place, by a newer state or a merge. ``uses`` counts how often it was said. ``follows`` is the memory
    before it in the conversation.
    """

    id: str
    cube_id: str
    owner: str | None
    kind: MemoryKind
    text: str
    status: MemoryStatus
    pinned: bool
    version: int
    created_at: float
    updated_at: float
    event_at: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    event_until: float | None = None
    author: str | None = None
    agent: str | None = None
    session: str | None = None
    tags: tuple[str, ...] = ()
    importance: float = 0.5
    expires_at: float | None = None
    slot: str | None = None
    value: str | None = None
    valid_until: float | None = None
    replaced_by: str | None = None
    uses: int = 1
    follows: str | None = None
    revision: int = 1

    @property
    def label(self) -> str:
        """Names this text of this memory: what is computed from it carries the label, and dies with it."""
        return f"{self.id}@{self.version}"

    @property
    def said(self) -> str:
        """The text without the name of who said it."""
        return self.text.removeprefix(f"{self.author}: ") if self.author else self.text


@dataclass(frozen=True)
class Change:
    """One step of a memory's history: what was done, and the text before it (None where it did not change)."""

    at: float
    action: str
    version: int
    text: str | None
    detail: dict[str, Any]


@dataclass(frozen=True)
class Hit:
    """A search result. ``score`` is comparable within one search only; higher is better.

    ``text_rank`` and ``vector_rank`` count from 1; None where that search did not return the memory. ``parts`` is what
    each signal added to the score.
    """

    memory: Memory
    score: float
    text_rank: int | None
    vector_rank: int | None
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """Which searches found it, for the receipt: ``text #1, vector #3``."""
        found = [("text", self.text_rank), ("vector", self.vector_rank)]
        return ", ".join(f"{name} #{rank}" for name, rank in found if rank is not None) or "linked"
