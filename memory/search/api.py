"""Search over one or several cubes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from memory.checks import checked_kind
from memory.language.names import linked, mentioned_by
from memory.search.index import StoreBase
from memory.search.scoring import Search, SearchQuery
from memory.search.vectors import Vector
from memory.storage.sqlite.rows import LIVE
from memory.types import Hit


class Rerank(Protocol):
    """Scores texts against a query; higher is better."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True)
class Surroundings:
    """Memories around a turn, by id: cosine to what was said, neighbours by name, and the label of each."""

    cosines: Mapping[str, float]
    neighbours: frozenset[str]
    labels: Mapping[str, str]


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

    def around(self, tenant: str, cube_id: str, text: str, ids: Sequence[str], n: int = 256) -> Surroundings:
        """What lies around a turn of a conversation: the memories nearest to ``text``, those that share a name with
        the memories ``ids``, and the labels of all of these. Raises ``NotFound``, ``EmbedderError``."""
        cube = self.cube(tenant, cube_id)
        near: list[tuple[int, float]] = []
        if text.strip():
            (vector,) = self._embeddings.of([text])
        with self._database.read() as db:
            if text.strip():
                near = self._index(cube.id).nearest(vector, n, floor=0.0)
            of_ids = "SELECT rowid AS row FROM memories WHERE cube_id = ? AND id IN (SELECT value FROM json_each(?))"
            rows = [row["row"] for row in db.execute(of_ids, (cube.id, json.dumps(list(ids))))]
            linked_rows = linked(db, mentioned_by(db, rows))
            cosines = dict(near)
            wanted = json.dumps([*cosines, *rows, *linked_rows])
            found = db.execute(
                f"SELECT rowid AS row, id, version FROM memories WHERE cube_id = ? AND {LIVE}"
                " AND rowid IN (SELECT value FROM json_each(?))",
                (cube.id, wanted),
            ).fetchall()
        return Surroundings(
            cosines={row["id"]: cosines[row["row"]] for row in found if row["row"] in cosines},
            neighbours=frozenset(row["id"] for row in found if row["row"] in linked_rows),
            labels={row["id"]: f"{row['id']}@{row['version']}" for row in found},
        )

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
