"""The judge that asks a model, as the server puts it together."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.base import GenerateRequest
from engine.transformers import LoadedModel, TransformersEngine
from memory import ModelJudge
from memory.judge.model import MAX_TOKENS
from server.config import MemorySettings, load_config
from server.wiring import JUDGES_FROM, _judge
from tests.memory.scripted import Scripted, saying, serving
from tests.server.running import Running, running
from tests.tiny import tiny_model

TIMEOUT_S = 1.0


def ending(body: dict[str, Any]) -> tuple[int, Any]:
    """Reply that everything is over."""
    lines = body["messages"][1]["content"].split("\n")[1:]
    ends = [{"i": i, "reason": "ended", "relation": "end"} for i in range(len(lines))]
    return saying(json.dumps({"decisions": ends}))


@pytest.fixture(scope="module")
def judging(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Scripted]]:
    """A server whose judge asks an endpoint."""
    with serving(ending) as endpoint:
        settings = MemorySettings(
            judge_url=endpoint.url, judge_model="judge", judge_api_key="secret", judge_timeout_s=TIMEOUT_S
        )
        with running(model, tmp_path_factory.mktemp("judging"), settings) as server:
            yield server, endpoint


def said(server: Running, cube: str, text: str, **body: Any) -> Any:
    request = {"messages": [{"role": "user", "content": text}], "cube": cube, "session": "s", **body}
    reply = server.client.post("/v1/memories/messages", json=request)
    assert reply.status_code in (201, 202), reply.text
    return reply.json()


def cube_of(server: Running, name: str, *texts: str) -> str:
    id: str = server.client.post("/v1/cubes", json={"name": name}).json()["id"]
    for text in texts:
        server.add(text, cube=id, kind="fact")
    return id


def retired(server: Running, cube: str) -> list[dict[str, Any]]:
    found = server.client.get("/v1/memories", params={"cube": cube, "status": "archived"}).json()["data"]
    details = [server.client.get(f"/v1/memories/{item['id']}/history").json()["data"][-1]["detail"] for item in found]
    return [{"text": item["text"], **detail} for item, detail in zip(found, details, strict=True)]


@pytest.mark.parametrize("way", ["message", "job", "memory", "feedback"])
def test_whatever_is_added_is_judged_by_the_model(judging: tuple[Running, Scripted], way: str) -> None:
    server, endpoint = judging
    cube = cube_of(server, f"by {way}", "I live in a flat in Oslo.")
    asked = len(endpoint.requests)
    if way == "memory":
        server.add("I live in Lima.", cube=cube)
    elif way == "feedback":
        server.client.post("/v1/feedback", json={"text": "I live in Lima now.", "cube": cube}).raise_for_status()
    else:
        reply = said(server, cube, "I live in Lima now.", wait=way == "message")
        if way == "job":
            assert server.client.get(f"/v1/jobs/{reply['id']}?wait_s=30").json()["status"] == "completed"
    (request,) = endpoint.requests[asked:]
    assert (request["model"], request["max_tokens"], endpoint.keys[-1]) == ("judge", MAX_TOKENS, "Bearer secret")
    (gone,) = retired(server, cube)
    assert (gone["text"], gone["judge"], gone["why"]) == ("I live in a flat in Oslo.", "model", "ended")


def test_the_metrics_count_requests_and_fallbacks(judging: tuple[Running, Scripted]) -> None:
    server, endpoint = judging
    judge = server.memories.judging.given
    assert isinstance(judge, ModelJudge)
    requests, fallbacks = judge.requests, judge.fallbacks
    endpoint.script = lambda body: saying("I cannot do that.")
    cube = cube_of(server, "counted", "I live in a flat in Oslo.")
    said(server, cube, "I live in Lima now.")
    endpoint.script = ending
    assert (judge.requests, judge.fallbacks) == (requests + 1, fallbacks + 1)
    assert {gone["judge"] for gone in retired(server, cube)} <= {"local"}
    metrics = server.client.get("/metrics").text
    assert f"recallkv_judge_requests_total {requests + 1:.1f}" in metrics
    assert f"recallkv_judge_fallbacks_total {fallbacks + 1:.1f}" in metrics


def test_a_reply_does_not_wait_for_a_slow_model(judging: tuple[Running, Scripted]) -> None:
    """A message with many statements is added in the time limit, and other requests are served meanwhile."""
    server, endpoint = judging
    cube = cube_of(server, "slow", "I live in a flat in Oslo.")
    release = threading.Event()
    endpoint.script = lambda body: saying("") if release.wait(10) else (500, {})
    text = " ".join(f"I live in {city} now." for city in ("Lima", "Cusco", "Turin", "Ghent", "Derby", "Graz"))
    waiting = [threading.Thread(target=said, args=(server, cube, text), kwargs={"session": f"{i}"}) for i in range(4)]
    judge = server.memories.judging.given
    assert isinstance(judge, ModelJudge)
    fallbacks = judge.fallbacks
    begun = time.monotonic()
    for thread in waiting:
        thread.start()
    assert server.client.get("/v1/memories", timeout=5).status_code == 200
    for thread in waiting:
        thread.join()
    took = time.monotonic() - begun
    release.set()
    endpoint.script = ending
    assert TIMEOUT_S <= took < TIMEOUT_S + 2.0
    assert judge.fallbacks >= fallbacks + 4


# -- which judge -----------------------------------------------------------------------------------------------


def chosen(server: Running, monkeypatch: pytest.MonkeyPatch, parameters: int | None, **settings: Any) -> str:
    """Return the name of the judge that these settings make beside a served model of this size."""
    capacity = replace(server.services.engine.capacity(), parameters=parameters)
    monkeypatch.setattr(server.services.engine, "capacity", lambda: capacity)
    memory = MemorySettings(**settings)
    judge = _judge(memory, server.services.engine, server.services.served, server.memories)
    return "local" if judge is None else judge.name


def test_large_models_judge_by_default(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.memories.judging.given is None  # the tiny one does not
    url = "http://127.0.0.1:9/v1"
    for parameters, settings, expected in (
        (JUDGES_FROM + 1, {}, "model"),
        (JUDGES_FROM, {}, "local"),
        (None, {}, "local"),
        (None, {"judge_url": url}, "model"),
        (JUDGES_FROM + 1, {"judge": "local"}, "local"),
        (None, {"judge": "local", "judge_url": url}, "local"),
        (1000, {"judge": "model"}, "model"),
        (None, {"judge": "model", "judge_url": url}, "model"),
    ):
        assert chosen(server, monkeypatch, parameters, **settings) == expected, (parameters, settings)


@pytest.mark.transformers
def test_the_served_model_is_asked_or_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of random weights answers nonsense: the local judge decides."""
    asked: list[GenerateRequest] = []
    with running(tiny_model(max_position_embeddings=8192), tmp_path, MemorySettings(judge="model")) as server:
        generate = server.services.engine.generate

        def noted(request: GenerateRequest) -> Any:
            asked.append(request)
            return generate(replace(request, sampling=replace(request.sampling, max_tokens=4)))

        monkeypatch.setattr(server.services.engine, "generate", noted)
        cube = cube_of(server, "served", "I live in a flat in Oslo.")
        said(server, cube, "I live in Lima now.")
        judge = server.memories.judging.given
        assert isinstance(judge, ModelJudge)
        assert (judge.requests, judge.fallbacks) == (1, 1)
    (request,) = asked
    assert request.sampling.max_tokens == MAX_TOKENS
    assert (request.sampling.temperature, request.use_segments, request.salt) == (0.0, False, request.request_id)


def test_settings_of_the_judge() -> None:
    flags: dict[str, Any] = {"memory.judge": "model", "memory.judge_timeout_s": 2.5}
    resolved = load_config(None, {"RECALLKV_MEMORY_JUDGE_API_KEY": "k3y"}, flags)
    assert (resolved.config.memory.judge, resolved.config.memory.judge_timeout_s) == ("model", 2.5)
    assert "k3y" not in resolved.as_yaml()


def test_engines_say_how_large_they_are(server: Running) -> None:
    engine = server.services.engine
    parameters = engine.capacity().parameters
    assert parameters is not None
    if isinstance(engine, TransformersEngine):
        assert parameters == engine.model.parameters
