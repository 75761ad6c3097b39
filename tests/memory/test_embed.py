from __future__ import annotations

import http.server
import json
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory import EmbedderError, EndpointEmbedder, FolderEmbedder, HashEmbedder
from memory.errors import EmbedderRefused
from memory.search.embed import _dimensions, _shortened, prompts_of
from server.assets import bundled_embedder_folder


def test_minilm_knows_what_is_alike(minilm: FolderEmbedder) -> None:
    dog, pet, car = minilm.embed(["My dog is called Biscuit.", "the name of my pet", "changing a car tyre"])
    assert dog.shape == (384,)
    assert dog.dtype == np.float32
    assert np.linalg.norm(dog) == pytest.approx(1.0, abs=1e-5)
    assert dog @ pet > 0.3 > dog @ car


def test_a_text_has_the_same_vector_in_any_batch(minilm: FolderEmbedder) -> None:
    texts = [f"sentence number {i} " * (1 + i % 7) for i in range(40)]
    together = minilm.embed(texts)
    alone = np.concatenate([minilm.embed([text]) for text in texts[:5]])
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)
    assert minilm.embed([]).shape == (0, 384)
    assert minilm.embed(["word " * 5000]).shape == (1, 384)


def test_a_folder_that_is_no_model_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        FolderEmbedder(tmp_path).load()


def test_hashing_is_deterministic_and_counts_shared_words() -> None:
    one, same, near, far = HashEmbedder().embed(["the red bicycle", "the red bicycle", "a red bicycle", "blue whale"])
    assert np.array_equal(one, same)
    assert one @ near > one @ far
    assert not HashEmbedder().embed([""]).any()


class _Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/embeddings"
        if self.headers.get("Authorization") != "Bearer secret":
            self.send_response(401)
            self.end_headers()
            return
        if any(len(text) > 1000 for text in body["input"]):
            self._answer(400, {"error": {"message": "at most 1000 characters"}})
            return
        size = 2 if body.get("dimensions") is None or body["model"] == "deaf" else body["dimensions"]
        rows = [
            {"index": i, "embedding": [float(len(text)), *[1.0] * (size - 1)]} for i, text in enumerate(body["input"])
        ]
        if body["model"] == "short":
            rows.pop()
        self._answer(200, {"data": rows[::-1], "usage": {"prompt_tokens": 7 * len(rows)}})

    def _answer(self, status: int, told: object) -> None:
        reply = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

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


def test_an_endpoint_embeds_in_order(endpoint: str) -> None:
    vectors = EndpointEmbedder(endpoint, "m", "secret").embed(["a", "bbb"])
    np.testing.assert_allclose(vectors, [[2**-0.5, 2**-0.5], [0.9486833, 0.3162278]], atol=1e-6)


def test_an_endpoints_failures_are_named(endpoint: str) -> None:
    for embedder in (
        EndpointEmbedder(endpoint, "m", "wrong"),
        EndpointEmbedder(endpoint, "short", "secret"),
        EndpointEmbedder("http://127.0.0.1:9/v1", "m", timeout_s=1.0),
    ):
        with pytest.raises(EmbedderError):
            embedder.embed(["a", "b"])


def test_an_endpoint_knows_its_dimensions_limits_and_usage(endpoint: str) -> None:
    embedder = EndpointEmbedder(endpoint, "m", "secret")
    assert embedder.title == "m"
    found = embedder.embed_whole(["a", "bbb"])
    assert (found.vectors.shape, found.tokens) == ((2, 2), 14)
    assert embedder.embed_whole(["a"], 5).vectors.shape == (1, 5)
    with pytest.raises(EmbedderRefused, match="gives 2 dimensions, not 5") as refused:
        EndpointEmbedder(endpoint, "deaf", "secret").embed_whole(["a"], 5)
    assert refused.value.param == "dimensions"
    with pytest.raises(EmbedderRefused, match="at most 1000 characters"):
        embedder.embed_whole(["a" * 1001])
    with pytest.raises(EmbedderError, match="HTTPStatusError"):
        EndpointEmbedder(endpoint, "m", "wrong").embed_whole(["a"])


