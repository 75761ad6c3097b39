"""Which segment to give up first."""

from __future__ import annotations

import math

from kvcache.index import Entry

# A use loses half its weight in an hour: long enough for a conversation, short enough to follow a change of topic.
HALF_LIFE_S = 3600.0


def value(entry: Entry, now: float) -> float:
    """Expected prefill saved per byte kept: (tokens x position) x decayed uses / bytes.

    A token behind a long prefix costs more to recompute (attention grows with position), hence ``end`` as weight.
    """
    end = entry.start + entry.n_tokens
    age_s = max(0.0, now - entry.last_used_at)
    decayed_uses = (entry.uses + 1) * math.pow(0.5, age_s / HALF_LIFE_S)
    return entry.n_tokens * (1.0 + end / 4096) * decayed_uses / entry.nbytes
