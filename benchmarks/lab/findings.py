"""What follows from measured rows: from how many tokens, and from which use on, activation pays."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


def single(rows: Iterable[Row], model: str) -> list[Row]:
    """The model's rows with one request at a time."""
    return [row for row in rows if row["model"] == model and row["requests"] == 1]


def cells(rows: Iterable[Row]) -> list[tuple[int, int]]:
    """(context, query) of the rows, in their order."""
    return list(dict.fromkeys((row["context_tokens"], row["query_tokens"]) for row in rows))


def find(rows: Iterable[Row], cell: tuple[int, int], mode: str) -> Row | None:
    return next((r for r in rows if (r["context_tokens"], r["query_tokens"]) == cell and r["mode"] == mode), None)


def saved_s(rows: Sequence[Row], cell: tuple[int, int], mode: str) -> float | None:
    """Seconds that one use saves: direct prefill less the mode."""
    direct, other = find(rows, cell, "direct"), find(rows, cell, mode)
    return None if direct is None or other is None else direct["ttft_s"]["p50"] - other["ttft_s"]["p50"]


def uses_needed(rows: Sequence[Row], cell: tuple[int, int], mode: str) -> float | None:
    """Uses after which a build of its own has paid for itself; None where a use saves nothing.

    A memory that is built by its first use (its prefill is needed then anyway) has paid at its second.
    """
    saved, row = saved_s(rows, cell, mode), find(rows, cell, mode)
    if saved is None or row is None or row["build_s"] is None or saved <= 0:
        return None
    return float(row["build_s"] / saved)


@dataclass(frozen=True)
class BreakEven:
    """``tokens``: the context from which a use saves time, by the straight line through the savings measured at the
    smallest query; ``measured``: the smallest context measured that does. None where there is none."""

    mode: str
    tokens: int | None
    measured: int | None


def break_even(rows: Sequence[Row], mode: str) -> BreakEven | None:
    """None where the mode was not measured."""
    query = min((row["query_tokens"] for row in rows), default=0)
    points = [(c, saved) for c, q in cells(rows) if q == query and (saved := saved_s(rows, (c, q), mode)) is not None]
    if not points:
        return None
    paying = [context for context, saved in points if saved > 0]
    tokens = None
    if len(points) > 1:
        slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
        if slope > 0:
            tokens = max(0, round(-intercept / slope))
    return BreakEven(mode, tokens, min(paying, default=None))


def sentence(model: str, rows: Sequence[Row]) -> str:
    """When activation pays for this model on this machine, in plain words."""
    for mode, where in (("disk", "from disk"), ("resident", "from memory")):
        found = break_even(rows, mode)
        if found is None:
            continue
        if found.measured is None:
            return f"{model}: on this machine activation {where} does not pay at any length measured."
        smallest = min(context for context, _ in cells(rows))
        if found.measured > smallest:
            begin = f"pays from {found.tokens or found.measured:,} tokens of context"
        else:
            begin = f"pays from the smallest context measured ({smallest:,} tokens) on"
        longest = max(cells(rows))
        uses = uses_needed(rows, longest, mode)
        after = "" if uses is None else f"; a build of its own at {longest[0]:,} tokens has paid after {uses:.1f} uses"
        return f"{model}: on this machine activation {where} {begin}{after}."
    return f"{model}: nothing was measured that says whether activation pays."
