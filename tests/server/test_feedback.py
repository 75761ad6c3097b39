"""Feedback over HTTP, the extractor `model`, and the reranker, as the server puts them together."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.base import GenerateRequest
from engine.errors import EngineClosed, EngineError
from memory import CompletionError, EndpointRerank, ModelExtractor
from memory.language.extract_model import SCHEMA
from server.config import Config, MemorySettings, load_config
from server.config.values import ConfigError
from server.core.extraction import ServedCompleter
from server.wiring import open_services
from tests.server.running import Running


def give(server: Running, text: str, **body: Any) -> dict[str, Any]:
    reply = server.client.post("/v1/feedback", json={"text": text, **body})
    assert reply.status_code == 201, reply.text
    given: dict[str, Any] = reply.json()
    return given


def test_feedback_corrects_a_memory_and_removes_its_segments(server: Running) -> None:
    memory = server.add("My dog is called Biscuit.")
    options = {"memory": {"ids": [memory["id"]]}}
    for _ in range(2):
        receipt = server.chat("What is my dog called?", **options).json()["memory"]
    assert receipt["memories"][0]["source"] in ("resident", "host")
    given = give(server, "No, my dog is called Rex, not Biscuit", memory_ids=[memory["id"]], at="2026-01-02T03:04:05Z")
    assert given["actions"] == [{"action": "updated", "memory": memory["id"]}]
    assert given["at"] == 1_767_323_045.0
    changed = server.client.get(f"/v1/memories/{memory['id']}").json()
    assert (changed["text"], changed["version"]) == ("My dog is called Rex.", 2)
    receipt = server.chat("What is my dog called?", **options).json()["memory"]
    assert receipt["memories"][0]["source"] == "computed"
    assert server.memories.active_labels().isdisjoint({f"{memory['id']}@1"})
    history = server.client.get(f"/v1/memories/{memory['id']}/history").json()
    assert history["data"][-1]["detail"] == {"feedback": given["id"]}
    assert history["sources"][-1]["content"] == given["text"]


def test_feedback_is_listed(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "listed"}).json()["id"]
    memory = server.add("I live in Oslo.", cube=cube)
    first = give(server, "Actually, I moved to Lima.", cube="listed")
    assert [item["action"] for item in first["actions"]] == ["superseded", "added"]
    second = give(server, "hm?", cube=cube)
    assert second["actions"] == [{"action": "nothing", "memory": None}]
    listed = server.client.get("/v1/feedback", params={"cube": "listed"}).json()["data"]
    assert listed == [second, first]
    # The cube of the first memory is meant where none is named.
    assert give(server, "that's wrong", memory_ids=[first["actions"][1]["memory"]])["cube"] == cube
    assert server.client.get(f"/v1/memories/{memory['id']}").json()["status"] == "archived"


def test_another_tenants_ids_are_unknown(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    client = guarded.client
    added = client.post("/v1/memories", json={"text": "I live in Oslo."}, headers=keys["anna"]).json()
    before = client.get(f"/v1/memories/{added['id']}", headers=keys["anna"]).json()
    for body in (
        {"memory_ids": [added["id"]]},
        {"cube": added["cube"]},
        {"memory_ids": [added["id"]], "corrected": "x"},
    ):
        for cube in ({}, {"cube": "default"}):
            client.get("/v1/memories/none", headers=keys["boris"])
            request = {"text": "No, I live in Lima, not Oslo", **cube, **body}
            reply = client.post("/v1/feedback", json=request, headers=keys["boris"])
            assert reply.status_code == 404, request
    assert client.get("/v1/feedback", params={"cube": added["cube"]}, headers=keys["boris"]).status_code == 404
    # In his own words and cube he changes nothing of hers either.
    own = client.post("/v1/feedback", json={"text": "No, I live in Lima, not Oslo"}, headers=keys["boris"]).json()
    assert [item["action"] for item in own["actions"]] == ["added"]
    assert client.get("/v1/feedback", headers=keys["anna"]).json()["data"] == []
    assert client.get(f"/v1/memories/{added['id']}", headers=keys["anna"]).json() == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": " "}, "text"),
        ({"text": "x", "at": "no time"}, "at"),
        ({"text": "x", "at": -1e10 * 9}, "at"),
        ({"text": "x", "corrected": " "}, "text"),
        ({"text": "x", "memory_ids": ["m"] * 101}, "memory_ids"),
        ({"text": "x", "memoryids": []}, "memoryids"),
    ],
)
def test_bad_feedback_is_refused(server: Running, body: dict[str, Any], param: str) -> None:
    reply = server.client.post("/v1/feedback", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


# -- the served model as extractor -----------------------------------------------------------------------------


def said(server: Running, *texts: str, **body: Any) -> Any:
    messages = [{"role": "user", "content": text, "time": "2026-01-02T03:04:05Z"} for text in texts]
    request = {"messages": messages, "extractor": "model", **body}
    reply = server.client.post("/v1/memories/messages", json=request)
    assert reply.status_code in (201, 202), reply.text
    return reply.json()


@pytest.mark.parametrize("wait", [True, False])
def test_the_served_model_extracts_or_falls_back(server: Running, wait: bool) -> None:
    """A model of random weights answers nonsense; one whose answers must be JSON of the schema may do better."""
    cube = server.client.post("/v1/cubes", json={"name": f"extracted {wait}"}).json()["id"]
    reply = said(server, "I live in Oslo.", "My dog is called Biscuit.", cube=cube, wait=wait)
    if not wait:
        job = server.client.get(f"/v1/jobs/{reply['id']}", params={"wait_s": 30}).json()
        assert job["status"] == "completed"
    found = server.client.get("/v1/memories", params={"cube": cube}).json()["data"]
    assert {memory["metadata"]["extractor"] for memory in found} <= {"local", "model"}
    if not server.services.engine.features:
        assert [memory["text"] for memory in found] == ["User: I live in Oslo.", "User: My dog is called Biscuit."]
        assert {memory["metadata"]["extractor"] for memory in found} == {"local"}
    assert len(server.client.get("/v1/messages", params={"cube": cube}).json()["data"]) == 2
    # It used no segments, and the server goes on.
    assert server.chat().status_code == 200


def test_the_served_model_is_asked_with_the_schema_where_it_can(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GenerateRequest] = []
    generate = server.services.engine.generate

    def noted(request: GenerateRequest) -> Any:
        asked.append(request)
        return generate(replace(request, sampling=replace(request.sampling, max_tokens=2, structured=None)))

    monkeypatch.setattr(server.services.engine, "generate", noted)
    can = "structured" in server.services.engine.features
    said(server, "I live in Oslo.")
    (request,) = asked
    assert request.use_segments is False
    assert request.salt == request.request_id
    assert request.sampling.temperature == 0
    assert (request.sampling.structured is not None) is can


@pytest.mark.transformers
def test_an_engine_that_fails_is_an_error_of_the_extractor(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = server.services.served
    assert 1000 <= complete.window_chars <= 12_000
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]

    def failing(error: EngineError) -> Any:
        async def generate(request: GenerateRequest) -> Any:
            raise error
            yield

        return generate

    monkeypatch.setattr(server.services.engine, "generate", failing(EngineClosed("closing")))
    with pytest.raises(CompletionError, match="EngineClosed"):
        complete(turns, SCHEMA)

    async def never(request: GenerateRequest) -> Any:
        await asyncio.sleep(60)
        yield

    monkeypatch.setattr(server.services.engine, "generate", never)
    assert complete._loop is not None
    hasty = ServedCompleter(server.services.engine, timeout_s=0.1)
    with pytest.raises(CompletionError, match="not started"):
        hasty(turns, SCHEMA)
    hasty.bind(complete._loop)
    with pytest.raises(CompletionError, match="too long"):
        hasty(turns, SCHEMA)
    with pytest.raises(CompletionError, match="do not fit"):
        hasty([{"role": "user", "content": "x" * 5000}], SCHEMA)

    def refusing(messages: Any) -> Any:
        raise ValueError("no system turn")

    monkeypatch.setattr(server.services.engine.prompts, "render", refusing)
    with pytest.raises(CompletionError, match="template"):
        hasty(turns, SCHEMA)
    closed = asyncio.new_event_loop()
    closed.close()
    hasty.bind(closed)
    with pytest.raises(CompletionError, match="ended"):
        hasty(turns, SCHEMA)


def test_slow_extraction_holds_up_nothing_else(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than the shared threads wait for a model; others are served meanwhile."""
    release = threading.Event()

    class Slow(ModelExtractor):
        def extract(self, messages: Any, before: Any = ()) -> Any:
            release.wait(20)
            return []

    monkeypatch.setitem(server.services.memories._extractors.by_name, "model", Slow(lambda messages, schema: ""))
    waiting = [threading.Thread(target=said, args=(server, f"message {i}")) for i in range(40)]
    for thread in waiting:
        thread.start()
    try:
        assert server.client.get("/v1/memories", timeout=10).status_code == 200
        assert server.add("meanwhile")["id"]
    finally:
        release.set()
        for thread in waiting:
            thread.join()


