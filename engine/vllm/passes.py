"""How tokens that are to be computed anew are divided into passes through the model.

Each run of neighbouring tokens is one sequence of a pass, and vLLM's attention back ends keep buffers for as many
sequences as a step may have (``max_num_seqs``): with more, FlashAttention 3 and FlashInfer fail, or write behind them.
Where there are more runs than that, gaps between runs are closed by computing what lies in them as well, or the runs
are divided among several passes, whichever computes less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Limits:
    """The limits of one pass, and its costs in tokens: those that could be computed in the time."""

    max_tokens: int
    max_runs: int
    per_pass: int = 32
    """What a pass costs whatever is in it: the weights are read once."""
    per_run: int = 0
    """What a run costs whatever its length: the keys and values before it are read once. Gaps that are no longer are
    always closed."""


def runs_of(positions: Sequence[int]) -> list[range]:
    """Group ascending positions into runs of neighbours."""
    runs: list[range] = []
    for position in positions:
        if runs and runs[-1].stop == position:
            runs[-1] = range(runs[-1].start, position + 1)
        else:
            runs.append(range(position, position + 1))
    return runs


def passes_of(positions: Sequence[int], limits: Limits) -> list[list[range]]:
    """Divide ascending positions into passes of ascending runs, every position of one pass before those of the next.

    All positions are in some run, and others only where they lie between two of them. No pass has more runs or more
    tokens than ``limits`` allow.
    """
    runs = runs_of(positions)
    gaps = sorted(after.start - before.stop for before, after in pairwise(runs))
    closed = _gaps_to_close(gaps, limits)
    return list(_packed(_closed(runs, gaps[:closed]), limits))


def _gaps_to_close(gaps: Sequence[int], limits: Limits) -> int:
    """Return how many of the ascending ``gaps`` to close, so that passes and the tokens in closed gaps cost least."""
    at_least = sum(gap <= limits.per_run for gap in gaps)
    best, best_cost = at_least, float("inf")
    for n_passes in range(1, len(gaps) // limits.max_runs + 2):
        close = max(at_least, len(gaps) + 1 - n_passes * limits.max_runs)
        cost = n_passes * limits.per_pass + sum(gaps[:close])
        if cost < best_cost:
            best, best_cost = close, cost
    return best


def _closed(runs: Sequence[range], gaps: Sequence[int]) -> list[range]:
    """Return the runs with gaps of these sizes closed, the first ones of each size."""
    left = {size: gaps.count(size) for size in set(gaps)}
    joined: list[range] = []
    for run in runs:
        gap = run.start - joined[-1].stop if joined else 0
        if joined and left.get(gap):
            left[gap] -= 1
            joined[-1] = range(joined[-1].start, run.stop)
        else:
            joined.append(run)
    return joined


def _packed(runs: Sequence[range], limits: Limits) -> Iterator[list[range]]:
    """Fill one pass after the other, cutting runs where a pass is full."""
    current: list[range] = []
    room = limits.max_tokens
    for run in runs:
        while run:
            if not room or len(current) == limits.max_runs:
                yield current
                current, room = [], limits.max_tokens
            current.append(run[:room])
            run = run[room:]
            room -= len(current[-1])
    if current:
        yield current
