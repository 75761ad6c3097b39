"""The choice of the segment to evict first."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

from kvcache.entry import Entry

# A use loses half its weight in an hour: long enough for a conversation, short enough to follow a change of topic.
HALF_LIFE_S = 3600.0


def value(entry: Entry, now: float) -> float:
    """Return the expected prefill saved per byte kept: (tokens x position) x decayed uses / bytes.

    A token behind a long prefix costs more to recompute (attention grows with position), hence ``end`` as weight.
    """
    end = entry.start + entry.n_tokens
    age_s = max(0.0, now - entry.last_used_at)
    decayed_uses = (entry.uses + 1) * math.pow(0.5, age_s / HALF_LIFE_S)
    return entry.n_tokens * (1.0 + end / 4096) * decayed_uses / entry.nbytes


def ranked(entries: Iterable[Entry], now: float) -> list[list[Entry]]:
    """List the entries of each model, the least valuable first. Bytes and uses of different models do not compare."""
    by_model: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_model[entry.fingerprint].append(entry)
    return [sorted(of_model, key=lambda entry: value(entry, now)) for of_model in by_model.values()]


def first_out(of_models: Iterable[list[Entry]], may_leave: Callable[[Entry], bool]) -> Entry | None:
    """Choose, of each model's entries (see :func:`ranked`), the first that may leave, and of these the one that was not
    used for the longest time. None where none may leave."""
    firsts = (next((entry for entry in of_model if may_leave(entry)), None) for of_model in of_models)
    return min((entry for entry in firsts if entry is not None), key=lambda e: e.last_used_at, default=None)
