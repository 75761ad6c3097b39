"""Null means absent: in every field that may be left out, of every route, nested as deep as bodies are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.bodies import BODIES, json_routes, optional_fields, send
from tests.server.running import Running


def test_there_is_a_body_for_every_route(server: Running) -> None:
    assert set(json_routes(server)) == set(BODIES)


@pytest.mark.parametrize("route", BODIES, ids=" ".join)
def test_the_bodies_work(server: Running, route: tuple[str, str]) -> None:
    reply = send(server, route, BODIES[route])
    assert reply.status_code < 300, reply.text


@pytest.mark.parametrize("route", BODIES, ids=" ".join)
def test_null_in_all_fields_that_are_left_out(server: Running, route: tuple[str, str]) -> None:
    body = copy.deepcopy(BODIES[route])
    for path in optional_fields(json_routes(server)[route], body):
        place = _place(body, path)
        place.setdefault(path[-1], None)
    assert send(server, route, body).status_code < 300


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_null_in_any_field_that_may_be_left_out(server: Running, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from(sorted(BODIES)))
    body = copy.deepcopy(BODIES[route])
    paths = sorted(optional_fields(json_routes(server)[route], body), key=str)
    if not paths:
        return
    chosen = data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=4, unique=True))
    for path in sorted(chosen, key=len, reverse=True):
        _place(body, path)[path[-1]] = None
    reply = send(server, route, body)
    if reply.status_code >= 300:  # then it is not for the nulls
        for place in _objects(without := copy.deepcopy(body)):
            for name in [name for name, value in place.items() if value is None]:
                del place[name]
        assert send(server, route, without).status_code == reply.status_code, f"{route}, {body}: {reply.text}"


def _place(body: Any, path: tuple[str | int, ...]) -> Any:
    for step in path[:-1]:
        body = body[step]
    return body


def _objects(body: Any) -> Iterator[dict[str, Any]]:
    if isinstance(body, dict):
        yield body
    for value in body.values() if isinstance(body, dict) else body if isinstance(body, list) else ():
        yield from _objects(value)


def test_null_of_a_required_field_is_said_to_be_wrong(server: Running) -> None:
    error = server.chat(messages=None).json()["error"]
    assert (error["param"], error["message"]) == ("messages", "messages: must be a list")


def test_null_keeps_its_meaning_where_it_has_one(server: Running) -> None:
    patch, put = server.client.patch, server.client.put
    server.client.post("/v1/cubes", json={"name": "strict", "fidelity": "exact"})
    assert patch("/v1/cubes/strict", json={}).status_code == 400
    assert patch("/v1/cubes/strict", json={"fidelity": None}).json()["fidelity"] is None
    memory = server.add("I keep a heron.", metadata={"a": None}, expires_at=4e9)
    assert memory["metadata"] == {"a": None}
    assert put(f"/memories/{memory['id']}", json={"text": None}).json()["expiration_date"] is not None
    assert put(f"/memories/{memory['id']}", json={"expiration_date": None}).json()["expiration_date"] is None


def test_an_assistant_turn_of_calls_alone_is_no_fault(server: Running) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "I keep two parrots called Pim and Pam."},
        {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None},
        {"role": "tool", "content": "12 degrees", "tool_call_id": "c1"},
        {"role": "assistant"},
        {"role": "user", "content": [{"type": "text", "text": "I also keep a goose called Martin."}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
    ]
    reply = server.client.post("/v1/memories/messages", json={"messages": messages})
    assert reply.status_code == 201, reply.text
    found = {memory["text"] for memory in server.client.get("/v1/memories?limit=500").json()["data"]}
    assert {"User: I keep two parrots called Pim and Pam.", "User: I also keep a goose called Martin."} <= found
