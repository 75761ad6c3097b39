"""The scheduler over HTTP."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tests.server.running import Running

Headers = dict[str, dict[str, str]]


def chat(server: Running, text: str, **memory: object) -> None:
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": text}], "memory": memory}
    server.client.post("/v1/chat/completions", json=body).raise_for_status()


def test_a_turn_is_seen_and_reported(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "seen"}).json()["id"]
    for i in range(4):
        fact = {"cube": cube, "text": f"The key to room {i} hangs behind door {i}"}
        server.client.post("/v1/memories", json=fact).raise_for_status()
    for _ in range(2):
        chat(server, "Where is the key to room 2?", cube=cube)
    found: dict[str, object] = {}
    for _ in range(200):
        found = server.client.get("/v1/scheduler").json()
        if found["predictor"]["scenes"] >= 2:  # type: ignore[index]
            break
    assert found["predictor"]["scenes"] >= 2  # type: ignore[index]
    assert found["object"] == "scheduler"
    assert {event["event"] for event in found["events"]} >= {"scene"}  # type: ignore[attr-defined]
    assert "room 2" not in json.dumps(found)
    page = server.client.get("/metrics").text
    assert "recallkv_scenes_total" in page
    assert "recallkv_preloaded_bytes_total" in page


def test_hints_and_prefetch(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "hinted"}).json()["id"]
    server.client.post("/v1/memories", json={"cube": cube, "text": "Bills are paid on the fifth"}).raise_for_status()
    hint = server.client.post("/v1/scenes/hint", json={"cube": cube, "text": "user opened the billing page"})
    assert hint.json() == {"object": "scene.hint", "cube": cube, "segments": 0}  # nothing was asked here yet
    typed = server.client.post("/v1/prefetch", json={"cube": "hinted", "text": "When are bi"})
    assert typed.json() == {"object": "prefetch", "cube": cube, "segments": 0}
    assert server.client.post("/v1/prefetch", json={"cube": "nowhere", "text": "x"}).status_code == 404
    assert server.client.post("/v1/scenes/hint", json={"text": ""}).status_code == 400
    assert server.client.post("/v1/prefetch", json={"text": "x", "more": 1}).status_code == 400


def test_nobody_hears_of_another_tenant(guarded: Running, keys: Headers) -> None:
    anna, boris = keys["anna"], keys["boris"]
    cube = guarded.client.post("/v1/cubes", json={"name": "annas"}, headers=anna).json()["id"]
    guarded.client.post(
        "/v1/memories", json={"cube": cube, "text": "A secret of Anna"}, headers=anna
    ).raise_for_status()
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}], "memory": {"cube": cube}}
    guarded.client.post("/v1/chat/completions", json=body, headers=anna).raise_for_status()
    for path, text in (("/v1/scenes/hint", "a secret"), ("/v1/prefetch", "a secret")):
        reply = guarded.client.post(path, json={"cube": cube, "text": text}, headers=boris)
        assert reply.status_code == 404
        assert guarded.client.post(path, json={"text": text}).status_code == 401
    for _ in range(200):
        hers = guarded.client.get("/v1/scheduler", headers=anna).json()["events"]
        if hers:
            break
    assert any(event.get("cube") == cube for event in hers)
    theirs = guarded.client.get("/v1/scheduler", headers=boris).json()["events"]
    assert not any(event.get("cube") == cube for event in theirs)
    assert "tenant" not in json.dumps(hers)


def test_events_are_streamed(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "streamed"}).json()["id"]
    server.client.post("/v1/memories", json={"cube": cube, "text": "The stream runs south"}).raise_for_status()
    with server.client.stream("GET", "/v1/scheduler/events") as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith(":")
        asking = threading.Thread(target=chat, args=(server, "Where does the stream run?"), kwargs={"cube": cube})
        asking.start()
        event = next(line for line in lines if line.startswith("data:"))
        asking.join()
    seen = json.loads(event.removeprefix("data:"))
    assert (seen["event"], seen["cube"]) == ("scene", cube)


@pytest.mark.parametrize("path", ["/v1/scheduler/events"])
def test_what_is_off_says_so(server: Running, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.services, "foresight", None)
    reply = server.client.get(path)
    assert reply.status_code == 409
    assert reply.json()["error"]["code"] == "scheduler_off"
    assert server.client.get("/v1/scheduler").json()["predictor"] is None


def test_what_is_being_typed_is_computed_before_it_is_sent(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "typed"}).json()["id"]
    for i in range(3):
        fact = {"cube": cube, "text": f"Locker {i} belongs to swimmer {i}", "pinned": i == 0}
        server.client.post("/v1/memories", json=fact).raise_for_status()
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning"}]
    body = {"cube": cube, "text": "Who does locker 2 belong to?", "messages": earlier}
    server.client.post("/v1/prefetch", json=body).raise_for_status()
    ids = {memory["id"] for memory in server.client.get("/v1/memories", params={"cube": cube}).json()["data"]}
    for _ in range(500):
        entries = server.services.catalogue.entries()
        if ids <= {label.partition("@")[0] for entry in entries if entry.kind == "chained" for label in entry.labels}:
            break
        time.sleep(0.02)
    asked = {
        "model": "tiny",
        "max_tokens": 1,
        "messages": [*earlier, {"role": "user", "content": "Who does locker 2 belong to?"}],
        "memory": {"cube": cube},
    }
    receipt = server.client.post("/v1/chat/completions", json=asked).json()["memory"]
    assert len(receipt["memories"]) == 3
    assert {memory["fidelity"] for memory in receipt["memories"]} == {"exact"}
    assert "computed" not in {memory["source"] for memory in receipt["memories"]}
