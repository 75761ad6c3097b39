"""Hybrid search: full text and vectors, fused by rank."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Reciprocal rank fusion, score = sum of 1 / (k + rank), with the k of Cormack, Clarke and Buettcher (SIGIR 2009).
RRF_K = 60
# Below this cosine, all-MiniLM-L6-v2's neighbours are unrelated (unrelated pairs lie around 0.0 to 0.15).
MIN_COSINE = 0.2
_MAX_TERMS = 64
_STOP_WORDS = frozenset(
    "a about am an and are as at be been being but by can could did do does for from had has have he her hers him "
    "his how i if in into is it its me mine my of on or our ours she should so than that the their theirs them then "
    "there these they this those to up us was we were what when where which who whom whose why will with would you "
    "your yours".split()
)


def match_expression(query: str) -> str | None:
    """The query's words as an FTS5 expression, any of them matching; None when it has no word to search for.

    Each word is quoted, so that nothing in the query is read as FTS5 syntax.
    """
    words = dict.fromkeys(re.findall(r"\w+", query.lower()))
    telling = [word for word in words if word not in _STOP_WORDS][:_MAX_TERMS]
    return " OR ".join(f'"{word}"' for word in telling) or None


def fuse(rankings: Sequence[Sequence[str]]) -> dict[str, float]:
    """Reciprocal rank fusion: the score of every id in any of the rankings (best first each)."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, id in enumerate(ranking, start=1):
            scores[id] = scores.get(id, 0.0) + 1.0 / (RRF_K + rank)
    return scores


class VectorIndex:
    """Exact nearest neighbours over one cube's vectors, in memory. Not thread-safe."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._row: dict[str, int] = {}
        self._vectors: npt.NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, id: str, vector: npt.NDArray[np.float32]) -> None:
        """Add or replace a unit vector."""
        row = self._row.get(id)
        if row is None:
            row = len(self._ids)
            self._grow(row + 1, vector.shape[0])
            self._ids.append(id)
            self._row[id] = row
        self._vectors[row] = vector

    def remove(self, id: str) -> None:
        """Forget a vector; unknown ids are fine."""
        row = self._row.pop(id, None)
        if row is None:
            return
        last_id = self._ids.pop()
        if last_id != id:
            self._ids[row] = last_id
            self._row[last_id] = row
            self._vectors[row] = self._vectors[len(self._ids)]
        self._vectors[len(self._ids)] = 0.0  # a deleted memory's vector must not linger

    def nearest(self, query: npt.NDArray[np.float32], n: int, floor: float) -> list[tuple[str, float]]:
        """Up to ``n`` ids with their cosine, best first, none below ``floor``."""
        if not self._ids or self._vectors.shape[1] != query.shape[0]:
            return []
        cosines = self._vectors[: len(self._ids)] @ query
        best = np.argsort(-cosines, kind="stable")[:n] if n >= len(cosines) else _top(cosines, n)
        return [(self._ids[i], float(cosines[i])) for i in best if cosines[i] >= floor]

    def _grow(self, rows: int, dim: int) -> None:
        if rows <= self._vectors.shape[0] and self._vectors.shape[1] == dim:
            return
        grown = np.zeros((max(16, rows * 2), dim), dtype=np.float32)
        if len(self._ids):
            grown[: len(self._ids)] = self._vectors[: len(self._ids)]
        self._vectors = grown


def _top(values: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.intp]:
    candidates = np.argpartition(-values, n)[:n]
    return candidates[np.argsort(-values[candidates], kind="stable")]
