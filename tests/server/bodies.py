"""A valid body for every route that takes JSON, with all its objects filled in; and where fields may be left out."""

from __future__ import annotations

import itertools
import json
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from fastapi.routing import APIRoute
from pydantic import BaseModel

from server.app import create_app
from tests.server.running import Running

_TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "5"},
    {"role": "user", "content": "hello"},
]
_SAID = [{"role": "user", "content": "I keep a goose."}]
_SAMPLING = {"model": "tiny", "max_tokens": 1, "stream_options": {}, "response_format": {"type": "text"}}
_CLOUD = "/api/openmem/v1"
# NEW is another name each time, MEMORY the id of a new memory, GONE of one that was just deleted.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/chat/completions"): {
        **_SAMPLING,
        "messages": _TURNS,
        "memory": {"top_k": 1},
        "structured_outputs": {},
    },
    ("POST", "/v1/completions"): {**_SAMPLING, "prompt": "hello"},
    ("POST", "/v1/embeddings"): {"input": "hello"},
    ("POST", "/tokenize"): {"prompt": "hello"},
    ("POST", "/detokenize"): {"tokens": [1, 2]},
    ("POST", "/v1/memories"): {"text": "NEW"},
    ("POST", "/v1/memories/messages"): {"messages": _SAID},
    ("POST", "/v1/memories/list"): {},
    ("POST", "/v1/memories/search"): {"query": "goose"},
    ("PATCH", "/v1/memories/{memory_id}"): {"text": "NEW"},
    ("POST", "/v1/feedback"): {"text": "That is right.", "memory_ids": ["MEMORY"]},
    ("POST", "/v1/cubes"): {"name": "NEW"},
    ("PATCH", "/v1/cubes/{cube_id}"): {"fidelity": None},
    ("POST", "/v1/cubes/{cube_id}/grants"): {"principal": "anna"},
    ("PUT", "/v1/groups/{name}"): {"members": ["anna"]},
    ("POST", "/v1/scenes/hint"): {"text": "hello"},
    ("POST", "/v1/prefetch"): {"text": "hello", "messages": _TURNS},
    ("POST", "/v3/memories/add/"): {"messages": _SAID, "user_id": "u"},
    ("POST", "/v1/memories/"): {"messages": _SAID, "user_id": "u"},
    ("POST", "/memories"): {"messages": _SAID, "user_id": "u"},
    ("POST", "/v3/memories/search/"): {"query": "x", "filters": {"user_id": "u"}},
    ("POST", "/v2/memories/search/"): {"query": "x", "filters": {"user_id": "u"}},
    ("POST", "/search"): {"query": "x", "user_id": "*"},
    ("POST", "/v3/memories/"): {"filters": {"user_id": "u"}},
    ("POST", "/v2/memories/"): {"filters": {"user_id": "u"}},
    ("PUT", "/v1/memories/{memory_id}/"): {"text": "NEW"},
    ("PUT", "/memories/{memory_id}"): {"text": "NEW"},
    ("PUT", "/v1/batch/"): {"memories": [{"memory_id": "MEMORY", "text": "NEW"}]},
    ("DELETE", "/v1/batch/"): {"memories": [{"memory_id": "MEMORY"}]},
    ("POST", "/v1/feedback/"): {"memory_id": "MEMORY"},
    ("POST", "/product/add"): {"user_id": "u", "messages": _SAID, "chat_history": _SAID},
    ("POST", "/product/search"): {"user_id": "u", "query": "x"},
    ("POST", "/product/chat/complete"): {"user_id": "u", "query": "x", "max_tokens": 1, "history": _SAID},
    ("POST", "/product/feedback"): {"user_id": "u", "feedback_content": "That is right."},
    ("POST", "/product/get_memory"): {"mem_cube_id": "u"},
    ("POST", "/product/get_memory_by_ids"): ["MEMORY"],
    ("POST", "/product/get_all"): {"user_id": "u", "memory_type": "text_mem"},
    ("POST", "/product/delete_memory"): {"memory_ids": ["MEMORY"]},
    ("POST", "/product/recover_memory_by_record_id"): {"mem_cube_id": "default", "delete_record_id": "GONE"},
    ("POST", "/product/create_cube"): {"cube_name": "NEW", "owner_id": "u"},
    ("POST", "/product/exist_mem_cube_id"): {"mem_cube_id": "u"},
    ("POST", f"{_CLOUD}/add/message"): {"messages": _SAID, "user_id": "u"},
    ("POST", f"{_CLOUD}/search/memory"): {"query": "x", "user_id": "u"},
    ("POST", f"{_CLOUD}/get/message"): {"user_id": "u"},
    ("POST", f"{_CLOUD}/get/memory"): {"user_id": "u"},
    ("POST", f"{_CLOUD}/add/feedback"): {"user_id": "u", "feedback_content": "That is right."},
    ("POST", f"{_CLOUD}/delete/memory"): {"memory_ids": ["MEMORY"]},
    ("POST", f"{_CLOUD}/update/memory"): {"memory_id": "MEMORY", "content": "NEW"},
    ("POST", f"{_CLOUD}/get/status"): {"task_id": "JOB"},
    ("POST", f"{_CLOUD}/chat"): {"user_id": "u", "query": "x", "max_tokens": 1},
}
_numbers = itertools.count()


_kinds: dict[tuple[str, str], Any] = {}


def json_routes(server: Running) -> dict[tuple[str, str], Any]:
    """Method and path of every route that takes JSON, with the type of its body."""
    if not _kinds:  # making an application takes half a second
        for route in create_app(server.services).routes:
            if isinstance(route, APIRoute) and route.body_field is not None:
                _kinds.update(
                    {(method, route.path): route.body_field.field_info.annotation for method in route.methods}
                )
    return _kinds


def send(server: Running, route: tuple[str, str], body: Any) -> Any:
    """Send a body to a route, with what its path and its placeholders stand for."""
    memory = f"I keep {next(_numbers)} geese in the garden."
    text = json.dumps(body).replace("NEW", f"name{next(_numbers)}")
    if "MEMORY" in text or "GONE" in text or "{memory_id}" in route[1]:
        memory = server.add(memory)["id"]
    if "GONE" in text:
        server.client.delete(f"/v1/memories/{memory}")
    if "JOB" in text:
        added = {"messages": _SAID, "user_id": "u"}
        text = text.replace("JOB", server.client.post(f"{_CLOUD}/add/message", json=added).json()["data"]["task_id"])
    path = route[1].format(memory_id=memory, cube_id="default", name="g")
    return server.client.request(
        route[0],
        path,
        content=text.replace("MEMORY", memory).replace("GONE", memory),
        headers={"content-type": "application/json"},
    )


def optional_fields(kind: Any, body: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all fields of a body of this type, and of the objects in it, that may be left out."""
    model = _model_of(kind)
    if isinstance(body, list):
        for i, item in enumerate(body):
            yield from optional_fields(kind, item, (*path, i))
    elif model is not None and isinstance(body, dict):
        for name, field in model.model_fields.items():
            name = field.alias or name
            if not field.is_required():
                yield (*path, name)
            if name in body:
                yield from optional_fields(field.annotation, body[name], (*path, name))


def _model_of(kind: Any) -> type[BaseModel] | None:
    """The one model in a type, through lists, unions and annotations."""
    if isinstance(kind, type) and not get_origin(kind):
        return kind if issubclass(kind, BaseModel) else None
    if get_origin(kind) in (list, Union, types.UnionType) or hasattr(kind, "__metadata__"):
        return next((found for part in get_args(kind) if (found := _model_of(part)) is not None), None)
    return None
