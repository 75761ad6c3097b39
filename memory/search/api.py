"""Search over one or several cubes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from memory.checks import checked_kind
from memory.search.index import SearchIndex
from memory.search.relevance import chance_of
from memory.search.scoring import Search, SearchQuery, linked
from memory.storage.access import find_cube
from memory.storage.base import Storage
from memory.types import Hit, Vector


class Rerank(Protocol):
    """Scores texts against a query; higher is better."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True)
class Surroundings:
    """Memories around a turn, by id: cosine to what was said, neighbours by name, and the label of each."""

    cosines: Mapping[str, float]
    neighbours: frozenset[str]
    labels: Mapping[str, str]


class MemorySearch:
    """Finding memories."""

    def __init__(self, storage: Storage, index: SearchIndex, rerank: Rerank | None = None) -> None:
        self.rerank = rerank
        """Puts the best in their final order, where there is one."""
        self._storage = storage
        self._index = index

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return unit vectors of questions, float32 [dim]; a search for one of these texts soon after need not embed it
        again. Raises ``EmbedderError``."""
        return self._index.embeddings.of(texts, "query")

    def search(
        self,
        tenant: str,
        query: str,
        *,
        cube_ids: Sequence[str],
        top_k: int = 5,
        kinds: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Hit]:
        """Find the ``top_k`` best active memories of these cubes, best first. More ``options`` are ``SearchQuery``'s:
        at, utc_offset, hops, diversity, floor, relevant. Raises ``NotFound``, ``InvalidMemory``, ``EmbedderError``."""
        cubes = tuple(dict.fromkeys(find_cube(self._storage, tenant, cube_id).id for cube_id in cube_ids))
        wanted: dict[str, Any] = dict(filter or {})
        if kinds is not None:
            of_kinds = {"kind": {"in": [checked_kind(kind) for kind in kinds]}}
            wanted = {"and": [wanted, of_kinds]} if wanted else of_kinds
        if top_k < 1 or not cubes or not query.strip():
            return []
        (vector,) = self._index.embeddings.of([query], "query")
        depth = top_k if self.rerank is None else max(20, 2 * top_k)
        asked = SearchQuery(query, cubes, depth, wanted or None, **options)
        with self._storage.read() as tx:
            hits = Search(tx, asked, vector, self._index.cube, chance_of(self._index.embeddings.name)).hits()
        return self._reranked(query, hits)[:top_k]

    def around(self, tenant: str, cube_id: str, text: str, ids: Sequence[str], n: int = 256) -> Surroundings:
        """Return what lies around a turn of a conversation: the memories nearest to ``text``, those that share a name
        with the memories ``ids``, and the labels of all of these. Raises ``NotFound``, ``EmbedderError``."""
        cube = find_cube(self._storage, tenant, cube_id)
        near: list[tuple[int, float]] = []
        if text.strip():
            (vector,) = self._index.embeddings.of([text], "query")
        with self._storage.read() as tx:
            if text.strip():
                near = self._index.cube(cube.id).nearest(vector, n, floor=0.0)
            numbers = tx.candidates.numbers(cube.id, ids)
            neighbours = linked(tx, tx.names.of_memories(numbers))
            cosines = dict(near)
            found = tx.candidates.labels(cube.id, [*cosines, *numbers, *neighbours])
        return Surroundings(
            cosines={id: cosines[number] for number, id, _ in found if number in cosines},
            neighbours=frozenset(id for number, id, _ in found if number in neighbours),
            labels={id: label for _, id, label in found},
        )

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        """Put hits in the reranker's order, where there is one; the store is free while it is asked."""
        if self.rerank is None or not hits:
            return hits
        scores = self.rerank.scores(query, [hit.memory.text for hit in hits])
        scored = [
            replace(hit, score=score, parts={**hit.parts, "rerank": score})
            for hit, score in zip(hits, scores, strict=True)
        ]
        return sorted(scored, key=lambda hit: -hit.score)
