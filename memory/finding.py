"""Search over one or several cubes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from memory.base import StoreBase
from memory.checks import checked_kind
from memory.searching import Search, SearchQuery
from memory.types import Hit
from memory.vectors import Vector


class Rerank(Protocol):
    """Scores texts against a query; higher is better."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]: ...


class SearchMethods(StoreBase):
    """Finding memories."""

    rerank: Rerank | None = None
    """Puts the best in their final order, where there is one."""

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Unit vectors, float32 [dim]; a search for one of these texts soon after need not embed it again. Raises
        ``EmbedderError``."""
        return self._embeddings.of(texts)

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
        """The ``top_k`` best active memories of these cubes, best first. More ``options`` are ``SearchQuery``'s: at,
        utc_offset, hops, diversity, floor. Raises ``NotFound``, ``InvalidMemory``, ``EmbedderError``."""
        cubes = tuple(dict.fromkeys(self.cube(tenant, cube_id).id for cube_id in cube_ids))
        wanted: dict[str, Any] = dict(filter or {})
        if kinds is not None:
            of_kinds = {"kind": {"in": [checked_kind(kind) for kind in kinds]}}
            wanted = {"and": [wanted, of_kinds]} if wanted else of_kinds
        if top_k < 1 or not cubes or not query.strip():
            return []
        (vector,) = self._embeddings.of([query])
        depth = top_k if self.rerank is None else max(20, 2 * top_k)
        asked = SearchQuery(query, cubes, depth, wanted or None, **options)
        with self._database.read() as db:
            hits = Search(db, asked, vector, self._index).hits()
        return self._reranked(query, hits)[:top_k]

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        """In the reranker's order, where there is one; the store is free while it is asked."""
        if self.rerank is None or not hits:
            return hits
        scores = self.rerank.scores(query, [hit.memory.text for hit in hits])
        scored = [
            replace(hit, score=score, parts={**hit.parts, "rerank": score})
            for hit, score in zip(hits, scores, strict=True)
        ]
        return sorted(scored, key=lambda hit: -hit.score)
