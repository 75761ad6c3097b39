"""The interface of a judge: statements, and what a newer one means for an older one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from memory.types import Vector

Relation = Literal["same", "update", "end", "exception", "unrelated"]
"""What the newer statement does: says the same, gives a newer value or a correction, says that the older no longer
holds, adds an exception to it, or has nothing to do with it."""


@dataclass(frozen=True)
class Statement:
    """A statement as it was said. ``text`` is without the speaker's name; ``said_at`` is in Unix seconds; ``vector`` is
    the unit vector of the whole text, where the embedder is the one that the judge knows."""

    text: str
    said_at: float
    author: str | None = None
    session: str | None = None
    vector: Vector | None = None
    happened: bool = False
    """True for an event that was over when it was told: nothing later undoes it, but a correction."""


@dataclass(frozen=True)
class Older:
    """An older statement, and whether it was among the last two before the new one in its conversation."""

    statement: Statement
    previous: bool = False


@dataclass(frozen=True)
class Verdict:
    """A decision with its probability and who made it (``local``, ``model``)."""

    relation: Relation
    confidence: float
    judge: str

    @property
    def retires(self) -> bool:
        """True where the older statement no longer holds."""
        return self.relation in ("update", "end")


class Judge(Protocol):
    """Decides what a new statement means for older ones."""

    @property
    def name(self) -> str: ...

    def judge(self, new: Statement, older: Sequence[Older]) -> list[Verdict]:
        """Return a verdict for each older statement, in their order."""
        ...
