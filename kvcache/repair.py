"""The choice of composed tokens to recompute.

A standalone segment was computed behind other tokens than those it is composed behind. Most of its keys and values
hardly differ; the few that do, and matter, are repaired: computed at their place in the same pass as the query. A
strategy says which, from a *signal* that the engine has found out about each composed token:

    none        nothing
    first       the first tokens of each run (EPIC, arXiv 2410.15332): they were computed as the start of everything
    deviation   those whose keys and values differ most in the second layer (CacheBlend, arXiv 2405.16444)
    attention   those that the query attends to most, in a light first pass over the composed memory
    lines       whole parts, those that the query attends to most per token

A strategy is an entry of ``STRATEGIES``, a signal one of ``SIGNALS``: engines know the two kinds of signals,
:class:`Comparison` and :class:`Weighing`, not the signals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

StrategyName = Literal["none", "first", "deviation", "attention", "lines"]
SignalName = Literal["attention", "deviation"]


@dataclass(frozen=True)
class Comparison:
    """A signal that compares the keys and values that composed tokens ask for with those that were moved there.

    They are compared in layer ``layer`` (from 0), behind which nothing need be run. ``sums`` takes new and old vectors,
    [kv_heads, tokens, head_dim] each, and gives tensors [tokens] that are added up where several devices hold a share
    of the heads; ``signal`` makes float32 [tokens] of them. That of keys and that of values are added.
    """

    layer: int
    sums: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
    signal: Callable[..., torch.Tensor]

    def of(self, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        """Compare vectors of all heads, [kv_heads, tokens, head_dim] each; float32 [tokens]."""
        return self.signal(*self.sums(new, old))


@dataclass(frozen=True)
class Weighing:
    """A signal made of the attention that the query pays to the composed tokens, summed over layers. ``of`` takes one
    layer's weights, float32 [kv_heads, heads / kv_heads, query tokens, tokens], and gives [tokens]."""

    of: Callable[[torch.Tensor], torch.Tensor]


Signal = Comparison | Weighing


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
        """Return what the engine must find out before the tokens can be chosen; nothing where all or none are."""
        name = STRATEGIES[self.strategy][0]
        return None if name is None or self.share in (0.0, 1.0) else SIGNALS[name]

    def choose(self, composed: Composed, signal: torch.Tensor | None) -> list[int]:
        """Choose the positions to compute anew, ascending, at most ``share`` of the composed tokens. ``signal`` is
        float [composed tokens], in the order of their positions."""
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
        """Join parts that follow each other as they did when they were built."""
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


def _far_and_large(new: torch.Tensor, old: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the squared distance and squared size of each token's vectors."""
    return (new - old).float().square().sum(dim=(0, 2)), new.float().square().sum(dim=(0, 2))


def _relative(far: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Divide squared distances by the mean size."""
    return far / size.mean()


def _paid(weights: torch.Tensor) -> torch.Tensor:
    """Sum all attention that each token gets."""
    return weights.sum(dim=(0, 1, 2))


SIGNALS: dict[SignalName, Signal] = {
    "deviation": Comparison(1, _far_and_large, _relative),
    "attention": Weighing(_paid),
}

_Choice = Callable[[Composed, torch.Tensor | None, int], Sequence[int]]
STRATEGIES: dict[StrategyName, tuple[SignalName | None, _Choice]] = {
    "none": (None, _none),
    "first": (None, _first),
    "deviation": ("deviation", _strongest),
    "attention": ("attention", _strongest),
    "lines": ("attention", _lines),
}
