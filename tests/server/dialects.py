"""What tests of the dialects have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from tests.server import clients
from tests.server.running import Running

CLOUD = "/api/openmem/v1"
SAID = [
    {"role": "user", "content": "I live in Lisbon and I work as a carpenter."},
    {"role": "assistant", "content": "Lisbon is a lovely place for a carpenter."},
]


@contextmanager
def mem0_client(server: Running, key: str = "none") -> Iterator[Any]:
    client = clients.mem0().MemoryClient(api_key=key, host=server.url)
    with closing(client.client):
        yield client


def ended(server: Running, event_id: str) -> dict[str, Any]:
    """An addition's event, once it has ended."""
    for _ in range(400):
        event: dict[str, Any] = server.client.get(f"/v1/event/{event_id}/").json()
        if event["status"] in ("SUCCEEDED", "FAILED"):
            return event
        time.sleep(0.05)
    raise AssertionError("the event does not end")


def texts(found: dict[str, Any]) -> list[str]:
    return [item["memory"] for item in found["results"]]


def ok(reply: httpx.Response, code: int = 200) -> Any:
    """The data in MemOS's envelope."""
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert (body["code"], bool(body["message"])) == (code, True)
    return body["data"]


def cubes(server: Running) -> set[str]:
    return {cube["name"] for cube in server.client.get("/v1/cubes").json()["data"]}
