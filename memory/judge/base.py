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
    vector: Vector | None = None
    happened: bool = False
    """True for an event that was over when it was told: nothing later undoes it, but a correction."""


@dataclass(frozen=True)
class Older:
    """A statement that there is already, and whether it was among the last two before the new one in its conversation.
    It may have been said after the new one, which is then told late."""

    statement: Statement
    previous: bool = False


@dataclass(frozen=True)
class Verdict:
    """A decision and who made it (``local``, ``model``). ``confidence`` is its probability; of a model's decision, that
    which the local judge gives it. ``reason`` is a model's code for why."""

    relation: Relation
    confidence: float
    judge: str
    reason: str | None = None

    @property
    def retires(self) -> bool:
        """True where the older statement no longer holds."""
        return self.relation in ("update", "end")

    @property
    def retiring(self) -> float:
        """The probability that the older statement no longer holds."""
        return self.confidence if self.retires else 1 - self.confidence


@dataclass(frozen=True)
class Case:
    """A new statement, and those that it may concern."""

    new: Statement
    older: Sequence[Older]


Patience = Literal["none", "reply", "job"]
"""What waits for the verdicts: something that bears no waiting (a lock), somebody who wants a reply, or a job."""


class Judge(Protocol):
    """Decides what a new statement means for older ones."""

    @property
    def name(self) -> str: ...

    def judge(self, new: Statement, older: Sequence[Older]) -> list[Verdict]:
        """Return a verdict for each of the other statements, in their order: what the later said of the two means for
        the earlier said one."""
        ...

    def judge_all(self, cases: Sequence[Case], patience: Patience = "reply") -> list[list[Verdict]]:
        """Judge every case of one addition."""
        return [self.judge(case.new, case.older) for case in cases]
