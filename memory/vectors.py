"""Nearest neighbours over one cube's vectors: exact while that is quick, a graph (HNSW) above."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Below this cosine, all-MiniLM-L6-v2's neighbours are unrelated (unrelated pairs lie around 0.0 to 0.15).
MIN_COSINE = 0.2
# A scan of so many vectors of 384 numbers takes about 2 ms on one core.
EXACT_LIMIT = 20_000
_EXPANSION_SEARCH = 512
_GRAVE = 1 << 62


class _Index(Protocol):
    def __len__(self) -> int: ...
    def put(self, rows: Rows, vectors: Vector) -> None: ...
    def remove(self, row: int) -> None: ...
    def nearest(self, query: Vector, n: int) -> list[tuple[int, float]]: ...
    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]: ...


class CubeIndex:
    """The vectors of one cube by row id. Unit vectors, float32 [dim]. Not thread-safe."""

    def __init__(self, exact_limit: int | None = None, graph: GraphIndex | None = None) -> None:
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
        """Up to ``n`` rows with their cosine, best first, none below ``floor``."""
        return [(row, cosine) for row, cosine in self._index.nearest(query, n) if cosine >= floor]

    def nearest_to_each(self, queries: Sequence[Vector], n: int, floor: float) -> list[list[tuple[int, float]]]:
        """``nearest`` for several queries; a scan for all of them takes hardly longer than for one."""
        if isinstance(self._index, ExactIndex):
            return self._index.nearest_to_each(queries, n, floor)
        return [self.nearest(query, n, floor) for query in queries]

    def cosines(self, query: Vector, rows: Sequence[int]) -> dict[int, float]:
        """The cosine of each of these rows that there is."""
        return {row: float(vector @ query) for row, vector in self._index.vectors_of(rows).items()}

    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]:
        return self._index.vectors_of(rows)


class ExactIndex:
    """A matrix, scanned."""

    def __init__(self) -> None:
        self._rows: Rows = np.zeros(0, dtype=np.int64)
        self._place: dict[int, int] = {}
        self._vectors: Vector = np.zeros((0, 0), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._place)

    def put(self, rows: Rows, vectors: Vector) -> None:
        self._grow(len(self._place) + len(rows), vectors.shape[1])
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            place = self._place.setdefault(row, len(self._place))
            self._rows[place] = row
            self._vectors[place] = vector

    def remove(self, row: int) -> None:
        place = self._place.pop(row, None)
        if place is None:
            return
        last = len(self._place)
        if place != last:
            moved = int(self._rows[last])
            self._rows[place], self._vectors[place] = moved, self._vectors[last]
            self._place[moved] = place
        self._vectors[last] = 0.0  # a deleted memory's vector must not linger

    def nearest(self, query: Vector, n: int) -> list[tuple[int, float]]:
        if not self._place or self._vectors.shape[1] != query.shape[0]:
            return []
        cosines = self._cosines(query[None])[0]
        best = np.argsort(-cosines, kind="stable")[:n] if n >= len(cosines) else _top(cosines, n)
        return [(int(self._rows[i]), float(cosines[i])) for i in best]

    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]:
        return {row: self._vectors[self._place[row]] for row in rows if row in self._place}

    def nearest_to_each(self, queries: Sequence[Vector], n: int, floor: float) -> list[list[tuple[int, float]]]:
        """Up to ``n`` rows for each query, best first, none below ``floor``: quick where these are few."""
        if not self._place or not queries or self._vectors.shape[1] != queries[0].shape[0]:
            return [[] for _ in queries]
        cosines = self._cosines(np.stack(queries))
        found: list[list[tuple[int, float]]] = [[] for _ in queries]
        for i, place in np.argwhere(cosines >= floor).tolist():
            found[i].append((int(self._rows[place]), float(cosines[i, place])))
        return [sorted(pairs, key=lambda pair: -pair[1])[:n] for pairs in found]

    def _cosines(self, queries: Vector) -> Vector:
        """[queries, vectors]. By torch: numpy's own threads go on spinning after a product, and halve the speed of the
        models beside them."""
        import torch  # takes seconds, which a command's help need not wait for

        vectors = torch.from_numpy(self._vectors[: len(self._place)])
        asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
        # One query is a product with a vector, which is several times as quick as one with a matrix of one row.
        product = torch.mv(vectors, asked[0])[None] if len(asked) == 1 else (vectors @ asked.T).T
        cosines: Vector = product.numpy()
        return cosines

    def all(self) -> tuple[Rows, Vector]:
        n = len(self._place)
        return self._rows[:n], self._vectors[:n]

    def _grow(self, rows: int, dim: int) -> None:
        if rows <= self._vectors.shape[0] and self._vectors.shape[1] == dim:
            return
        n = len(self._place)
        grown = np.zeros((max(16, rows * 2), dim), dtype=np.float32)
        numbers = np.zeros(len(grown), dtype=np.int64)
        if n:
            grown[:n], numbers[:n] = self._vectors[:n], self._rows[:n]
        self._vectors, self._rows = grown, numbers


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
        """What ``save`` wrote. Raises ``ValueError`` for a file that is none, or of other vectors."""
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

    def nearest(self, query: Vector, n: int) -> list[tuple[int, float]]:
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


def _top(values: Vector, n: int) -> npt.NDArray[np.intp]:
    candidates = np.argpartition(-values, n)[:n]
    return candidates[np.argsort(-values[candidates], kind="stable")]
