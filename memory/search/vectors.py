"""Nearest neighbours over one cube's vectors: exact while that is quick, a graph (HNSW) above."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memory.search.calibration import AS_IT_IS, Calibration
from memory.types import Vector

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Places = npt.NDArray[np.intp]

# Below this cosine, all-MiniLM-L6-v2's neighbours are unrelated (unrelated pairs lie around 0.0 to 0.15).
MIN_COSINE = 0.2
# A scan of this many vectors of 384 numbers takes under 1 ms on one core.
EXACT_LIMIT = 20_000
# More vectors than this are scanned as numbers of 8 bits, from -127 to 127.
_ROUGHLY = 4_000
_STEPS = 127
# Vectors are unit vectors, up to what float16 rounds.
_LENGTH = 1.01
# A share of all vectors that is compared in full more quickly by one product than row by row.
_MANY = 1 / 8
_EXPANSION_SEARCH = 512
_GRAVE = 1 << 62


class _Index(Protocol):
    def __len__(self) -> int: ...
    def put(self, rows: Rows, vectors: Vector) -> None: ...
    def remove(self, row: int) -> None: ...
    def nearest(self, query: Vector, n: int, floor: float) -> list[tuple[int, float]]: ...
    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]: ...


class CubeIndex:
    """The vectors of one cube by row id. Unit vectors, float32 [dim]. Not thread-safe. Cosines, and the floors for
    them, are on the scale of ``calibration``."""

    def __init__(
        self, exact_limit: int | None = None, graph: GraphIndex | None = None, calibration: Calibration = AS_IT_IS
    ) -> None:
        self.calibration = calibration
        self._exact_limit = EXACT_LIMIT if exact_limit is None else exact_limit
        self._index: _Index = graph or ExactIndex()

    @property
    def graph(self) -> GraphIndex | None:
        """The graph, once there are enough vectors for one."""
        return self._index if isinstance(self._index, GraphIndex) else None

    def __len__(self) -> int:
        return len(self._index)

    def put(self, items: Iterable[tuple[int, Vector]]) -> None:
        """Add or replace vectors."""
        pairs = list(items)
        if not pairs:
            return
        rows = np.array([row for row, _ in pairs], dtype=np.int64)
        vectors = np.stack([vector for _, vector in pairs]).astype(np.float32)
        if isinstance(self._index, ExactIndex) and len(self._index) + len(rows) > self._exact_limit:
            graph = GraphIndex(vectors.shape[1])
            old_rows, old = self._index.all()
            if len(old_rows):
                graph.put(old_rows, old)
            self._index = graph
        self._index.put(rows, vectors)

    def remove(self, row: int) -> None:
        """Forget a vector; unknown rows are fine."""
        self._index.remove(row)

    def nearest(self, query: Vector, n: int, floor: float = MIN_COSINE) -> list[tuple[int, float]]:
        """Return up to ``n`` rows with their cosine, best first, none below ``floor``."""
        scale = self.calibration.scale(query)
        found = self._index.nearest(query, n, scale.unscaled(floor))
        scaled = [(row, scale.scaled(cosine)) for row, cosine in found]
        return [(row, cosine) for row, cosine in scaled if cosine >= floor]

    def nearest_to_each(self, queries: Sequence[Vector], n: int, floor: float) -> list[list[tuple[int, float]]]:
        """Return ``nearest`` for several queries; a scan for all of them takes hardly longer than for one."""
        if not isinstance(self._index, ExactIndex):
            return [self.nearest(query, n, floor) for query in queries]
        scales = [self.calibration.scale(query) for query in queries]
        found = self._index.nearest_to_each(queries, n, [scale.unscaled(floor) for scale in scales])
        return [
            [(row, scale.scaled(cosine)) for row, cosine in pairs] for scale, pairs in zip(scales, found, strict=True)
        ]

    def cosines(self, query: Vector, rows: Sequence[int]) -> dict[int, float]:
        """Return the cosine of each of these rows that there is."""
        known = self._index.vectors_of(rows)
        if not known:
            return {}
        scale = self.calibration.scale(query)
        cosines = _products(np.stack(list(known.values())), query).tolist()
        return {row: scale.scaled(cosine) for row, cosine in zip(known, cosines, strict=True)}

    def scaled(self, query: Vector, cosine: float) -> float:
        """Return a cosine with ``query`` on the scale."""
        return self.calibration.scale(query).scaled(cosine)

    def between(self, vectors: Vector) -> Vector:
        """Return the cosines of vectors [n, dim] to each other, float32 [n, n]."""
        return self.calibration.between(vectors)

    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]:
        return self._index.vectors_of(rows)


class ExactIndex:
    """A matrix, scanned: a quarter of its bytes, in numbers of 8 bits, says which vectors can be among the nearest
    (the rounding's error has a bound), and only these are compared in full."""

    def __init__(self) -> None:
        self._rows: Rows = np.zeros(0, dtype=np.int64)
        self._place: dict[int, int] = {}
        self._vectors: Vector = np.zeros((0, 0), dtype=np.float32)
        self._codes: Codes = np.zeros((0, 0), dtype=np.int8)
        self._steps: Vector = np.zeros(0, dtype=np.float32)
        self._worst = 0.0  # the largest error of a vector that was ever rounded

    def __len__(self) -> int:
        return len(self._place)

    def put(self, rows: Rows, vectors: Vector) -> None:
        self._grow(len(self._place) + len(rows), vectors.shape[1])
        codes, steps, errors = _rounded(vectors)
        self._worst = max(self._worst, float(errors[np.isfinite(errors)].max(initial=0.0)))
        for i, row in enumerate(rows.tolist()):
            place = self._place.setdefault(row, len(self._place))
            self._rows[place] = row
            self._vectors[place], self._codes[place], self._steps[place] = vectors[i], codes[i], steps[i]

    def remove(self, row: int) -> None:
        place = self._place.pop(row, None)
        if place is None:
            return
        last = len(self._place)
        if place != last:
            moved = int(self._rows[last])
            self._rows[place], self._vectors[place] = moved, self._vectors[last]
            self._codes[place], self._steps[place] = self._codes[last], self._steps[last]
            self._place[moved] = place
        self._vectors[last], self._codes[last] = 0.0, 0  # a deleted memory's vector must not linger

    def nearest(self, query: Vector, n: int, floor: float) -> list[tuple[int, float]]:
        if n < 1 or not self._place or self._vectors.shape[1] != query.shape[0]:
            return []
        places = self._possible(query, n, floor)
        every = len(places) == len(self._place)
        cosines = _products(self._vectors[: len(places)] if every else self._vectors[places], query)
        best = _top(cosines, n)
        return list(zip(self._rows[places[best]].tolist(), cosines[best].tolist(), strict=True))

    def _possible(self, query: Vector, n: int, floor: float) -> Places:
        """Return places that can be among the ``n`` nearest, and not below ``floor``; all, where it is not worth to
        know.

        With x = s c + e for a vector and its 8-bit numbers c, |q.x - (s_q c_q).(s c)| <= |q| |e| + |e_q| |s c|
        (Cauchy and Schwarz), and |s c| is at most |x| + |e|.
        """
        import torch  # takes seconds, which a command's help need not wait for

        size = len(self._place)
        if size <= max(_ROUGHLY, n) or not _counts_whole_numbers():
            return np.arange(size)
        codes, steps, errors = _rounded(query[None])
        # By torch: one product of 8-bit numbers, several times as quick as one of floats.
        dots = torch._int_mm(torch.from_numpy(self._codes[:size]), torch.from_numpy(codes[0][:, None].copy()))
        near = dots.numpy()[:, 0] * (self._steps[:size] * steps[0])
        wrong = float(np.linalg.norm(query)) * self._worst + float(errors[0]) * (_LENGTH + self._worst)
        nth = float(np.partition(near, size - n)[size - n]) - 2 * wrong
        places = np.flatnonzero(near >= max(nth, floor - wrong))
        return places if len(places) < _MANY * size else np.arange(size)

    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]:
        return {row: self._vectors[self._place[row]] for row in rows if row in self._place}

    def nearest_to_each(
        self, queries: Sequence[Vector], n: int, floors: Sequence[float]
    ) -> list[list[tuple[int, float]]]:
        """Return up to ``n`` rows for each query, best first, none below its floor: quick where these are few."""
        if not self._place or not queries or self._vectors.shape[1] != queries[0].shape[0]:
            return [[] for _ in queries]
        cosines = _products_with_each(self._vectors[: len(self._place)], np.stack(queries))
        return [self._best(row, n, floor) for row, floor in zip(cosines, floors, strict=True)]

    def _best(self, cosines: Vector, n: int, floor: float) -> list[tuple[int, float]]:
        """Return the ``n`` rows with the largest cosines, best first, none below ``floor``."""
        places = np.flatnonzero(cosines >= np.float32(floor))
        if len(places) > n:
            places = places[_top(cosines[places], n)]
        else:
            places = places[np.argsort(-cosines[places], kind="stable")]
        return list(zip(self._rows[places].tolist(), cosines[places].tolist(), strict=True))

    def all(self) -> tuple[Rows, Vector]:
        n = len(self._place)
        return self._rows[:n], self._vectors[:n]

    def _grow(self, rows: int, dim: int) -> None:
        if rows <= self._vectors.shape[0] and self._vectors.shape[1] == dim:
            return
        n = len(self._place)
        grown = np.zeros((max(16, rows * 2), dim), dtype=np.float32)
        codes, steps = np.zeros(grown.shape, dtype=np.int8), np.zeros(len(grown), dtype=np.float32)
        numbers = np.zeros(len(grown), dtype=np.int64)
        if n:
            grown[:n], numbers[:n] = self._vectors[:n], self._rows[:n]
            codes[:n], steps[:n] = self._codes[:n], self._steps[:n]
        self._vectors, self._rows, self._codes, self._steps = grown, numbers, codes, steps


