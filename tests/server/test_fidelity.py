"""Fidelity through the API: server, cube, request; receipts; the cache's own page."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.server.running import Running

TEXTS = [f"In room {i} stands a cupboard with {i * 3} green cups." for i in range(5)]


def receipt(server: Running, *ids: str, **memory: Any) -> dict[str, Any]:
    reply = server.chat("what stands where", memory={"ids": list(ids), **memory})
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()["memory"]
    return told


def settle(server: Running) -> None:
    """Wait until idle work is done."""
    deadline = time.monotonic() + 60
    upkeep = server.services.upkeep
    while time.monotonic() < deadline:
        if upkeep.stats().waiting == 0 and not upkeep._worker.is_at_work:
            return
        time.sleep(0.01)
    raise AssertionError("upkeep did not end")


def memories(server: Running, cube: str) -> list[str]:
    server.client.post("/v1/cubes", json={"name": cube})
    return [server.add(f"{cube}: {text}", cube=cube)["id"] for text in TEXTS]


def test_receipts_say_which_fidelity_each_memory_had(server: Running) -> None:
    a, b, c, *_ = memories(server, "receipts")
    first = receipt(server, a, b, c, cube="receipts")
    assert first["fidelity"] == "high"
    assert [memory["fidelity"] for memory in first["memories"]] == ["exact"] * 3
    settle(server)
    composed = receipt(server, c, a, cube="receipts")
    assert [memory["fidelity"] for memory in composed["memories"]] == ["high"] * 2
    assert {memory["source"] for memory in composed["memories"]} <= {"resident", "host"}
    recomputed = sum(memory["recomputed"] for memory in composed["memories"])
    tokens = sum(memory["tokens"] for memory in composed["memories"])
    assert 0 < recomputed <= 0.25 * tokens
    assert composed["cached_tokens"] >= tokens - recomputed
    exact = receipt(server, c, a, cube="receipts", fidelity="exact")
    assert [memory["fidelity"] for memory in exact["memories"]] == ["exact"] * 2


def test_a_cube_may_ask_for_exactness(server: Running) -> None:
    a, b, c, *_ = memories(server, "strict")
    receipt(server, a, b, c, cube="strict")
    settle(server)
    changed = server.client.patch("/v1/cubes/strict", json={"fidelity": "exact"}).json()
    assert changed["fidelity"] == "exact"
    told = receipt(server, c, b, cube="strict")
    assert told["fidelity"] == "exact"
    assert [memory["fidelity"] for memory in told["memories"]] == ["exact"] * 2
    assert receipt(server, b, a, cube="strict", fidelity="fast")["fidelity"] == "fast"
    assert server.client.patch("/v1/cubes/strict", json={"fidelity": None}).json()["fidelity"] is None
    made = server.client.post("/v1/cubes", json={"name": "quick", "fidelity": "fast"}).json()
    assert made["fidelity"] == "fast"


@pytest.mark.parametrize("fidelity", ["perfect", 3])
def test_an_unknown_fidelity_is_refused(server: Running, fidelity: Any) -> None:
    reply = server.chat("hello", memory={"fidelity": fidelity})
    assert reply.status_code == 400
    assert "fidelity" in reply.json()["error"]["param"]
    assert server.client.post("/v1/cubes", json={"name": "x", "fidelity": fidelity}).status_code == 400


@pytest.mark.transformers
def test_the_cache_page(server: Running) -> None:
    a, b, *_ = memories(server, "page")
    receipt(server, a, b, cube="page")
    settle(server)
    told = server.client.get("/v1/cache", params={"limit": 1000}).json()
    assert set(told["tiers"]) == {"device", "host", "disk"}
    assert told["tiers"]["device"]["bytes"] <= told["tiers"]["device"]["budget"]
    pages = [entry for entry in told["data"] if entry["kind"] == "standalone" and a in entry["memories"]]
    assert pages
    assert set(pages[0]["certificate"]["kl"]) == {"high", "fast"}
    assert told["upkeep"]["pages_built"] >= 1
    assert len(server.client.get("/v1/cache", params={"limit": 1}).json()["data"]) == 1
    text = server.client.get("/metrics").text
    assert "recallkv_pages_built_total" in text
    assert "recallkv_composed_tokens" in text


def test_deleting_a_memory_rebuilds_what_it_shared(server: Running) -> None:
    a, b, c, *_ = memories(server, "shared")
    receipt(server, a, b, c, cube="shared")
    settle(server)
    gone = server.client.delete(f"/v1/memories/{b}").json()
    assert gone["segments_removed"] >= 1
    settle(server)
    told = receipt(server, c, a, cube="shared")
    assert [memory["fidelity"] for memory in told["memories"]] == ["high"] * 2
