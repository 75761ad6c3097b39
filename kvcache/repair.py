"""The choice of composed tokens to recompute.

A standalone segment was computed behind other tokens than those it is composed behind. Most of its keys and values
hardly differ; the few that do, and matter, are repaired: computed at their place in the same pass as the query. A
strategy says which, from a *signal* that the engine has found out about each composed token:

    none        nothing
    first       the first tokens of each run (EPIC, arXiv 2410.15332): they were computed as the start of everything
    deviation   those whose keys and values differ most in the second layer (CacheBlend, arXiv 2405.16444)
    attention   those that the query attends to most, in a light first pass over the composed memory
    lines       whole parts, those that the query attends to most a token
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

StrategyName = Literal["none", "first", "deviation", "attention", "lines"]
Signal = Literal["attention", "deviation"]


@dataclass(frozen=True)
class Repair:
    """A strategy and the share of the composed tokens that it may compute anew, 0 to 1."""

    strategy: StrategyName
    share: float

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"'{self.strategy}' is no repair strategy; there are {', '.join(STRATEGIES)}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"a share lies between 0 and 1, not at {self.share}")

    @property
    def signal(self) -> Signal | None:
        """The signal that the engine must find out before the tokens can be chosen; nothing where all or none are."""
        if self.share in (0.0, 1.0):
            return None
        return STRATEGIES[self.strategy][0]

    def choose(self, composed: Composed, signal: torch.Tensor | None) -> list[int]:
        """Choose the positions to recompute, ascending, at most ``share`` of the composed tokens. ``signal`` is float
        [composed tokens], in the order of their positions."""
        budget = int(self.share * composed.n_tokens)
        if self.strategy == "none" or budget == 0:
            return []
        if budget == composed.n_tokens:
            return composed.positions
        return sorted(STRATEGIES[self.strategy][1](composed, signal, budget))


@dataclass(frozen=True)
class Composed:
    """The composed tokens of a prompt: positions of each part, and which parts start a run (what stands before them
    is not what they were built behind). Parts are in order of position."""

    parts: tuple[range, ...]
    starts_run: tuple[bool, ...]

    @property
    def n_tokens(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def positions(self) -> list[int]:
        return [position for part in self.parts for position in part]

    def runs(self) -> list[range]:
        """List the parts that follow each other as they did when they were built, joined."""
        runs: list[range] = []
        for part, starts in zip(self.parts, self.starts_run, strict=True):
            if starts or not runs:
                runs.append(part)
            else:
                runs[-1] = range(runs[-1].start, part.stop)
        return runs


def _first(composed: Composed, signal: torch.Tensor | None, budget: int) -> list[int]:
    """Choose as many first tokens of every run as the budget allows; what short runs leave goes to the longer ones."""
    runs = sorted(composed.runs(), key=len)
    chosen: list[int] = []
    for done, run in enumerate(runs):
        fair = (budget - len(chosen)) // (len(runs) - done)
        chosen.extend(run[:fair])
    return chosen


def _strongest(composed: Composed, signal: torch.Tensor | None, budget: int) -> list[int]:
    assert signal is not None
    assert signal.numel() == composed.n_tokens
    positions = composed.positions
    return [positions[i] for i in signal.topk(budget).indices.tolist()]


def _lines(composed: Composed, signal: torch.Tensor | None, budget: int) -> list[int]:
    """Choose whole parts in the order of their tokens' mean signal; the first that does not fit any more in part."""
    assert signal is not None
    assert signal.numel() == composed.n_tokens
    means = torch.stack([part.mean() for part in torch.split(signal, [len(part) for part in composed.parts])])
    chosen: list[int] = []
    for i in means.argsort(descending=True).tolist():
        chosen.extend(composed.parts[i][: budget - len(chosen)])
    return chosen


def _none(composed: Composed, signal: torch.Tensor | None, budget: int) -> list[int]:
    return []


_Choice = Callable[[Composed, torch.Tensor | None, int], Sequence[int]]
STRATEGIES: dict[StrategyName, tuple[Signal | None, _Choice]] = {
    "none": (None, _none),
    "first": (None, _first),
    "deviation": ("deviation", _strongest),
    "attention": ("attention", _strongest),
    "lines": ("attention", _lines),
}
