"""/v1/embeddings with the bundled embedder and official clients."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine.transformers import LoadedModel
from memory import FolderEmbedder
from memory.search.embed import MAX_TOKENS
from server.assets import BUNDLED_EMBEDDER, bundled_embedder_folder
from tests.server.running import Running, running

pytestmark = pytest.mark.transformers
DIM = 384


@pytest.fixture(scope="module")
def embedder() -> FolderEmbedder:
    found = FolderEmbedder(bundled_embedder_folder(), BUNDLED_EMBEDDER)
    found.load()
    return found


@pytest.fixture(scope="module")
def serving(
    model: LoadedModel, embedder: FolderEmbedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with running(model, tmp_path_factory.mktemp("embeddings")) as server:
        server.services.embedder = embedder
        yield server


@pytest.fixture(scope="module")
def client(serving: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def refused(serving: Running, **body: Any) -> dict[str, Any]:
    content = json.dumps(body).encode()  # half a surrogate pair is written as an escape
    reply = serving.client.post("/v1/embeddings", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def ask(serving: Running, **body: Any) -> dict[str, Any]:
    reply = serving.client.post("/v1/embeddings", json=body)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


def vectors(told: dict[str, Any]) -> np.ndarray:
    return np.array([row["embedding"] for row in told["data"]], np.float32)


def test_the_official_client(client: openai.OpenAI, embedder: FolderEmbedder) -> None:
    texts = ["A cat sleeps.", "Invoices are due on Friday."]
    told = client.embeddings.create(model=BUNDLED_EMBEDDER, input=texts)  # asks for base64 by itself
    assert told.model == BUNDLED_EMBEDDER
    found = np.array([row.embedding for row in told.data], np.float32)
    np.testing.assert_allclose(found, embedder.embed(texts), atol=5e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
    plain = client.embeddings.create(model=BUNDLED_EMBEDDER, input=texts, encoding_format="float", dimensions=DIM)
    np.testing.assert_array_equal(found, np.array([row.embedding for row in plain.data], np.float32))
    listed = client.models.list().data
    assert [model.id for model in listed] == ["tiny", BUNDLED_EMBEDDER]
    assert client.models.retrieve(BUNDLED_EMBEDDER).id == BUNDLED_EMBEDDER
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="nope", input="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.embeddings.create(model=BUNDLED_EMBEDDER, input="x", dimensions=64)
    assert wrong.value.param == "dimensions"


def test_names_that_are_taken(serving: Running) -> None:
    for model in ({}, {"model": None}, {"model": "tiny"}, {"model": BUNDLED_EMBEDDER}):
        assert ask(serving, input="x", **model)["model"] == BUNDLED_EMBEDDER
    chat = serving.client.post(
        "/v1/chat/completions", json={"model": BUNDLED_EMBEDDER, "messages": [{"role": "user", "content": "x"}]}
    )
    assert (chat.status_code, chat.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("dimensions", [64, 0, -1, 383, 385, 1024, 10**9])
def test_dimensions_that_there_are_not(serving: Running, dimensions: int) -> None:
    error = refused(serving, input="x", dimensions=dimensions)
    assert error["param"] == "dimensions"
    assert str(DIM) in error["message"]


def test_null_is_absent(serving: Running) -> None:
    plain = ask(serving, input="x")
    assert ask(serving, input="x", dimensions=None, encoding_format=None, model=None, user=None) == plain
    assert len(plain["data"][0]["embedding"]) == DIM


@pytest.mark.parametrize("tokens", [[15339, 1917], [[1, 2], [3]], [[15339]], [1]])
def test_token_arrays_are_refused_by_name(serving: Running, tokens: Any) -> None:
    error = refused(serving, input=tokens)
    assert error["param"] == "input"
    assert "token arrays are not supported: send text" in error["message"]


@pytest.mark.parametrize(
    ("given_input", "said"),
    [
        ("", "text 0 is empty"),
        ([], "0 texts"),
        (["a", ""], "text 1 is empty"),
        (["a"] * 2049, "2049 texts"),
        ("\ud800", "lone surrogate"),
        (["a", "b\udfff"], "input.1: the text holds a lone surrogate"),
        (["a", 7], "text 1 is no text"),
        (["a", None], "text 1 is no text"),
        ({"a": 1}, "a text or a list"),
        (None, "a text or a list"),
        (7, "a text or a list"),
    ],
)
def test_input_that_is_none(serving: Running, given_input: Any, said: str) -> None:
    error = refused(serving, input=given_input)
    assert error["param"] == ("input.1" if said.startswith("input.1") else "input")
    assert said in error["message"]


def test_texts_that_differ_only_far_behind_differ(serving: Running) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_embedder_folder())
    window = serving.client.get(f"/v1/models/{BUNDLED_EMBEDDER}").json()["max_model_len"]
    common = "cat " * (window + 100)
    texts = [common, common + "invoice " * 65, common + "mountain " * 65]
    told = ask(serving, input=texts)
    found = vectors(told)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert found[i] @ found[j] < 0.999
    own = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    windows = sum(-(-len(tokenizer(text, add_special_tokens=False)["input_ids"]) // (window - 2)) for text in texts)
    assert told["usage"] == {"prompt_tokens": own + 2 * windows, "total_tokens": own + 2 * windows}
    one = vectors(ask(serving, input=[texts[1]]))[0]
    np.testing.assert_allclose(one, found[1], atol=5e-3)


def test_usage_is_what_the_embedder_reads(serving: Running) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_embedder_folder())
    texts = ["hello world", "Größe, 漢字 and emoji 🙂", " "]
    expected = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert ask(serving, input=texts)["usage"] == {"prompt_tokens": expected, "total_tokens": expected}


def test_more_than_is_read_for_one_request(serving: Running) -> None:
    error = refused(serving, input=["a " * (MAX_TOKENS // 2), "b " * (MAX_TOKENS // 2)])
    assert error["param"] == "input"
    assert f"{MAX_TOKENS:,}" in error["message"]


def test_as_many_texts_as_are_taken_at_once(serving: Running) -> None:
    texts = [f"text {i}" for i in range(2048)]
    told = ask(serving, input=texts, encoding_format="base64")
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in told["data"]]
    assert [row["index"] for row in told["data"]] == list(range(2048))
    alone = vectors(ask(serving, input=texts[1999]))[0]
    assert rows[1999] @ alone > 0.999


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=6))
def test_any_text_has_a_vector_whatever_it_comes_with(serving: Running, texts: list[str]) -> None:
    found = vectors(ask(serving, input=texts))
    assert found.shape == (len(texts), DIM)
    assert np.isfinite(found).all()
    for i, text in enumerate(texts):
        assert found[i] @ vectors(ask(serving, input=text))[0] > 0.99


def test_input_type_is_the_role_of_the_texts(serving: Running) -> None:
    plain = ask(serving, input="Where is the key?")
    for role in ("query", "passage", None):  # this embedder reads both alike
        assert ask(serving, input="Where is the key?", input_type=role) == plain
    assert refused(serving, input="x", input_type="question")["param"] == "input_type"
