"""The stages in their order, with their budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu import checks, decoding, environment, tables
from benchmarks.gpu.job import Job


@dataclass(frozen=True)
class Stage:
    """``budget_s``: seconds after which it is ended; ``least_s``: with less left it is not begun."""

    name: str
    budget_s: float
    least_s: float
    work: Callable[[Job], None]

    def file(self, number: int) -> str:
        return f"{number:02d}-{self.name}"


STAGES: tuple[Stage, ...] = (
    Stage("env", 45, 10, environment.measure),
    Stage("correct", 100, 20, checks.run_all),
    Stage("memos-small", 75, 20, tables.small),
    Stage("tiers", 75, 25, tables.tiers),
    Stage("decode", 60, 20, decoding.measure),
    Stage("memos-middle", 130, 40, tables.middle),
    Stage("memos-large", 180, 60, tables.large),
    Stage("memos-again", 60, 20, tables.small),
)
