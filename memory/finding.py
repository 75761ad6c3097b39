"""Search over one or several cubes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory.base import StoreBase
from memory.checks import checked_kind
from memory.searching import Rerank, Search, SearchQuery
from memory.types import Hit


class SearchMethods(StoreBase):
    """Finding memories."""

    rerank: Rerank | None = None
    """Puts the best in their final order, where there is one."""

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
        asked = SearchQuery(query, cubes, top_k, wanted or None, **options)
        with self._database.read() as db:
            return Search(db, asked, vector, self._index, self.rerank).hits()
