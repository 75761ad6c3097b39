"""Putting search results in their final order with a model that reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import httpx

from memory.errors import RerankError


class EndpointRerank:
    """Any endpoint that speaks the ``/rerank`` that vLLM, Jina and Cohere share. ``url`` may end before ``/rerank``."""

    def __init__(self, url: str, model: str, api_key: str | None = None, timeout_s: float = 10.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url.rstrip("/").removesuffix("/rerank") + "/rerank"
        self._model = model
        self._client = httpx.Client(headers=headers, timeout=timeout_s)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Score texts against a query; higher is better. Raises ``RerankError``."""
        if not texts:
            return []
        body = {"model": self._model, "query": query, "documents": list(texts)}
        try:
            reply = self._client.post(self._url, json=body)
            reply.raise_for_status()
            found = _by_index(reply.json()["results"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise RerankError(f"the reranking endpoint failed: {type(error).__name__}") from error
        if sorted(found) != list(range(len(texts))):
            raise RerankError("the reranking endpoint did not score each text")
        return [found[i] for i in range(len(texts))]


def _by_index(results: list[dict[str, Any]]) -> dict[int, float]:
    scores = {int(result["index"]): float(result["relevance_score"]) for result in results}
    if len(scores) != len(results) or not all(math.isfinite(score) for score in scores.values()):
        raise ValueError("an index comes twice, or a score is no number")
    return scores
