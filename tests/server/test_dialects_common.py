"""What the dialects of other memory servers have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.transformers import LoadedModel
from server.dialects import common
from tests.server.dialects import CLOUD, SAID, cubes, ok
from tests.server.running import Running, running


def test_reading_and_deleting_make_nothing(server: Running, mem0: Any, memos: Any) -> None:
    before = cubes(server)
    assert mem0.search("x", filters={"user_id": "stranger"})["results"] == []
    assert mem0.get_all(filters={"user_id": "stranger"})["results"] == []
    mem0.delete_all(user_id="stranger")
    assert memos.search_memory("x", user_id="stranger").memories == []
    assert memos.get_message(user_id="stranger", conversation_id="c").messages == []
    memos.delete_memory(user_id="stranger")
    ok(server.client.post("/product/search", json={"user_id": "stranger", "query": "x"}))
    ok(server.client.post("/product/get_memory", json={"mem_cube_id": "stranger"}))
    ok(server.client.post("/product/delete_memory", json={"user_id": "stranger"}))
    assert cubes(server) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v3/memories/add/", {"messages": SAID}),
        ("/v3/memories/add/", {"messages": SAID, "user_id": 5}),
        ("/v3/memories/add/", {"messages": 5, "user_id": "u"}),
        ("/v3/memories/add/", {"messages": [], "user_id": "u"}),
        ("/v3/memories/add/", {"messages": [{"role": "wizard", "content": "x"}], "user_id": "u"}),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": " "}], "user_id": "u"}),
        ("/v3/memories/add/", {"messages": SAID, "user_id": "u", "metadata": {"x": "y" * 20_000}}),
        ("/v3/memories/add/", {"messages": SAID, "user_id": "u", "expiration_date": "some day"}),
        ("/v3/memories/search/", {"query": "x"}),
        ("/v3/memories/search/", {"query": "x", "filters": {"AND": []}}),
        ("/v3/memories/search/", {"query": "", "filters": {"user_id": "u"}}),
        ("/v3/memories/search/", {"query": "x", "filters": {"user_id": "u", "x": {"like": 1}}}),
        ("/v3/memories/search/", {"query": "x", "filters": {"user_id": "u", "AND": [5]}}),
        ("/v3/memories/", {"filters": {}}),
        ("/memories", {"messages": SAID}),
        ("/search", {"query": "x"}),
        ("/v1/feedback/", {"memory_id": "m", "feedback": "MEH"}),
        ("/v1/batch/", {"memories": []}),
        ("/product/add", {"user_id": "u"}),
        ("/product/add", {"user_id": "u", "messages": SAID, "async_mode": "later"}),
        ("/product/search", {"user_id": "u"}),
        ("/product/search", {"user_id": "u", "query": "x", "top_k": 0}),
        ("/product/chat/complete", {"user_id": "u", "query": "x", "temperature": 9}),
        ("/product/scheduler/wait", {}),
        (f"{CLOUD}/add/message", {"messages": SAID}),
        (f"{CLOUD}/add/message", {"messages": [{"content": "x", "chat_time": "some day"}], "user_id": "u"}),
        (f"{CLOUD}/search/memory", {"query": "x"}),
        (f"{CLOUD}/delete/memory", {}),
        (f"{CLOUD}/delete/memory", {"filter": {"and": []}}),
        (f"{CLOUD}/delete/memory", {"user_id": "u", "agent_id": "a"}),
        (f"{CLOUD}/chat", {"user_id": "u", "query": "x", "top_p": -0.1}),
    ],
)
def test_bad_requests(server: Running, path: str, body: dict[str, Any]) -> None:
    method = "PUT" if path == "/v1/batch/" else "POST"
    reply = server.client.request(method, path, json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["message"]


def test_delete_all_without_whom_deletes_nothing(server: Running) -> None:
    added = server.add("I stay.")
    for path in ("/memories", "/v1/memories/", "/v1/memories"):
        assert server.client.delete(path).status_code == 400
        for filters in ("{}", "{'AND': []}", "[1]", "(" * 900, '{"AND"', "{'user_id': open}"):
            assert server.client.delete(path, params={"filters": filters}).status_code == 400
    assert server.client.get(f"/v1/memories/{added['id']}").status_code == 200


def test_everybody_s_memories_can_be_deleted(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        for user in ("a", "b"):
            server.client.post("/memories", json={"messages": "x y", "user_id": user, "infer": False})
        assert server.client.delete("/memories", params={"user_id": "*"}).status_code == 200
        assert server.client.get("/v1/memories").json()["data"] == []


def test_messages_in_every_form() -> None:
    said = common.messages_of(
        [
            common.PeerMessage(content=[{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {}}]),
            common.PeerMessage(content={"type": "text", "text": "two"}),
            common.PeerMessage(text="three"),
            common.PeerMessage(role="developer", content="four", name="Ana"),
            common.PeerMessage(role="tool"),
            "five",
        ],
        "2024-05-08 13:56",
    )
    assert [message.text for message in said] == ["one", "two", "three", "four", "five"]
    assert (said[3].role, said[3].author, said[3].sent_at) == ("system", "Ana", 1715176560)


@pytest.mark.parametrize(
    ("whose", "filter", "cubes", "rest"),
    [
        ({"user": "u"}, {}, ("u",), {}),
        ({}, {"user_id": "u", "agent_id": "a"}, ("u",), {"agent_id": "a"}),
        ({}, {"AND": [{"AND": [{"user_id": "u"}]}, {"run_id": "r"}]}, ("u",), {"AND": [{"run_id": "r"}]}),
        ({}, {"OR": [{"user_id": "u"}]}, None, {"OR": [{"user_id": "u"}]}),
        ({}, {"NOT": {"user_id": "u"}}, None, {"NOT": [{"user_id": "u"}]}),
        ({"user": "u"}, {"user_id": "v"}, ("u",), {"owner": "v"}),
        ({"agent": "a", "app": "p"}, {}, None, {"agent": "a", "metadata.app_id": "p"}),
        ({}, {"user_id": {"in": ["u"]}, "categories": "c"}, None, {"user_id": {"in": ["u"]}, "tags": "c"}),
        ({}, {"OR": []}, None, {"OR": []}),
    ],
)
def test_selection_of(whose: dict[str, Any], filter: dict[str, Any], cubes: Any, rest: dict[str, Any]) -> None:
    place = common.selection_of(common.ClientIds(**whose), filter)
    assert (place.cubes, place.filter) == (cubes, rest)
