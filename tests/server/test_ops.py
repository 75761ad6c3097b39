from __future__ import annotations

import base64
from importlib.metadata import version

import numpy as np
import pytest

from server.http.metrics import TTFT_BUCKETS
from tests.server.running import Running


def test_health_and_version(server: Running) -> None:
    for path in ("/health", "/health/ready", "/health/live"):
        assert server.client.get(path).json() == {"status": "ok"}
    server.services.draining = True
    try:
        assert server.client.get("/health/ready").status_code == 503
        assert server.client.get("/health/live").status_code == 200
    finally:
        server.services.draining = False
    told = server.client.get("/version").json()
    assert told["version"] == version("recallkv")
    assert told["fingerprint"] == server.services.engine.fingerprint.digest


def test_models(server: Running) -> None:
    listed, embedder = server.client.get("/v1/models").json()["data"]  # many clients take the first
    assert (listed["id"], listed["type"]) == ("tiny", "chat")
    assert listed["max_model_len"] == 2048
    assert server.client.get("/v1/models/tiny").json() == listed
    assert (embedder["id"], embedder["type"]) == ("hash-256", "embedding")
    assert server.client.get("/v1/models/hash-256").json() == embedder


def test_tokenize_and_back(server: Running) -> None:
    told = server.client.post("/tokenize", json={"prompt": "héllo"}).json()
    assert told["count"] == len(told["tokens"]) == 6
    assert server.client.post("/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": "héllo"}


def test_embeddings(server: Running) -> None:
    plain = server.client.post("/v1/embeddings", json={"input": ["a b", "c"]}).json()
    assert [row["index"] for row in plain["data"]] == [0, 1]
    coded = server.client.post("/v1/embeddings", json={"input": "a b", "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), np.float32)
    np.testing.assert_allclose(vector, plain["data"][0]["embedding"], rtol=1e-6)
    assert plain["usage"]["prompt_tokens"] == 3  # words: this embedder's tokens


@pytest.mark.transformers
def test_metrics_count_what_happens(server: Running) -> None:
    server.add("Metrics count the dog Biscuit.")

    def read() -> dict[str, float]:
        lines = server.client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = read()
    for _ in range(2):
        assert server.chat("dog Biscuit metrics").status_code == 200
    after = read()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("recallkv_time_to_first_token_seconds_count") == 2
    assert grown("vllm:time_to_first_token_seconds_count") == 2
    assert grown("recallkv_generation_tokens_total") == grown("vllm:generation_tokens_total") == 12
    assert grown('recallkv_choices_finished_total{reason="length"}') == 2
    assert grown('recallkv_segment_misses_total{tier="disk"}') == grown("recallkv_segments_computed_total") == 2
    assert grown('recallkv_segment_hits_total{tier="device"}') == 3  # header, memory and the same turns
    assert grown("recallkv_prefix_cache_hits_total") == grown("vllm:prefix_cache_hits_total") > 0
    route = 'recallkv_http_requests_total{method="POST",route="/v1/chat/completions",status="200"}'
    assert grown(route) == 2
    buckets = [f'recallkv_time_to_first_token_seconds_bucket{{le="{bound}"}}' for bound in TTFT_BUCKETS]
    assert all(bucket in after for bucket in buckets)


def test_memory_routes(server: Running) -> None:
    added = server.add("The route test remembers zebras.", kind="event", event_at=12.5, metadata={"a": 1})
    assert added["object"] == "memory"
    assert (added.pop("action"), added.pop("replaced")) == ("added", [])
    assert server.client.get(f"/v1/memories/{added['id']}").json() == added
    found = server.client.post("/v1/memories/search", json={"query": "zebras", "top_k": 1}).json()["data"]
    assert found[0]["memory"] == added
    assert found[0]["why"] == "text #1, vector #1"
    page = server.client.get("/v1/memories", params={"kind": "event"}).json()
    assert page["data"] == [added]
    assert page["next"] is None
    cubes = server.client.get("/v1/cubes").json()["data"]
    assert server.client.get("/v1/cubes/default").json() in cubes
