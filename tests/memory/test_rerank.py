from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memory import EndpointRerank, HashEmbedder, MemoryStore, RerankError


class _Endpoint(http.server.BaseHTTPRequestHandler):
    """Prefers short texts."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/rerank"
        assert set(body) == {"model", "query", "documents"}
        known = self.headers.get("Authorization") == "Bearer secret"
        payload = json.dumps(self._reply(body["model"], body["documents"])).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    @staticmethod
    def _reply(model: str, documents: list[str]) -> Any:
        results: list[Any] = [
            {"index": i, "document": {"text": text}, "relevance_score": 1 / len(text)}
            for i, text in enumerate(documents)
        ]
        results.sort(key=lambda result: -result["relevance_score"])
        changed: dict[str, Any] = {
            "short": results[:-1],
            "twice": results + results[:1],
            "beyond": [*results[:-1], {"index": 99, "relevance_score": 1}],
            "nan": [{**result, "relevance_score": float("nan")} for result in results],
            "text": [{**result, "relevance_score": "high"} for result in results],
            "none": None,
            "strange": [5],
        }
        return {"results": changed.get(model, results), "model": model}

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_scores_come_in_the_order_of_the_texts(endpoint: str) -> None:
    for url in (endpoint, endpoint + "/", endpoint + "/rerank"):
        assert EndpointRerank(url, "m", "secret").scores("q", ["a", "bbbb", "cc"]) == [1.0, 0.25, 0.5]
    assert EndpointRerank("http://127.0.0.1:9", "m").scores("q", []) == []


@pytest.mark.parametrize("model", ["short", "twice", "beyond", "nan", "text", "none", "strange"])
def test_bad_answers_are_named(endpoint: str, model: str) -> None:
    with pytest.raises(RerankError):
        EndpointRerank(endpoint, model, "secret").scores("q", ["a", "bbbb", "cc"])


def test_failures_are_named(endpoint: str) -> None:
    for rerank in (EndpointRerank(endpoint, "m", "wrong"), EndpointRerank("http://127.0.0.1:9", "m", timeout_s=1.0)):
        with pytest.raises(RerankError):
            rerank.scores("q", ["a"])


def test_a_search_ends_in_its_order(endpoint: str, tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(), rerank=EndpointRerank(endpoint, "m", "secret"))
    cube = store.default_cube("t").id
    store.add("t", cube, "apple pie with cream and apple sauce and much more apple")
    store.add("t", cube, "an apple")
    hits = store.search("t", "apple pie", cube_ids=[cube])
    assert [hit.memory.text[:8] for hit in hits] == ["an apple", "apple pi"]
    assert hits[0].parts["rerank"] == 1 / 8
    assert store.search("t", "zebra", cube_ids=[cube]) == []
    store.searching.rerank = EndpointRerank(endpoint, "short", "secret")
    with pytest.raises(RerankError):
        store.search("t", "apple pie", cube_ids=[cube])
    store.close()
