"""Results that differ from each other: near duplicates of a better one are left out, and, where that is asked for,
score is traded for difference (MMR, Carbonell and Goldstein 1998)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from memory.language.words import alike
from memory.search.scored import Scored
from memory.storage.base import Transaction
from memory.types import Vector

_SAME = 0.97
# The best ones are told apart in one product; most searches need no more.
_AT_ONCE = 20


class Apart:
    """Chooses results. ``cosines_of`` gives the cosines of memories to each other, float32 [memories, memories]."""

    def __init__(self, tx: Transaction, cosines_of: Callable[[Sequence[int]], Vector], diversity: float) -> None:
        self._tx = tx
        self._cosines_of = cosines_of
        self._diversity = diversity

    def choose(self, ranked: Sequence[Scored], n: int, depth: int) -> list[Scored]:
        """Return ``n`` of the ranked ones, each different from those before it. The first of them do not depend on
        ``n``: score is traded for difference among the best ``depth``, whatever is asked for."""
        size = depth if self._diversity else max(_AT_ONCE, 4 * n)
        while True:
            chosen = self._among_first(ranked[:size], n)
            if len(chosen) == n or size >= len(ranked):
                return chosen
            size = len(ranked)  # nearly all of the best ones say the same

    def _among_first(self, pool: Sequence[Scored], n: int) -> list[Scored]:
        cosines = self._cosines_of([c.number for c in pool])
        likest = np.zeros(len(pool), dtype=np.float32)  # of each to the chosen one that is most like it
        left = list(range(len(pool)))
        chosen: list[Scored] = []
        while left and len(chosen) < n:
            best = max(left, key=lambda i: self._gain(pool[i], float(likest[i]))) if self._diversity else left[0]
            left.remove(best)
            if likest[best] < _SAME or not self._duplicate(pool[best], chosen):
                chosen.append(pool[best])
                np.maximum(likest, cosines[best], out=likest)
        return chosen

    def _duplicate(self, candidate: Scored, chosen: Sequence[Scored]) -> bool:
        """Tell if a result with nearly the same vector as a better one has the same words too."""
        texts = self._tx.candidates.memories([candidate.number, *(c.number for c in chosen)])
        text = texts[candidate.number].text
        return any(alike(text, texts[c.number].text) for c in chosen)

    def _gain(self, candidate: Scored, likest: float) -> float:
        return (1 - self._diversity) * candidate.score - self._diversity * likest
