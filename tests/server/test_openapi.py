"""The description of the API: what each of our own routes replies, and how it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from server.app import NATIVE
from server.http.schemas.generation_replies import ChatReply, CompletionReply, EmbeddingList
from server.http.schemas.ops_replies import HealthReply
from tests.server import fuzzing
from tests.server.running import Running

pytestmark = pytest.mark.transformers  # about routes, which are the same under both engines

DESCRIPTION = fuzzing.application().openapi()
OWN = [route for module in NATIVE for route in module.router.routes if isinstance(route, APIRoute)]
OF_ANOTHER_TYPE = {**fuzzing.OTHER_TYPES, fuzzing.ENDLESS: "text/event-stream"}
STREAMED = {"/v1/chat/completions", "/v1/completions"}


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DESCRIPTION["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DESCRIPTION["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


@pytest.mark.parametrize("route", OWN, ids=lambda route: f"{sorted(route.methods)[0]} {route.path}")
def test_every_route_of_our_own_says_what_it_replies(route: APIRoute) -> None:
    (method,) = route.methods
    responses = DESCRIPTION["paths"][route.path_format][method.lower()]["responses"]
    content = responses[str(route.status_code or 200)]["content"]
    if route.path in OF_ANOTHER_TYPE:
        assert list(content) == [OF_ANOTHER_TYPE[route.path]]
        return
    schema = content["application/json"]["schema"]
    shapes = [_resolved(shape) for shape in schema.get("anyOf", [schema])]
    assert all(shape.get("properties") and shape.get("description") for shape in shapes)
    assert ("text/event-stream" in content) == (route.path in STREAMED)


@pytest.mark.parametrize("route", OWN, ids=lambda route: f"{sorted(route.methods)[0]} {route.path}")
def test_every_route_of_our_own_says_what_it_does(route: APIRoute) -> None:
    told = inspect.getdoc(route.endpoint) or ""
    assert told.endswith(".")
    assert told.split()[0] not in (
        "What",
        "Whether",
        "How",
        "Where",
        "Which",
        "Those",
        "Who",
        "When",
        "The",
        "A",
        "All",
    )


def test_no_route_promises_the_framework_s_422() -> None:
    promised = {(path, method): operation["responses"] for path, method, operation in _operations()}
    assert [place for place, responses in promised.items() if "422" in responses] == []
    assert [place for place, responses in promised.items() if not {"400", "default"} <= responses.keys()] == []
    assert not {"HTTPValidationError", "ValidationError"} & DESCRIPTION["components"]["schemas"].keys()


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/memories/search", {"query": ""}), ("/v1/memories/search", {"q": "x"}), ("/v1/cubes", [])]
)
def test_what_is_not_valid_is_answered_as_promised(server: Running, path: str, body: Any) -> None:
    reply = server.client.post(path, json=body)
    promised = DESCRIPTION["paths"][path]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    error = _resolved(_resolved(promised)["properties"]["error"])
    assert (reply.status_code, reply.json()["error"].keys()) == (400, set(error["required"]))


def test_replies_are_what_their_models_say(server: Running) -> None:
    """Nothing is left out of a reply, or put into it, because of its model."""
    added = server.add("The kite is red.", metadata={"a": None, "b": 1, "c": 1.0}, tags=["toy"])
    shown = server.client.get(f"/v1/memories/{added['id']}").json()
    assert added == {**shown, "action": "added", "replaced": []}
    assert (shown["metadata"], shown["event_at"], shown["tags"]) == ({"a": None, "b": 1, "c": 1.0}, None, ["toy"])
    plain = server.client.post("/v1/memories/search", json={"query": "kite"}).json()["data"][0]
    assert plain.keys() == {"memory", "score", "why"}
    explained = server.client.post("/v1/memories/search", json={"query": "kite", "explain": True}).json()["data"][0]
    assert explained.keys() == {"memory", "score", "why", "parts"}
    gone = server.client.delete(f"/v1/memories/{added['id']}").json()
    assert gone.keys() == {"object", "id", "deleted", "segments_removed", "undelete_s"}


def _exactly(model: Any, reply: Any) -> None:
    """Nothing is in a reply that its model does not name, and the other way round."""
    adapter = TypeAdapter(model)
    assert adapter.dump_python(adapter.validate_python(reply)) == reply


def test_replies_that_are_made_by_hand_are_what_their_models_say(server: Running) -> None:
    """The framework passes these on as they are."""
    server.add("The kite is red.")
    _exactly(ChatReply, server.chat("Which kite?", logprobs=True, top_logprobs=1, n=2).json())
    _exactly(ChatReply, server.chat("Which kite?", memory={"mode": "off"}).json())
    prompt = {"model": "tiny", "prompt": ["One", "Two"], "max_tokens": 2}
    for more in ({}, {"logprobs": 1}, {"memory": {}}):
        _exactly(CompletionReply, server.client.post("/v1/completions", json={**prompt, **more}).json())
    _exactly(CompletionReply, server.client.post("/v1/completions", json={**prompt, "prompt": "One"}).json())
    for encoding in ("float", "base64"):
        body = {"input": ["One", "Two"], "encoding_format": encoding}
        _exactly(EmbeddingList, server.client.post("/v1/embeddings", json=body).json())
    _exactly(HealthReply, server.client.get("/health").json())
