"""What the lab keeps of its measurements: times by mode, and the rows that are made of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from benchmarks.lab.outputs import Outputs
from benchmarks.support.stats import Interval


@dataclass
class BuildSamples:
    """Of one context, by mode, round after round. Seconds."""

    build: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    store: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)


@dataclass
class Samples:
    """Of one cell, by mode, round after round. Seconds."""

    ttft: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    equal: defaultdict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    own_build: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    own_direct: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    bare: list[float] = field(default_factory=list)
    outputs: dict[str, Outputs] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One mode in one cell. Times in seconds; ``speedup_percent`` is (direct - mode) / direct, of the pairs of a round,
    for peers against their own direct prefill; ``build_s`` until the context can be used, ``store_s`` from then until
    all of it is on disk. ``bare_s``: a pass over the query alone, keys and values in place, without the engine.
    ``outputs_equal``: stored chains gave the very logits of direct prefill cut where they end, and in every round the
    same tokens; other modes, the tokens of direct prefill."""

    model: str
    context_tokens: int
    query_tokens: int
    mode: str
    ttft_s: Interval
    build_s: float | None
    store_s: float | None
    speedup_percent: float
    floor_s: float
    ratio_to_floor: float
    ratio_to_resident: float | None
    outputs_equal: bool
    outputs: Outputs | None = None
    bare_s: float | None = None
    ratio_to_bare: float | None = None
    rounds: int = 0
    fidelity: str | None = None
    codec: str | None = None
    requests: int = 1


@dataclass(frozen=True)
class BuildRow:
    """Building a context against plain prefill of as many tokens by the same engine, in the same rounds. ``store_s``
    is None where nothing is written."""

    model: str
    context_tokens: int
    build_s: Interval
    prefill_s: Interval
    ratio_to_prefill: float
    store_s: float | None
    nbytes: int
    floor_s: float
    ratio_to_floor: float


def join(kept: Samples, taken: Samples) -> None:
    """Add a round to those before it."""
    for into, other in (
        (kept.ttft, taken.ttft),
        (kept.own_build, taken.own_build),
        (kept.own_direct, taken.own_direct),
    ):
        for mode, times in other.items():
            into[mode] += times
    for mode, equal in taken.equal.items():
        kept.equal[mode] += equal
    kept.bare += taken.bare