def test_an_unknown_extractor_names_those_there_are(server: Running) -> None:
    body = {"messages": [{"content": "hello there"}], "extractor": "oracle"}
    error = server.client.post("/v1/memories/messages", json=body).json()["error"]
    assert error["param"] == "extractor"
    assert "local, model" in error["message"]


# -- settings --------------------------------------------------------------------------------------------------


def test_settings_of_endpoints(tmp_path: Path) -> None:
    for key in ("reranker", "extractor_url", "judge_url"):
        config = Config(tmp_path, memory=MemorySettings(**{key: "localhost:8000"}))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"memory.{key}"):
            open_services(config)
    resolved = load_config(None, {"RECALLKV_MEMORY_EXTRACTOR_API_KEY": "k3y"}, {"memory.extractor": "model"})
    assert resolved.config.memory.extractor == "model"
    assert "k3y" not in resolved.as_yaml()
    with pytest.raises(ConfigError, match="local, model"):
        load_config(None, {}, {"memory.extractor": "oracle"})


def test_a_reranker_that_is_down_is_a_503(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("a zebra crossed the road")
    rerank = EndpointRerank("http://127.0.0.1:9", "m", timeout_s=1.0)
    monkeypatch.setattr(server.memories.searching, "rerank", rerank)
    reply = server.client.post("/v1/memories/search", json={"query": "zebra"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "reranker_failed")
