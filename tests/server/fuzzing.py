"""Requests that nobody would send on purpose, made from the application's own description."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import schemathesis
from fastapi import FastAPI
from hypothesis import strategies as st
from schemathesis.schemas import BaseSchema

from server.app import create_app
from server.config import Config
from tests.server.running import Running

MODEL = "tiny"
MAX_TOKENS = 4

# Replies that are no JSON; all others are.
OTHER_TYPES = {
    "/metrics": "text/plain",
    "/v1/cubes/{cube_id}/dump": "application/zip",
}
# It never ends by itself; a test of its own reads its beginning.
ENDLESS = "/v1/scheduler/events"
# These wait for a job as long as they are asked to.
WAITS = ("wait_s", "timeout_seconds")


def application() -> FastAPI:
    """The application without parts: enough for its description."""
    keys = SimpleNamespace(tenant_of=None)
    parts: Any = SimpleNamespace(config=Config(), keys=keys, keyed=None, requests=None)
    return create_app(parts)


def described() -> BaseSchema:
    """The description of the application."""
    config = schemathesis.Config()
    config.output.sanitization.update(enabled=False)
    return schemathesis.openapi.from_dict(application().openapi(), config=config).exclude(path=ENDLESS)


# -- values --------------------------------------------------------------------------------------------------------

_FIELDS = (
    "id kind status owner author agent session importance pinned slot created_at updated_at event_at expires_at "
    "valid_until tags categories custom_tags user_id agent_id run_id app_id metadata info metadata.x metadata.a.b"
).split()
_OPERATORS = "eq ne gt gte lt lte in nin contains icontains all and *".split()
_JOINS = "and or not AND OR NOT".split()
_WORDS = ("*", "2024-01-01", "2024-01-01T00:00:00Z", "fact", "active", "yesterday", "\ud800", "\x00", "%", '"')

numbers = st.integers(-(2**70), 2**70) | st.floats()
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(_WORDS)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
_conditions = st.dictionaries(st.sampled_from(_OPERATORS), json_values, max_size=2)
_wanted = scalars | st.lists(scalars, max_size=3) | _conditions
filters = st.recursive(
    st.dictionaries(st.sampled_from(_FIELDS) | st.text(max_size=4), _wanted, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(_JOINS), inner | st.lists(inner, max_size=3), min_size=1, max_size=2),
    max_leaves=5,
)
HOSTILE: tuple[Any, ...] = (
    *(None, True, "", [], {}, [[]], -1, 0, 2**31, 2**63, 2**64, -(2**63) - 1, 2**70, 10**400, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "\x00", "\ud800", "\udc00\ud800", "\u202e", "\ufffe", "🐕" * 50),
    *("a" * 300, " " * 50, "*", "..", "../../etc/passwd", "%00", "null", "NaN", "1e999", "9" * 5000, "<|im_end|>"),
    *("mem_0", "cube_0", "job_0", "group:x", "9999-12-31T23:59:59Z", "0000-00-00", "-1", "yesterday", "[" * 50),
)
hostile = st.sampled_from(HOSTILE) | json_values | filters


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value, its own first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with ``new`` at ``path``."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


# -- what there is -------------------------------------------------------------------------------------------------


def furnish(server: Running) -> dict[str, list[Any]]:
    """Make one of each thing, and tell by the names of fields what would be found."""
    post = server.client.post
    post("/v1/cubes", json={"name": "fuzz"})
    cube = server.client.get("/v1/cubes/fuzz").json()["id"]
    about = {"cube": "fuzz", "tags": ["a"], "metadata": {"x": 1, "a": {"b": [1]}}, "event_at": 1.7e9}
    memory = server.add("My dog is called Biscuit.", **about)["id"]
    other = server.add("I live in Lisbon.")["id"]
    gone = server.add("I lived in Porto.")["id"]
    server.client.delete(f"/v1/memories/{gone}")
    document = post("/v1/cubes/fuzz/documents?name=a.txt", content=b"Some text. More text.").json()["id"]
    said = {"messages": [{"content": "I like tea."}], "wait": False, "session": "s1"}
    job = post("/v1/memories/messages", json=said).json()["id"]
    feedback = post("/v1/feedback", json={"text": "That is right.", "memory_ids": [other]}).json()["id"]
    server.client.put("/v1/groups/friends", json={"members": ["default", "anna"]})
    memories, cubes, users = [memory, other, gone], ["fuzz", cube, "default"], ["fuzz", "default", "anna", "*"]
    known: dict[str, list[Any]] = {
        "model": [MODEL],
        "kind": ["fact", "event", "preference", "document", "profile", "state"],
        "status": ["active", "archived", "deleted", "merged", "activated"],
        "principal": ["anna", "group:friends"],
        "document_id": [document],
        "task_id": [job, feedback, "task"],
        "event_id": [job, memory],
        "job_id": [job],
        "delete_record_id": [gone, memory],
        "max_tokens": [MAX_TOKENS],
        "max_completion_tokens": [MAX_TOKENS],
    }
    alike = {
        "memory_id memory_ids ids after retrieved_memory_ids": memories,
        "cube cube_id mem_cube_id mem_cube_ids readable_cube_ids writable_cube_ids": cubes,
        "user_id user_name id name": users,
        "session session_id run_id conversation_id": ["s1"],
        "at timestamp time chat_time reference_date": ["2024-01-01", "last week", 1e9],
    }
    known |= {name: values for names, values in alike.items() for name in names.split()}
    return known


def with_known(value: Any, known: dict[str, list[Any]], name: str = "") -> Any:
    """A copy of a JSON value with three quarters of the ids in it replaced by ids of things that there are. Which ones
    depends on the value alone, so that a failure happens again."""
    if isinstance(value, dict):
        return {key: with_known(inner, known, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_known(inner, known, name) for inner in value]
    number = zlib.crc32(repr(value).encode("utf-8", "replace"))
    found = known.get(name)
    return found[number // 4 % len(found)] if found and value is not None and number % 4 else value


# -- sending -------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(value: Any) -> str:
    return quote(_text(value), safe="", errors="surrogatepass")


def send(server: Running, case: Any, known: dict[str, list[Any]], **more: Any) -> httpx.Response:
    """Send a case with things that there are in the place of most ids, and nothing that waits for long."""
    path = case.path
    for name, value in with_known(case.path_parameters, known).items():
        path = path.replace(f"{{{name}}}", _quoted(value))
    query = {**with_known(case.query, known), **{name: 0.05 for name in WAITS if name in case.query}}
    pairs = [(name, item) for name, value in query.items() for item in (value if isinstance(value, list) else [value])]
    url = path + "?" * bool(pairs) + "&".join(f"{_quoted(name)}={_quoted(item)}" for name, item in pairs)
    # Making an example may take longer than an idle connection is kept.
    headers = {**{name: str(value) for name, value in case.headers.items()}, "connection": "close"}
    if not isinstance(case.body, schemathesis.core.NotSet):
        body = with_known(case.body, known)
        if isinstance(body, dict) and "model" in body:
            body = {"max_tokens": MAX_TOKENS, **body}
        more["content"] = json.dumps(body).encode() if not isinstance(body, bytes) else body
        headers = {"content-type": "application/json", **headers}
    return server.client.request(case.method, url, headers=headers, timeout=30, **more)


def check_shape(reply: httpx.Response) -> str:
    """No server error, a refusal in the one shape of errors, JSON that is JSON. Returns what was sent, to tell of."""
    request = reply.request
    told = f"{request.method} {request.url} {request.content[:2000]!r} -> {reply.status_code} {reply.text[:500]!r}"
    assert reply.status_code < 500, told
    assert '"type":"server_error"' not in reply.text, told  # in a stream
    if reply.headers.get("content-type", "").startswith("application/json"):
        body = json.loads(reply.text, parse_constant=_not_json)
    if reply.status_code >= 400:
        assert set(body["error"]) == {"message", "type", "param", "code"}, told
        assert body["error"]["message"], told
    return told


def check(reply: httpx.Response, case: Any) -> None:
    """The shape, and that a success is one that the description tells of."""
    told = check_shape(reply)
    if reply.is_success and reply.status_code != 204:  # 204 lists a path's methods
        kind = reply.headers["content-type"]
        assert kind.startswith((OTHER_TYPES.get(case.path, "application/json"), "text/event-stream")), told
        documented = case.operation.definition.raw["responses"]
        # 202 is what a job in the place of a result is answered with.
        assert str(reply.status_code) in (*documented, "202"), told


def _not_json(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