class GraphIndex:
    """A navigable small-world graph over vectors of 8-bit numbers (usearch): a fifth of the memory, and a search
    that hardly grows with their number, for a recall just under 1 (``recallkv bench search`` measures it).

    The library leaves a removed vector where it was until its place is taken. So a removed one's place is taken at
    once, by a *grave*: a vector that says nothing, and that makes room for the next.
    """

    def __init__(self, dim: int) -> None:
        from usearch.index import Index

        self.dim = dim
        self._index = Index(ndim=dim, metric="cos", dtype="i8", expansion_search=_EXPANSION_SEARCH)
        self._graves: list[int] = []

    @classmethod
    def load(cls, path: Path, dim: int) -> GraphIndex:
        """Read what ``save`` wrote. Raises ``ValueError`` for a file that is none, or of other vectors."""
        graph = cls(dim)
        try:
            graph._index.load(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is not an index: {error}") from error
        if graph._index.ndim != dim:
            raise ValueError(f"{path} holds vectors of {graph._index.ndim} numbers, not {dim}")
        graph._graves = [int(key) for key in np.atleast_1d(graph._index.keys[:]) if key >= _GRAVE]
        return graph

    def save(self, path: Path) -> None:
        """Write the graph to a file, which takes ``path``'s place when it is whole."""
        fresh = path.with_suffix(".new")
        self._index.save(str(fresh))
        fresh.replace(path)

    def __len__(self) -> int:
        return len(self._index) - len(self._graves)

    def rows(self) -> Rows:
        keys: Rows = np.atleast_1d(self._index.keys[:]).astype(np.int64)
        return keys[keys < _GRAVE]

    def put(self, rows: Rows, vectors: Vector) -> None:
        for row in rows.tolist():
            if row in self._index:
                self._index.remove(row)
            elif self._graves:
                self._index.remove(self._graves.pop())
        self._index.add(rows.astype(np.uint64), vectors)

    def remove(self, row: int) -> None:
        if row not in self._index:
            return
        self._index.remove(row)
        grave = max(self._graves, default=_GRAVE) + 1
        self._index.add(grave, np.eye(1, self.dim, dtype=np.float32)[0])
        self._graves.append(grave)

    def nearest(self, query: Vector, n: int, floor: float) -> list[tuple[int, float]]:
        if not len(self) or query.shape[0] != self.dim:
            return []
        found = self._index.search(query, n + min(len(self._graves), 64))
        pairs = zip(found.keys.tolist(), found.distances.tolist(), strict=True)
        return [(row, 1.0 - away) for row, away in pairs if row < _GRAVE][:n]

    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]:
        keys = np.array(rows, dtype=np.uint64)
        keys = keys[np.asarray(self._index.contains(keys), dtype=bool)] if len(keys) else keys
        if not len(keys):
            return {}
        vectors = np.asarray(self._index.get(keys), dtype=np.float32).reshape(len(keys), self.dim)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return dict(zip(keys.tolist(), vectors, strict=True))


