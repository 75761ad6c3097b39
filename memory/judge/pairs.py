"""Features of a pair: an older memory and what is said now."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.judge.cues import CUES
from memory.judge.traits import Traits

_CUES = tuple(CUES)
NAMES: tuple[str, ...] = (
    *("cosine", "best_cosine", "below_best", "rank", "n_near"),
    *("in_new", "in_old", "jaccard", "fuzzy_old", "fuzzy_new", "prefix", "suffix", "n_old", "n_new", "n_shared"),
    *("names_shared", "names_old", "names_new", "people_shared", "people_old", "people_new"),
    *("mine_shared", "mine_old_in_new", "first_old", "first_new"),
    *("numbers_shared", "numbers_old", "numbers_new", "unit_shared", "count_differs", "code_differs"),
    *("weekday_differs", "weekday_shared", "month_differs", "month_shared", "clock_differs"),
    *("past_old", "present_old", "past_new", "present_new", "spaced", "foreign"),
    *("slot_shared", "slot_value_shared", "slot_new", "slot_ends"),
    *("days", "previous", "same_author", "negation_differs"),
    *(f"new_{name}" for name in _CUES),
    *(f"old_{name}" for name in _CUES),
)
"""The features' names, in order; after them may stand what a probe says of the vectors."""


@dataclass(frozen=True)
class Setting:
    """What is known of a pair beside its words: the cosine of the two (nan: not known), the cosines of all candidates
    in ascending order, days between them, whether the older one was said just before, and by the same author."""

    cosine: float
    cosines: Sequence[float]
    days: float
    previous: bool
    same_author: bool


def features(pairs: Iterable[tuple[Traits, Traits, Setting]]) -> npt.NDArray[np.float32]:
    """Return the features of pairs of an older and a newer statement, float32 [pairs, len(NAMES)]."""
    return np.array([_features(old, new, setting) for old, new, setting in pairs], dtype=np.float32)


def _features(old: Traits, new: Traits, setting: Setting) -> tuple[float, ...]:
    return (
        *_nearness(setting),
        *_words(old, new),
        *_subjects(old, new),
        *_values(old, new),
        *(old.past, old.present, new.past, new.present, new.spaced, new.foreign),
        *_slots(old, new),
        *(math.log1p(max(0.0, setting.days)), setting.previous, setting.same_author),
        ("negated" in old.cues) != ("negated" in new.cues),
        *new.cue_flags,
        *old.cue_flags,
    )


def _nearness(setting: Setting) -> tuple[float, ...]:
    best = setting.cosines[-1] if setting.cosines else setting.cosine
    rank = len(setting.cosines) - bisect_right(setting.cosines, setting.cosine)
    near = len(setting.cosines) - bisect_right(setting.cosines, setting.cosine - 0.1)
    return (setting.cosine, best, best - setting.cosine, float(rank), float(near))


def _words(old: Traits, new: Traits) -> tuple[float, ...]:
    shared = old.stems & new.stems
    n_union = len(old.stems) + len(new.stems) - len(shared)
    fuzzy_old = fuzzy_new = len(shared)
    if not old.starts.isdisjoint(new.starts):
        fuzzy_old += sum(stem[:4] in new.starts for stem in old.stems - shared)
        fuzzy_new += sum(stem[:4] in old.starts for stem in new.stems - shared)
    prefix = _common(old.tokens, new.tokens)
    suffix = _common(old.backwards, new.backwards)
    shorter = max(1, min(len(old.tokens), len(new.tokens)))
    return (
        len(shared) / max(1, len(old.stems)),
        len(shared) / max(1, len(new.stems)),
        len(shared) / max(1, n_union),
        fuzzy_old / max(1, len(old.stems)),
        fuzzy_new / max(1, len(new.stems)),
        prefix / shorter,
        suffix / shorter,
        math.log1p(len(old.tokens)),
        math.log1p(len(new.tokens)),
        float(len(shared)),
    )


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    n = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        n += 1
    return n


def _subjects(old: Traits, new: Traits) -> tuple[float, ...]:
    return (
        float(len(old.names & new.names)),
        float(len(old.names - new.names)),
        float(len(new.names - old.names)),
        float(len(old.people & new.people)),
        float(len(old.people - new.people)),
        float(len(new.people - old.people)),
        float(len(old.mine & new.mine)),
        float(len(old.mine & new.stems)),
        float(old.first_person),
        float(new.first_person),
    )


def _slots(old: Traits, new: Traits) -> tuple[float, ...]:
    shared = new.slot is not None and new.slot == old.slot
    return (float(shared), float(shared and new.value == old.value), float(new.slot is not None), float(new.ends))


def _values(old: Traits, new: Traits) -> tuple[float, ...]:
    units = {unit for _, unit in old.numbers if unit} & {unit for _, unit in new.numbers if unit}
    return (
        float(len(old.numbers & new.numbers)),
        float(len(old.numbers - new.numbers)),
        float(len(new.numbers - old.numbers)),
        float(bool(units)),
        float(bool(old.counts and new.counts and old.counts != new.counts)),
        float(bool(old.codes and new.codes and not old.codes & new.codes)),
        *_differ(old.weekdays, new.weekdays),
        *_differ(old.months, new.months),
        float(bool(old.clocks and new.clocks and not old.clocks & new.clocks)),
    )


def _differ(old: frozenset[str], new: frozenset[str]) -> tuple[float, float]:
    return float(bool(old and new and not old & new)), float(bool(old & new))
