"""Errors name the field and the fault in a user's words, whatever is broken."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.bodies import BODIES, json_routes, optional_fields, send
from tests.server.running import Running

CHAT = "/v1/chat/completions"
# What a validator would say: its functions, its models, its words.
_INSIDE = re.compile(
    r"function-|0x[0-9a-f]{4}|functools|validator|pydantic|constrained|Input should|Field required|Value error|\bnull\b"
    r"|list\[|dict\[|[Ll]iteral\[|BaseModel|NoneType|\bstr\b|\bdict\b|\bNone\b|Message\b|TextPart|ResponseFormat|Named|Spec\b"
)


def user_said(text: str, content: Any = None, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text if content is None else content, **more}]


PARTS = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        (
            {"messages": user_said("", PARTS)},
            "messages.0.content.1",
            "messages.0.content.1: parts of type image_url are not supported; this server takes text",
        ),
        (
            {"messages": user_said("", [{"type": "input_audio", "input_audio": {}}])},
            "messages.0.content.0",
            "messages.0.content.0: parts of type input_audio are not supported; this server takes text",
        ),
        ({"messages": user_said("", 5)}, "messages.0.content", "messages.0.content: must be text or a list"),
        (
            {"messages": user_said("", [{"type": "text"}])},
            "messages.0.content.0.text",
            "messages.0.content.0.text: this field is missing",
        ),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "messages.0.role: this field is missing"),
        (
            {"messages": [{"role": "wizard", "content": "x"}]},
            "messages.0.role",
            "messages.0.role: must be 'system', 'developer', 'user', 'assistant' or 'tool'",
        ),
        ({"messages": "hello"}, "messages", "messages: must be a list"),
        ({"messages": ["hello"]}, "messages.0", "messages.0: must be an object"),
        ({"messages": []}, "messages", "messages: must not be empty"),
        ({"stop": ""}, "stop", "stop: must not be empty"),
        ({"stop": ["x", ""]}, "stop.1", "stop.1: must not be empty"),
        ({"stop": 5}, "stop", "stop: must be text or a list"),
        ({"stop": ["x"] * 17}, "stop", "stop: must have at most 16 items"),
        ({"stop": "\ud800"}, "stop", "stop: the text holds a lone surrogate"),
        (
            {"messages": user_said("\udfff")},
            "messages.0.content",
            "messages.0.content: the text holds a lone surrogate",
        ),
        ({"temperature": "hot"}, "temperature", "temperature: must be a number"),
        ({"temperature": 3}, "temperature", "temperature: must be at most 2.0"),
        ({"n": 1.5}, "n", "n: must be a whole number"),
        ({"stream": "perhaps"}, "stream", "stream: must be true or false"),
        ({"tool_choice": "sometimes"}, "tool_choice", "tool_choice: must be 'none', 'auto' or 'required' or an object"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "tool_choice.function: this field is missing"),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice: needs tools"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "tools.0.function: this field is missing"),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs: needs logprobs: true"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "logit_bias.x: each name in it must be a whole number"),
        ({"memory": {"topk": 5}}, "memory.topk", "There is no memory.topk; the nearest is memory.top_k."),
        ({"memory": {"cube": 5}}, "memory.cube", "memory.cube: must be text or a list"),
        ({"memory": {"cube": [5]}}, "memory.cube.0", "memory.cube.0: must be text"),
        ({"guided_json": "{"}, "guided_json", "guided_json: must be a JSON schema"),
        ({"guided_json": 5}, "guided_json", "guided_json: must be an object"),
    ],
)
def test_the_words_of_chat(server: Running, change: dict[str, Any], param: str, message: str) -> None:
    body = {"model": "tiny", "messages": user_said("hello"), **change}
    reply = server.client.post(CHAT, content=json.dumps(body), headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["message"]) == (400, param, message)


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (CHAT, {"model": "tiny"}, "messages", "messages: this field is missing"),
        ("/v1/completions", {"model": "tiny"}, "prompt", "prompt: this field is missing"),
        ("/v1/memories", {"text": "x", "q": "red"}, "q", "There is no q."),
        (
            "/v1/memories",
            {"text": "x", "importence": 1},
            "importence",
            "There is no importence; the nearest is importance.",
        ),
        ("/v1/memories", {"text": "x", "cube": "\ud800"}, None, None),
        (CHAT, {"model": "\ud800", "messages": user_said("x")}, "model", None),
        ("/v1/memories", {"text": "x", "\ud800": 1}, None, None),
        ("/tokenize", {}, "prompt", "prompt: give either prompt or messages"),
        ("/product/search", {"query": "x"}, "user_id", "user_id: this field is missing"),
        ("/memories", {"messages": 5, "user_id": "u"}, "messages", "messages: must be text, an object or a list"),
        (
            "/memories",
            {"messages": [{"role": "wizard"}], "user_id": "u"},
            "messages.0.role",
            "messages.0.role: must be 'user', 'assistant', 'system', 'developer' or 'tool'",
        ),
        ("/product/get_memory_by_ids", ["a", 5], "1", "1: must be text"),
    ],
)
def test_the_words_of_other_routes(
    server: Running, path: str, body: Any, param: str | None, message: str | None
) -> None:
    reply = server.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert 400 <= reply.status_code < 500, reply.text
    if param is not None:
        assert error["param"] == param
    if message is not None:
        assert error["message"] == message


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"", "invalid_value", "empty"),
        (b"null", "invalid_value", "empty"),
        (b"[]", "invalid_value", "must be an object"),
        (b'"text"', "invalid_value", "must be an object"),
        (b"5", "invalid_value", "must be an object"),
        (b"{", "invalid_json", "not valid JSON"),
        (b"model=tiny", "invalid_json", "not valid JSON"),
        (b'{"model": "\xff"}', "invalid_json", "UTF-8"),
        (b"[" * 100_000, "invalid_json", "nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "invalid_json", "too long"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/plain", None])
def test_bodies_that_are_no_object(server: Running, raw: bytes, code: str, words: str, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    reply = server.client.post(CHAT, content=raw, headers=headers)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, None)
    assert words in error["message"]


def test_query_and_header_are_named(server: Running) -> None:
    def fault(reply: httpx.Response) -> tuple[str, str]:
        assert reply.status_code == 400
        return reply.json()["error"]["param"], reply.json()["error"]["message"]

    get, post = server.client.get, server.client.post
    assert fault(get("/v1/memories?limit=0")) == ("limit", "limit: must be at least 1")
    assert fault(get("/v1/memories?limit=many")) == ("limit", "limit: must be a whole number")
    assert fault(post("/v1/cubes/default/documents", content=b"x")) == ("name", "name: this field is missing")
    reply = post("/v1/memories/messages", json={"messages": user_said("x")}, headers={"Idempotency-Key": "x" * 256})
    assert fault(reply) == ("Idempotency-Key", "An Idempotency-Key has 1 to 255 characters, and a request one of them.")


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\ud800", "x" * 300, "\x00", "auto"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.sampled_from(["type", "str", "role", "text", "NEW", "0"]), st.integers(), max_size=3),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_broken_bodies_are_told_in_a_users_words(server: Running, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from(sorted(BODIES)))
    body = copy.deepcopy(BODIES[route])
    names = sorted(optional_fields(json_routes(server)[route], body), key=str)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([*names, *_paths(body), ("colour",)]))
        action = data.draw(st.sampled_from(["put", "put", "put", "drop"]))
        body = _changed(body, path, data.draw(_JUNK) if action == "put" else None, drop=action == "drop")
    reply = send(server, route, body)
    assert reply.status_code < 500, f"{body}: {reply.text}"
    if reply.status_code < 400:
        return
    error = reply.json()["error"]
    # A field that was sent may have any name.
    assert not _INSIDE.search(_without_quotes(error["message"]).replace(error["param"] or "body", "")), error
    known = error["param"] is None or f"{{{error['param']}}}" in route[1] or "NEW" in json.dumps(body)
    assert known or _is_place(error["param"], body, json_routes(server)[route]), f"{body}: {error}"


def _paths(body: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """All places in a body, the body itself included."""
    yield path
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in items:
        yield from _paths(value, (*path, name))


def _changed(body: Any, path: tuple[str | int, ...], value: Any, *, drop: bool) -> Any:
    """The body with another value at a path, as far as there is one."""
    if not path:
        return value
    place = body
    for step in path[:-1]:
        try:
            place = place[step]
        except (LookupError, TypeError):
            return body
    if isinstance(place, dict) and drop:
        place.pop(path[-1], None)
    elif isinstance(place, dict) or (isinstance(place, list) and isinstance(path[-1], int) and path[-1] < len(place)):
        place[path[-1]] = value  # type: ignore[index]
    return body


def _without_quotes(message: str) -> str:
    """Drop what is quoted: a value that was sent may say anything."""
    return re.sub(r"'[^']*'", "", message)


def _is_place(param: str, body: Any, kind: Any) -> bool:
    """Whether ``param`` is a path into the body, or the name of a field of the route's."""
    if "." not in param and isinstance(body, dict):
        return param in getattr(kind, "model_fields", {}) or param in body
    value = body
    *inner, last = param.split(".")
    for step in inner:
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return False
    return isinstance(value, dict) or (isinstance(value, list) and last.isdigit())
