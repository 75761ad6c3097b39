"""Tenants see nothing of each other in any dialect."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.app import DIALECTS
from tests.server import clients
from tests.server.dialects import CLOUD, mem0_client, texts
from tests.server.running import Running

# What a tenant asks with another one's ids, and how the answer shows that there is nothing: a status, or an empty
# part of the body.
Look = Callable[[Any], Any]


def _nothing(data: Any) -> Any:
    return [
        bucket for part in ("text_mem", "pref_mem", "tool_mem") for bucket in data["data"][part] if bucket["memories"]
    ]


ATTEMPTS: list[tuple[str, str, dict[str, Any], int | Look]] = [
    ("GET", "/v1/event/{event}/", {}, 404),
    ("GET", "/v1/event/{memory}/", {}, 404),
    ("POST", "/v3/memories/search/", {"json": {"query": "secret", "user_id": "shared"}}, lambda b: b["results"]),
    ("POST", "/v2/memories/search/", {"json": {"query": "secret", "user_id": "*"}}, lambda b: b["results"]),
    ("POST", "/search", {"json": {"query": "secret", "filters": {"agent_id": "spy"}}}, lambda b: b["results"]),
    ("POST", "/v3/memories/", {"json": {"filters": {"user_id": "shared"}}}, lambda b: b["results"]),
    ("POST", "/v2/memories/", {"json": {"filters": {"user_id": "{cube}"}}}, lambda b: b["results"]),
    ("GET", "/memories", {"params": {"user_id": "shared"}}, lambda b: b["results"]),
    ("GET", "/v1/memories/{memory}/", {}, 404),
    ("GET", "/memories/{memory}", {}, 404),
    ("GET", "/v1/memories/{memory}/history/", {}, 404),
    ("GET", "/memories/{memory}/history", {}, 404),
    ("PUT", "/v1/memories/{memory}/", {"json": {"text": "mine"}}, 404),
    ("PUT", "/memories/{memory}", {"json": {"text": "mine"}}, 404),
    ("DELETE", "/v1/memories/{memory}/", {}, 404),
    ("DELETE", "/memories/{memory}", {}, 404),
    ("DELETE", "/v1/memories/", {"params": {"user_id": "shared"}}, 200),
    ("DELETE", "/v1/memories", {"params": {"user_id": "*"}}, 200),
    ("DELETE", "/memories", {"params": {"agent_id": "spy"}}, 200),
    ("PUT", "/v1/batch/", {"json": {"memories": [{"memory_id": "{memory}", "text": "mine"}]}}, 404),
    ("DELETE", "/v1/batch/", {"json": {"memories": [{"memory_id": "{memory}"}]}}, 404),
    ("POST", "/v1/feedback/", {"json": {"memory_id": "{memory}", "feedback": "NEGATIVE"}}, 404),
    ("GET", "/v1/entities/", {}, lambda b: b["results"]),
    ("DELETE", "/v2/entities/user/shared/", {}, 404),
    ("DELETE", "/v2/entities/user/{cube}/", {}, 404),
    ("DELETE", "/v2/entities/agent/spy/", {}, 404),
    ("POST", "/reset", {}, 200),
    ("POST", "/product/search", {"json": {"user_id": "shared", "query": "secret"}}, _nothing),
    ("POST", "/product/search", {"json": {"user_id": "u", "query": "secret", "mem_cube_id": "{cube}"}}, _nothing),
    ("GET", "/product/get_memory/{memory}", {}, 404),
    ("POST", "/product/get_memory_by_ids", {"json": ["{memory}"]}, lambda b: b["data"]["memories"]),
    ("POST", "/product/get_memory", {"json": {"mem_cube_id": "{cube}"}}, _nothing),
    ("POST", "/product/get_all", {"json": {"user_id": "shared", "memory_type": "text_mem"}}, lambda b: b["data"]),
    ("POST", "/product/delete_memory", {"json": {"memory_ids": ["{memory}"]}}, 404),
    ("POST", "/product/delete_memory", {"json": {"user_id": "shared"}}, lambda b: b["data"]["record_ids"]),
    (
        "POST",
        "/product/feedback",
        {"json": {"user_id": "u", "feedback_content": "That is wrong.", "retrieved_memory_ids": ["{memory}"]}},
        404,
    ),
    ("GET", "/product/scheduler/status", {"params": {"user_id": "shared", "task_id": "{event}"}}, 404),
    ("GET", "/product/scheduler/status", {"params": {"user_id": "shared"}}, lambda b: b["data"]),
    ("GET", "/product/scheduler/allstatus", {}, lambda b: b["data"]["all_tasks_summary"]["total"]),
    (
        "GET",
        "/product/scheduler/task_queue_status",
        {"params": {"user_id": "shared"}},
        lambda b: b["data"]["users_count"],
    ),
    (
        "POST",
        "/product/scheduler/wait",
        {"params": {"user_name": "shared"}},
        lambda b: b["data"]["running_tasks"],
    ),
    (
        "POST",
        "/product/exist_mem_cube_id",
        {"json": {"mem_cube_id": "{cube}"}},
        lambda b: [v for v in b["data"].values() if v],
    ),
    (
        "POST",
        "/product/recover_memory_by_record_id",
        {"json": {"mem_cube_id": "{cube}", "delete_record_id": "{deleted}"}},
        404,
    ),
    (
        "POST",
        f"{CLOUD}/search/memory",
        {"json": {"query": "secret", "user_id": "shared"}},
        lambda b: b["data"]["memory_detail_list"],
    ),
    (
        "POST",
        f"{CLOUD}/get/message",
        {"json": {"user_id": "{cube}", "conversation_id": "c"}},
        lambda b: b["data"]["message_detail_list"],
    ),
    ("POST", f"{CLOUD}/get/memory", {"json": {"user_id": "shared"}}, lambda b: b["data"]["memory_detail_list"]),
    ("GET", f"{CLOUD}/get/memory/{{memory}}", {}, 404),
    ("POST", f"{CLOUD}/delete/memory", {"json": {"memory_ids": ["{memory}"]}}, 404),
    ("POST", f"{CLOUD}/delete/memory", {"json": {"user_id": "shared"}}, 200),
    ("POST", f"{CLOUD}/update/memory", {"json": {"memory_id": "{memory}", "content": "mine"}}, 404),
    ("POST", f"{CLOUD}/get/status", {"json": {"task_id": "{event}"}}, 404),
    ("POST", f"{CLOUD}/get/status", {"json": {"task_id": "{feedback}"}}, 404),
    # Adding to another's cube by its id makes a cube of one's own that is called so.
    ("POST", "/v3/memories/add/", {"json": {"messages": "mine", "user_id": "{cube}", "infer": False}}, 200),
    ("POST", "/v1/memories/", {"json": {"messages": "mine", "user_id": "shared", "infer": False}}, 200),
    ("POST", "/memories", {"json": {"messages": "mine", "user_id": "shared", "infer": False}}, 200),
    ("POST", "/product/add", {"json": {"user_id": "{cube}", "memory_content": "mine"}}, 200),
    ("POST", "/product/create_cube", {"json": {"cube_name": "x", "owner_id": "o", "cube_id": "{cube}!"}}, 200),
    ("POST", "/product/chat/complete", {"json": {"user_id": "{cube}", "query": "secret?", "max_tokens": 2}}, 200),
    ("POST", f"{CLOUD}/add/message", {"json": {"messages": "mine", "user_id": "{cube}"}}, 200),
    ("POST", f"{CLOUD}/add/feedback", {"json": {"user_id": "{cube}", "feedback_content": "That is wrong."}}, 200),
    ("POST", f"{CLOUD}/chat", {"json": {"user_id": "{cube}", "query": "secret?", "max_tokens": 2}}, 200),
    ("GET", "/v1/ping/", {}, 200),
]


def test_every_route_is_tried_by_another_tenant() -> None:
    wanted = {
        (method, path.replace("{memory_id}", "ID").replace("{event_id}", "ID").replace("{kind}/{id:path}", "ID"))
        for dialect in DIALECTS
        for route in dialect.router.routes
        for method, path in [(sorted(route.methods)[0], route.path)]
    }
    tried = {
        (method, path.format(memory="ID", event="ID", cube="shared").replace("user/shared", "ID"))
        for method, path, *_ in ATTEMPTS
    }
    assert wanted - tried == set()


def _filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, id in ids.items():
            value = value.replace(f"{{{name}}}", id)
        return value
    if isinstance(value, dict):
        return {key: _filled(item, ids) for key, item in value.items()}
    return [_filled(item, ids) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def anna(guarded: Running) -> tuple[dict[str, str], dict[str, str]]:
    """Anna's headers, and the ids of what is hers."""
    headers = {"Authorization": f"Token {guarded.services.keys.create('anna', 'anna')}"}
    client = guarded.client
    body = {"messages": "The secret is under the oak.", "user_id": "shared", "agent_id": "spy"}
    event = client.post("/v3/memories/add/", json=body, headers=headers).json()["event_id"]
    client.post("/product/scheduler/wait", params={"user_name": "shared"}, headers=headers)
    ids = {"event": event}
    for name in ("memory", "deleted"):
        raw = {**body, "messages": f"A {name} secret.", "infer": False}
        ids[name] = client.post("/memories", json=raw, headers=headers).json()["results"][0]["id"]
    client.delete(f"/memories/{ids['deleted']}", headers=headers)
    ids["cube"] = client.get("/v1/cubes/shared", headers=headers).json()["id"]
    told = {"user_id": "shared", "feedback_content": "My aunt is called Ada."}
    ids["feedback"] = client.post(f"{CLOUD}/add/feedback", json=told, headers=headers).json()["data"]["task_id"]
    return headers, ids


