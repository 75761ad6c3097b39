"""The side store's nouns: cubes, memories, hits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

MemoryKind = Literal["fact", "preference", "event", "profile", "document"]
MemoryStatus = Literal["active", "archived", "deleted"]

KINDS: tuple[str, ...] = get_args(MemoryKind)
STATUSES: tuple[str, ...] = get_args(MemoryStatus)
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


@dataclass(frozen=True)
class Memory:
    """One unit of plaintext. Times are Unix seconds (UTC); ``version`` counts changes of the text, from 1."""

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

    @property
    def label(self) -> str:
        """Names this text of this memory: what is computed from it carries the label, and dies with it."""
        return f"{self.id}@{self.version}"


@dataclass(frozen=True)
class Hit:
    """A search result. ``score`` is the fused score (higher is better, comparable within one search only).

    ``text_rank`` and ``vector_rank`` count from 1; None where that search did not return the memory.
    """

    memory: Memory
    score: float
    text_rank: int | None
    vector_rank: int | None

    @property
    def why(self) -> str:
        """Which searches found it, for the receipt: ``text #1, vector #3``."""
        found = [("text", self.text_rank), ("vector", self.vector_rank)]
        return ", ".join(f"{name} #{rank}" for name, rank in found if rank is not None)
