"""When requests leave, and how long they are: a seeded process, or a trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.load.settings import LoadError
from benchmarks.suites import trace

PATTERNS = ("poisson", "bursts", "constant")
_BURSTINESS = {"poisson": 1.0, "bursts": 0.2}


@dataclass(frozen=True)
class Arrival:
    """``at``: seconds after the start of the run; lengths in tokens."""

    at: float
    input_tokens: int
    output_tokens: int


def arrivals(
    pattern: str, n: int, rate: float, burstiness: float | None, seed: int, input_tokens: int, output_tokens: int
) -> list[Arrival]:
    """``n`` arrivals at ``rate`` requests a second (infinite: all at once), the first one at 0.

    Gaps are drawn from a gamma distribution of shape ``burstiness``: 1 is Poisson's process, less comes in bursts, more
    is more even. They are stretched so that they add up to ``(n - 1) / rate`` seconds: every seed offers the same rate.
    """
    if pattern not in PATTERNS:
        raise LoadError(f"there is no pattern '{pattern}': {', '.join(PATTERNS)}, or a trace file")
    if n < 1 or not rate > 0:
        raise LoadError("a run needs a request, and a rate above 0")
    if burstiness is not None and (pattern == "constant" or not burstiness > 0):
        raise LoadError("burstiness must be above 0, and a constant pattern has none")
    if math.isinf(rate):
        gaps = np.zeros(n - 1)
    elif pattern == "constant":
        gaps = np.full(n - 1, 1 / rate)
    else:
        shape = _BURSTINESS[pattern] if burstiness is None else burstiness
        gaps = np.random.default_rng(seed).gamma(shape, size=n - 1)
        total = gaps.sum()
        # So bursty that no gap is above 0: they come at once.
        gaps = gaps * ((n - 1) / rate / total) if total > 0 else gaps
    times = [0.0, *np.cumsum(gaps).tolist()]
    return [Arrival(at, input_tokens, output_tokens) for at in times]


def traced(
    path: Path, n: int | None, time_scale: float, length_scale: float, max_input: int, max_output: int
) -> list[Arrival]:
    """The first ``n`` requests of a trace in Mooncake's format: times and lengths by their scales, lengths then cut to
    at most ``max_input`` and ``max_output`` tokens. Raises ``LoadError``."""
    if not time_scale > 0 or not length_scale > 0:
        raise LoadError("scales must be above 0")
    try:
        requests = trace.load(path)[:n]
    except (OSError, ValueError) as error:
        raise LoadError(str(error)) from error
    begin = requests[0].at

    def scaled(tokens: int, most: int) -> int:
        return max(1, min(most, round(tokens * length_scale)))

    return [
        Arrival((r.at - begin) * time_scale, scaled(r.input_length, max_input), scaled(r.output_length, max_output))
        for r in requests
    ]