@functools.cache
def _counts_whole_numbers() -> bool:
    """Tell if products of 8-bit numbers are exact here: on CPUs without instructions for them (VNNI), oneDNN adds them
    up in 16 bits, which do not hold the largest."""
    import torch

    try:
        left = torch.tensor([[_STEPS] * 384, [-_STEPS] * 384, [_STEPS, -_STEPS] * 192], dtype=torch.int8).repeat(32, 1)
        rights = (torch.full((384, 1), _STEPS, dtype=torch.int8), left[2][:, None].contiguous())
        return all(torch.equal(torch._int_mm(left, right).long(), left.long() @ right.long()) for right in rights)
    except (AttributeError, RuntimeError):  # PyTorch's own name for it, which others need not have
        return False


def _rounded(vectors: Vector) -> tuple[Codes, Vector, Vector]:
    """Return 8-bit numbers [n, dim], the step of each vector [n], and the length of each one's error [n]."""
    steps: Vector = (np.abs(vectors).max(axis=1) / _STEPS + np.float32(1e-30)).astype(np.float32)
    codes = np.rint(vectors / steps[:, None]).astype(np.int8)
    errors: Vector = np.linalg.norm(vectors - codes * steps[:, None], axis=1)
    return codes, steps, errors


def _products(vectors: Vector, query: Vector) -> Vector:
    """Return scalar products [n] of vectors [n, dim] with one. By torch: numpy's own threads go on spinning after a
    product, and halve the speed of the models beside them."""
    import torch

    products: Vector = torch.mv(torch.from_numpy(vectors), torch.from_numpy(np.ascontiguousarray(query))).numpy()
    return products


def _products_with_each(vectors: Vector, queries: Vector) -> Vector:
    """Return scalar products [queries, n]; by torch, as above."""
    import torch

    products: Vector = (torch.from_numpy(vectors) @ torch.from_numpy(queries).T).T.numpy()
    return products


def _top(values: Vector, n: int) -> Places:
    """Return places of the ``n`` largest, largest first."""
    if n >= len(values):
        return np.argsort(-values, kind="stable")
    candidates = np.argpartition(-values, n)[:n]
    return candidates[np.argsort(-values[candidates], kind="stable")]
