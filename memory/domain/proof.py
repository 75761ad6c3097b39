"""Proof that a memory is forgotten: a scan of every place that its text, or anything derived from it, could be in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memory.language.words import digest_of
from memory.types import Memory, Scan

COVERS = "the memory, its history, what was merged into it, and the messages that it is from"
"""The extent of a proof. A word that somebody used in another message as well is that message's."""


@dataclass(frozen=True)
class Proof:
    """A memory that was forgotten (as it was), what a scan found afterwards, and when (Unix seconds)."""

    memory: Memory
    scan: Scan
    at: float

    def as_json(self) -> dict[str, Any]:
        """Return the proof without the text: the digest says which one it was."""
        return {
            "memory": self.memory.id,
            "digest": digest_of(self.memory.text),
            "found": asdict(self.scan),
            "clean": self.scan.total == 0,
            "covers": COVERS,
            "at": self.at,
        }