def test_whole_texts_have_the_vectors_that_search_has_while_they_fit(minilm: FolderEmbedder) -> None:
    texts = ["A short one.", "Another one, a little longer, about cats and dogs."]
    np.testing.assert_allclose(minilm.embed_whole(texts).vectors, minilm.embed(texts), atol=5e-3)
    assert minilm.name == minilm.title == bundled_embedder_folder().name  # stored beside vectors: it never changes
    assert FolderEmbedder(bundled_embedder_folder(), "shown").name == minilm.name


@pytest.mark.parametrize(("says", "given", "fits"), [
    ({}, 64, False),
    ({"is_matryoshka": True}, 64, True),
    ({"is_matryoshka": True}, 385, False),
    ({"is_matryoshka": True}, 0, False),
    ({"matryoshka_dimensions": [64, 128]}, 64, True),
    ({"matryoshka_dimensions": [64, 128]}, 100, False),
])  # fmt: skip
def test_vectors_are_cut_where_the_model_says_that_they_can_be(says: dict[str, object], given: int, fits: bool) -> None:
    vectors = np.eye(384, dtype=np.float32)[:2] + 0.1
    allowed = _dimensions(types.SimpleNamespace(**says))
    if not fits:
        with pytest.raises(EmbedderRefused, match="384"):
            _shortened(vectors, given, "m", allowed)
        return
    cut = _shortened(vectors, given, "m", allowed)
    assert cut.shape == (2, given)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "model", "prompts"),
    [
        ({}, "all-MiniLM-L6-v2", {}),
        ({"prompts": {}}, "BAAI/bge-small-en-v1.5", {}),
        ({"prompts": {"query": "q ", "document": "d "}}, "m", {"query": "q ", "passage": "d "}),
        ({"prompts": {"query": "q ", "passage": "p ", "document": "d "}}, "m", {"query": "q ", "passage": "p "}),
        ({"prompts": {"query": "q "}}, "intfloat/e5-small", {"query": "q ", "passage": ""}),
        ({"prompts": {"all": "a "}, "default_prompt_name": "all"}, "m", {"query": "a ", "passage": "a "}),
        ({"prompts": {"query": 1, "document": None}}, "m", {}),
        ({"prompts": None}, "intfloat/multilingual-e5-large", {"query": "query: ", "passage": "passage: "}),
        ({}, "/models/e5-base-v2", {"query": "query: ", "passage": "passage: "}),
        ({}, "intfloat/e5-mistral-7b-instruct", {}),
        ({}, "something5-small", {}),
    ],
)
def test_a_models_prompts(config: dict[str, Any], model: str, prompts: dict[str, str]) -> None:
    assert prompts_of(config, model) == prompts


def test_an_endpoints_model_that_is_a_folder_gets_its_prompts(endpoint: str, tmp_path: Path) -> None:
    assert EndpointEmbedder(endpoint, "multilingual-e5-small").prompts == {}  # who knows what the endpoint adds
    file = tmp_path / "config_sentence_transformers.json"
    file.write_text(json.dumps({"prompts": {"query": "ask: "}}))
    embedder = EndpointEmbedder(endpoint, str(tmp_path), "secret")
    # The endpoint's first number is the length of what it got.
    asked, told = (embedder.embed(["abc"], role)[0] for role in ("query", "passage"))
    np.testing.assert_allclose([asked[0] / asked[1], told[0] / told[1]], [8, 3], rtol=1e-5)
    whole = embedder.embed_whole(["abc"], role="query").vectors[0]
    np.testing.assert_allclose(whole, asked, rtol=1e-5)
    file.write_text("{")
    with pytest.raises(EmbedderError, match="cannot be read"):
        EndpointEmbedder(endpoint, str(tmp_path))


def test_roles_make_no_difference_without_prompts(minilm: FolderEmbedder) -> None:
    assert minilm.prompts == {}
    query, passage = (minilm.embed(["Where is the key?"], role) for role in ("query", "passage"))
    np.testing.assert_array_equal(query, passage)