def _hers(guarded: Running, headers: dict[str, str]) -> Any:
    listed = guarded.client.get("/v1/memories", headers=headers).json()["data"]
    return listed, guarded.client.get("/v1/cubes", headers=headers).json()["data"]


@pytest.mark.parametrize(
    ("method", "path", "request_", "expected"), ATTEMPTS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_tenants_see_nothing_of_each_other(
    guarded: Running,
    anna: tuple[dict[str, str], dict[str, str]],
    method: str,
    path: str,
    request_: dict[str, Any],
    expected: int | Look,
) -> None:
    headers, ids = anna
    before = _hers(guarded, headers)
    assert before[0]
    boris = {"X-API-Key": guarded.services.keys.create(f"boris-{time.time_ns()}", f"k{time.time_ns()}")}
    reply = guarded.client.request(method, _filled(path, ids), headers=boris, **_filled(request_, ids))
    if isinstance(expected, int):
        assert reply.status_code == expected, reply.text
    else:
        assert reply.status_code == 200, reply.text
        assert not expected(reply.json())
    assert "secret" not in reply.text.replace("secret?", "")
    assert _hers(guarded, headers) == before


def test_one_user_of_two_tenants(guarded: Running) -> None:
    keys = {tenant: guarded.services.keys.create(tenant, f"{tenant}-two") for tenant in ("carla", "dario")}
    for tenant, key in keys.items():
        memos = clients.memos().MemOSClient(api_key=key, base_url=guarded.url + CLOUD)
        with mem0_client(guarded, key) as mem0:
            mem0.add(f"The dog of {tenant} barks.", user_id="same", infer=False)
        said = [{"role": "user", "content": f"The cat of {tenant} sleeps on the sofa."}]
        assert memos.add_message(said, user_id="same", async_mode=False).success
    for tenant, key in keys.items():
        memos = clients.memos().MemOSClient(api_key=key, base_url=guarded.url + CLOUD)
        with mem0_client(guarded, key) as mem0:
            found = texts(mem0.get_all(filters={"user_id": "same"}))
        assert len(found) == 2
        assert all(tenant in text for text in found)
        assert all(tenant in m.memory_value for m in memos.search_memory("cat dog", user_id="same").memories)
    with httpx.Client() as http, pytest.raises(ValueError, match="401"):
        clients.mem0().MemoryClient(api_key="rk_wrong", host=guarded.url, client=http)
