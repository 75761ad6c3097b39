"""The store's nouns: cubes, messages, memories, hits, and what is kept with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
"""A unit vector, float32 [dim]."""

MemoryKind = Literal["fact", "preference", "event", "state", "profile", "instruction", "tool", "document"]
MemoryStatus = Literal["active", "merged", "archived", "deleted"]
Access = Literal["read", "write"]
Role = Literal["user", "assistant", "tool", "system"]

KINDS: tuple[str, ...] = get_args(MemoryKind)
STANDING_KINDS: tuple[MemoryKind, ...] = ("profile", "instruction")
"""Memories of these kinds are in every prompt of their cube."""
STATUSES: tuple[str, ...] = get_args(MemoryStatus)
ROLES: tuple[str, ...] = get_args(Role)
FIDELITIES: tuple[str, ...] = ("exact", "high", "fast")
MAX_TEXT_CHARS = 100_000


def unstorable(text: str) -> bool:
    """Tell if a text holds what UTF-8 or a store cannot: lone surrogates or NUL."""
    return "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True)
class Cube:
    """A container of memories, owned by one tenant. Times are Unix seconds (UTC)."""

    id: str
    tenant: str
    name: str
    created_at: float
    fidelity: str | None = None
    """The exactness that its memories' KV must have (``exact``, ``high``, ``fast``); None: as the server says."""
    revision: int = 1
    """Counts changes, from 1."""


@dataclass(frozen=True)
class Message:
    """A message as it was said. ``sent_at`` is when (Unix seconds); ``utc_offset`` the sender's clock's (s)."""

    id: str
    role: Role
    text: str
    sent_at: float
    author: str | None = None
    utc_offset: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def speaker(self) -> str:
        """The name that a memory has for who said it."""
        return self.author or {"user": "User", "assistant": "Assistant"}.get(self.role, self.role.capitalize())

    @property
    def spoken(self) -> str:
        """The text with its speaker, as a memory's context."""
        return f"{self.speaker}: {self.text}"


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
        """The searches that found it, for the receipt: ``text #1, vector #3``."""
        found = [("text", self.text_rank), ("vector", self.vector_rank)]
        return ", ".join(f"{name} #{rank}" for name, rank in found if rank is not None) or "linked"


@dataclass(frozen=True)
class Grant:
    """The right of others to use a cube: ``principal`` is a tenant, or the id of a group."""

    cube_id: str
    principal: str
    access: Access


@dataclass(frozen=True)
class Group:
    """A set of tenants that cubes can be shared with at once. Owned by the tenant that made it."""

    id: str
    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A file that a cube knows. ``digest`` is of its bytes; ``created_at`` in Unix seconds."""

    id: str
    cube_id: str
    name: str
    digest: str
    n_chunks: int
    created_at: float


FeedbackAct = Literal["updated", "superseded", "reinforced", "archived", "deleted", "added", "asked", "nothing"]


@dataclass(frozen=True)
class FeedbackAction:
    """The change of one memory; ``nothing`` has none, and ``asked`` changed none: it names one of several that may be
    meant."""

    action: FeedbackAct
    memory_id: str | None = None


@dataclass(frozen=True)
class FeedbackOutcome:
    """Feedback and what it did. ``replaced`` are previous versions of the memories that changed: what was computed from
    them is to be removed (not kept: empty when read back). Forgetting one of the memories forgets it."""

    id: str
    cube_id: str
    text: str
    at: float
    actions: tuple[FeedbackAction, ...]
    replaced: tuple[Memory, ...] = ()


JobStatus = Literal["waiting", "running", "completed", "failed", "cancelled"]


@dataclass(frozen=True)
class Job:
    """One piece of work. Times are Unix seconds; ``result`` once completed, ``error`` once failed."""

    id: str
    tenant: str
    kind: str
    payload: dict[str, Any]
    status: JobStatus
    attempts: int
    created_at: float
    finished_at: float | None = None
    result: Any = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class KeyInfo:
    """The known facts of a key: never the key itself. ``created_at`` is in Unix seconds."""

    name: str
    tenant: str
    created_at: float


@dataclass(frozen=True)
class Reply:
    """A reply as it was sent: status, the headers that matter (lower-case names), body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Subject:
    """A user, agent, session or application (or several at once) whose memories and messages are meant: they have all
    of the ids that are given. What is in a cube that is named for an id (``ANN``, ``agent:COOK``, ``run:R1``,
    ``app:SHOP``) has that id."""

    owner: str | None = None
    agent: str | None = None
    session: str | None = None
    app: str | None = None

    @property
    def ids(self) -> dict[str, tuple[str, str]]:
        """The ids that are given, each with the name of a cube whose content has it."""
        given = (("owner", self.owner, ""), ("agent", self.agent, "agent:"), ("session", self.session, "run:"))
        return {
            name: (id, f"{prefix}{id}") for name, id, prefix in (*given, ("app", self.app, "app:")) if id is not None
        }

    def has(self, cube_name: str, ids: Mapping[str, str | None]) -> bool:
        """Tell if what has these ids (owner, agent, session, app), in a cube of this name, is the subject's."""
        return all(cube_name == named or ids[name] == id for name, (id, named) in self.ids.items())


@dataclass(frozen=True)
class Scan:
    """Rows found, by place. ``text`` counts any table of text that still holds a sentence of the memory's."""

    text: int
    history: int
    full_text: int
    vectors: int
    graph: int
    messages: int
    feedback: int
    replies: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())
