"""Other memory servers' dialects, spoken by their own Python clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.transformers import LoadedModel
from server.routes import mem0 as mem0_routes
from server.routes import memos_cloud, memos_product, peers
from tests.server import clients
from tests.server.running import Running, running

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


@pytest.fixture(scope="module")
def mem0(server: Running) -> Iterator[Any]:
    with mem0_client(server) as client:
        yield client


@pytest.fixture(scope="module")
def memos(server: Running) -> Any:
    return clients.memos().MemOSClient(api_key="none", base_url=server.url + CLOUD)


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


# -- mem0's client ---------------------------------------------------------------------------------------------


def test_mem0_client_adds_and_finds(server: Running, mem0: Any) -> None:
    queued = mem0.add(SAID, user_id="mia", agent_id="helper", run_id="r1", metadata={"topic": "home"})
    assert queued["status"] == "PENDING"
    event = ended(server, queued["event_id"])
    assert event["status"] == "SUCCEEDED"
    assert "ADD" in {item["event"] for item in event["results"]}
    found = mem0.search("Where does she live?", filters={"user_id": "mia"}, top_k=3)["results"]
    assert "Lisbon" in found[0]["memory"]
    assert (found[0]["user_id"], found[0]["agent_id"], found[0]["run_id"]) == ("mia", "helper", "r1")
    assert found[0]["metadata"] == {"topic": "home"}
    assert all(0 < item["score"] <= 1 for item in found)
    assert mem0.search("Lisbon", filters={"user_id": "mia"}, threshold=0.999)["results"] == []
    assert mem0.get(found[0]["id"])["memory"] == found[0]["memory"]


def test_mem0_client_filters(server: Running, mem0: Any) -> None:
    for text, more in (
        ("Alpha is red.", {"agent_id": "a", "metadata": {"n": 1}}),
        ("Beta is blue.", {"agent_id": "b", "metadata": {"n": 2}, "app_id": "shop"}),
        ("Gamma is green.", {"run_id": "r", "metadata": {"n": 3}}),
    ):
        mem0.add(text, user_id="filters", infer=False, **more)

    def found(**filters: Any) -> list[str]:
        return sorted(texts(mem0.get_all(filters=filters)))

    assert len(found(user_id="filters")) == 3
    assert found(user_id="filters", agent_id="a") == ["Alpha is red."]
    assert found(AND=[{"user_id": "filters"}, {"run_id": "r"}]) == ["Gamma is green."]
    assert found(AND=[{"user_id": "filters"}, {"OR": [{"agent_id": "a"}, {"agent_id": "b"}]}]) == [
        "Alpha is red.",
        "Beta is blue.",
    ]
    assert found(user_id="filters", metadata={"n": {"gt": 1}}) == ["Beta is blue.", "Gamma is green."]
    assert found(agent_id="b") == ["Beta is blue."]
    assert found(app_id="shop") == ["Beta is blue."]
    assert found(OR=[{"user_id": "filters"}, {"user_id": "nobody"}])[0] == "Alpha is red."
    assert found(user_id="*", agent_id="a") == ["Alpha is red."]
    assert found(AND=[{"user_id": "filters"}, {"user_id": "other"}]) == []
    assert found(user_id="filters", created_at={"gte": "2999-01-01"}) == []
    hit = mem0.search("Is it red or blue?", filters={"user_id": "filters", "agent_id": "a"})
    assert texts(hit) == ["Alpha is red."]


def test_mem0_client_pages(mem0: Any) -> None:
    for n in range(5):
        mem0.add(f"Page number {n}.", user_id="pages", infer=False)
    first = mem0.get_all(filters={"user_id": "pages"}, page=1, page_size=2)
    last = mem0.get_all(filters={"user_id": "pages"}, page=3, page_size=2)
    assert (first["count"], texts(first)) == (5, ["Page number 4.", "Page number 3."])
    assert (first["previous"], bool(first["next"])) == (None, True)
    assert (texts(last), last["next"]) == (["Page number 0."], None)


def test_mem0_client_stores_as_given(server: Running, mem0: Any) -> None:
    added = mem0.add(
        [{"role": "user", "content": "ok"}, {"role": "system", "content": "no memory"}],
        user_id="raw",
        infer=False,
        timestamp=1_700_000_000,
        expiration_date="2999-12-31",
    )
    (item,) = added["results"]
    assert ended(server, added["event_id"])["results"][0]["id"] == item["id"]
    shown = mem0.get(item["id"])
    assert (shown["memory"], shown["expiration_date"]) == ("ok", "2999-12-31")
    assert server.client.get(f"/v1/memories/{item['id']}").json()["event_at"] == 1_700_000_000
    mem0.update(item["id"], expiration_date=None)
    assert mem0.get(item["id"])["expiration_date"] is None
    mem0.update(item["id"], expiration_date="2001-01-01")
    assert mem0.get_all(filters={"user_id": "raw"})["results"] == []


def test_mem0_client_changes_and_history(server: Running, mem0: Any) -> None:
    id = mem0.add("The kettle is silver.", user_id="kettle", infer=False)["results"][0]["id"]
    mem0.update(id, text="The kettle is black.", metadata={"seen": True})
    assert mem0.get(id)["metadata"] == {"role": "user", "seen": True}  # keys that are not given stay
    steps = mem0.history(id)
    assert [(step["event"], step["old_memory"], step["new_memory"]) for step in steps] == [
        ("ADD", None, "The kettle is silver."),
        ("UPDATE", "The kettle is silver.", "The kettle is black."),
    ]
    assert "deleted" in mem0.delete(id)["message"]
    with pytest.raises(Exception, match=r"(?i)no memory") as caught:
        mem0.get(id)
    assert type(caught.value).__name__ == "MemoryNotFoundError"


def test_mem0_client_batches(mem0: Any) -> None:
    ids = [mem0.add(f"Batch {n}.", user_id="batch", infer=False)["results"][0]["id"] for n in range(3)]
    mem0.batch_update([{"memory_id": ids[0], "text": "Batch zero."}, {"memory_id": ids[1], "metadata": {"a": 1}}])
    assert (mem0.get(ids[0])["memory"], mem0.get(ids[1])["metadata"]) == ("Batch zero.", {"role": "user", "a": 1})
    with pytest.raises(Exception, match="mem_none"):
        mem0.batch_delete([{"memory_id": ids[0]}, {"memory_id": "mem_none"}])
    assert "2" in mem0.batch_delete([{"memory_id": id} for id in ids[:2]])["message"]
    assert texts(mem0.get_all(filters={"user_id": "batch"})) == ["Batch 2."]


def test_mem0_client_feedback(server: Running, mem0: Any) -> None:
    id = mem0.add("The bridge is iron.", user_id="bridge", infer=False)["results"][0]["id"]
    assert mem0.feedback(id)["feedback"] is None
    assert mem0.feedback(id, "positive", "well remembered")["feedback"] == "POSITIVE"
    assert server.client.get(f"/v1/memories/{id}").json()["uses"] == 2
    mem0.feedback(id, "VERY_NEGATIVE", "it was wood")
    assert server.client.get(f"/v1/memories/{id}").json()["status"] == "archived"
    assert mem0.get_all(filters={"user_id": "bridge"})["results"] == []


def test_mem0_client_deletes_everything_of_a_user(mem0: Any) -> None:
    for user in ("gone", "stays"):
        mem0.add("The sea is wide.", user_id=user, agent_id="sailor", infer=False)
    mem0.delete_all(user_id="gone")
    assert mem0.get_all(filters={"user_id": "gone"})["results"] == []
    assert len(mem0.get_all(filters={"user_id": "stays"})["results"]) == 1
    # Given as filters, a dict reaches the query string as Python writes it.
    mem0.delete_all(filters={"user_id": "stays", "agent_id": "nobody"})
    assert len(mem0.get_all(filters={"user_id": "stays"})["results"]) == 1
    mem0.delete_all(filters={"user_id": "stays", "agent_id": "sailor"})
    assert mem0.get_all(filters={"user_id": "stays"})["results"] == []


def test_mem0_client_entities(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server, mem0_client(server) as mem0:
        mem0.add("One.", user_id="u", agent_id="a", infer=False)
        mem0.add("Two.", agent_id="a", infer=False)
        mem0.add("Three.", run_id="r", infer=False)
        mem0.add("Four.", app_id="p", infer=False)
        server.add("Five.", cube="u")
        assert cubes(server) >= {"u", "agent:a", "run:r", "app:p"}

        def known() -> dict[tuple[str, str], int]:
            return {(e["type"], e["name"]): e["total_memories"] for e in mem0.users()["results"]}

        assert known() == {("user", "u"): 2, ("agent", "a"): 2, ("run", "r"): 1, ("app", "p"): 1}
        mem0.delete_users(agent_id="a")
        assert known() == {("user", "u"): 1, ("run", "r"): 1, ("app", "p"): 1}
        with pytest.raises(Exception, match="nobody"):
            mem0.delete_users(user_id="nobody")
        mem0.reset()
        assert known() == {}


def test_mem0_async_client(server: Running) -> None:
    async def use() -> list[str]:
        client = clients.mem0().AsyncMemoryClient(api_key="none", host=server.url)
        await client.add("The async bird sings.", user_id="async", infer=False)
        found = texts(await client.search("bird", filters={"user_id": "async"}))
        await client.delete_all(user_id="async")
        await client.async_client.aclose()
        return found

    assert asyncio.run(use()) == ["The async bird sings."]


def test_mem0_changes_remove_what_was_computed(server: Running, mem0: Any) -> None:
    id = mem0.add("The lighthouse is striped.", user_id="lamp", infer=False)["results"][0]["id"]

    def source() -> str:
        told: str = server.chat("x", memory={"ids": [id]}).json()["memory"]["memories"][0]["source"]
        return told

    assert source() == "computed"
    assert source() != "computed"
    mem0.update(id, text="The lighthouse is plain.")
    assert source() == "computed"
    held = server.client.get("/v1/cache").json()["data"]
    assert any(id in segment["memories"] for segment in held)
    mem0.delete_all(user_id="lamp")
    held = server.client.get("/v1/cache").json()["data"]
    assert not any(id in segment["memories"] for segment in held)


# -- mem0's server, and older clients --------------------------------------------------------------------------


def test_mem0_server_rest(server: Running) -> None:
    client = server.client
    body = {"messages": SAID, "user_id": "rest", "metadata": {"k": "v"}}
    (first, *_) = client.post("/memories", json=body).json()["results"]
    assert first["event"] == "ADD"
    shown = client.get(f"/memories/{first['id']}").json()
    assert (shown["memory"], shown["metadata"]) == (first["memory"], {"k": "v"})
    assert first["id"] in [m["id"] for m in client.get("/memories", params={"user_id": "rest"}).json()["results"]]
    found = client.post("/search", json={"query": "Lisbon", "user_id": "rest", "top_k": 1}).json()["results"]
    assert "Lisbon" in found[0]["memory"]
    assert client.put(f"/memories/{first['id']}", json={"text": "She lives in Porto."}).status_code == 200
    assert [step["event"] for step in client.get(f"/memories/{first['id']}/history").json()][-1] == "UPDATE"
    assert client.delete(f"/memories/{first['id']}").status_code == 200
    assert client.get(f"/memories/{first['id']}").status_code == 404
    assert client.delete("/memories", params={"user_id": "rest"}).status_code == 200
    assert client.get("/memories", params={"user_id": "rest"}).json() == {"results": []}


def test_mem0_reset(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        server.client.post("/memories", json={"messages": "Reset me.", "user_id": "u", "infer": False})
        assert server.client.post("/reset").json() == {"message": "All memories reset"}
        assert server.client.get("/v1/cubes").json()["data"] == []


def test_paths_of_mem0_s_older_clients(server: Running) -> None:
    client = server.client
    body = {"messages": SAID, "user_id": "older", "output_format": "v1.1"}
    (queued,) = client.post("/v1/memories/", json=body).json()["results"]
    assert ended(server, queued["event_id"])["status"] == "SUCCEEDED"
    more = {"messages": "I have a parrot called Kiwi.", "user_id": "older", "async_mode": False}
    (added,) = client.post("/v1/memories/", json=more).json()["results"]
    search = {"query": "parrot", "filters": {"user_id": "older"}, "limit": 1}
    assert client.post("/v2/memories/search/", json=search).json()["results"][0]["id"] == added["id"]
    listed = client.post("/v2/memories/", json={"filters": {"user_id": "older"}}).json()["results"]
    assert added["id"] in [item["id"] for item in listed]
    # Some clients leave the slash out.
    assert client.delete("/v1/memories", params={"user_id": "older"}).status_code == 200
    assert client.post("/v2/memories/", json={"filters": {"user_id": "older"}}).json()["results"] == []


# -- MemOS's client --------------------------------------------------------------------------------------------


def test_memos_client_adds_and_finds(memos: Any) -> None:
    added = memos.add_message(SAID, user_id="omar", conversation_id="c1", tags=["work"], info={"scene": "chat"})
    assert added.success
    for _ in range(400):
        status = memos.get_task_status(added.task_id).data
        if status.status != "running":
            break
        time.sleep(0.05)
    assert (status.task_id, status.status) == (added.task_id, "completed")
    done = memos.add_message(
        [{"role": "user", "content": "I prefer tea to coffee.", "chat_time": "2024-05-08 13:56"}],
        user_id="omar",
        conversation_id="c2",
        async_mode=False,
    )
    assert done.status == "completed"
    found = memos.search_memory("Where does he live?", user_id="omar")
    assert "Lisbon" in found.memories[0].memory_value
    assert (found.memories[0].conversation_id, found.memories[0].tags) == ("c1", ["work"])
    assert found.memories[0].info == {"scene": "chat"}
    assert 0 < found.memories[0].relativity <= 1
    assert "tea" in memos.search_memory("tea", user_id="omar").preferences[0].preference
    assert memos.search_memory("tea", user_id="omar", include_preference=False).preferences == []
    assert memos.search_memory("Lisbon", user_id="omar", relativity=0.999).memories == []
    narrowed = memos.search_memory("Lisbon", user_id="omar", filter={"and": [{"info.scene": "other"}]})
    assert narrowed.memories == []


def test_memos_client_reads_messages_and_memories(memos: Any) -> None:
    memos.add_message(SAID, user_id="read", conversation_id="c", async_mode=False)
    messages = memos.get_message(user_id="read", conversation_id="c", message_limit_number=1).messages
    assert [(m.role, m.content) for m in messages] == [("assistant", SAID[1]["content"])]
    page = memos.get_memory(user_id="read", page=1, size=1)
    assert (len(page.memories), page.data.size, page.data.current) == (1, 1, 1)
    assert page.data.total == page.data.pages >= 2
    shown = memos.get_memory_by_id(page.memories[0].id)
    assert shown["data"]["memory_value"] == page.memories[0].memory_value
    changed = memos.update_memory(page.memories[0].id, content="Something else.", title="Else", status="archived")
    assert (changed["data"]["memory_key"], changed["data"]["status"]) == ("Else", "archived")
    assert memos.get_memory(user_id="read").data.total == page.data.total - 1
    assert memos.get_memory(user_id="nobody at all").memories == []


def test_memos_client_agents(memos: Any) -> None:
    memos.add_message([{"role": "user", "content": "The agent's own drum."}], agent_id="bot", async_mode=False)
    memos.add_message(
        [{"role": "user", "content": "A drum of two users."}], user_id=["x1", "x2"], agent_id="bot", async_mode=False
    )
    assert len(memos.search_memory("drum", agent_id="bot").memories) >= 2
    assert len(memos.get_memory(user_id="x1").memories) == len(memos.get_memory(user_id="x2").memories) == 1
    assert memos.delete_memory(agent_id="bot").success
    assert memos.get_memory(user_id="x1").memories == []


def test_memos_client_feedback_and_delete(memos: Any) -> None:
    memos.add_message(SAID, user_id="fb", async_mode=False)
    told = memos.add_feedback(user_id="fb", feedback_content="Actually, I live in Porto.")
    assert (told.success, told.status) == (True, "completed")
    assert memos.get_task_status(told.task_id).data.status == "completed"
    assert "Porto" in memos.search_memory("Where does he live now?", user_id="fb").memories[0].memory_value
    (first, *_) = memos.get_memory(user_id="fb").memories
    assert memos.delete_memory(memory_ids=[first.id]).success
    assert first.id not in [m.id for m in memos.get_memory(user_id="fb").memories]
    assert memos.delete_memory(filter={"and": [{"user_id": "fb"}, {"tags": "none"}]}).success
    assert memos.get_memory(user_id="fb").memories
    assert memos.delete_memory(user_id="fb").success
    assert memos.get_memory(user_id="fb").memories == []


def test_memos_client_chats(server: Running, memos: Any) -> None:
    memos.add_message(SAID, user_id="chat", async_mode=False)
    reply = memos.chat(user_id="chat", conversation_id="c9", query="Where do I live?", max_tokens=4)
    events = [json.loads(line) for line in memos.chat("chat", "c9", "And now?", max_tokens=4, stream=True)]
    assert events[-1] == {"type": "end"}
    assert {event["type"] for event in events[:-1]} == {"text"}
    wait = server.client.post("/product/scheduler/wait", params={"user_name": "chat"}).json()
    assert wait["message"] == "idle"
    said = memos.get_message(user_id="chat", conversation_id="c9").messages
    assert [m.content for m in said if m.role == "user"] == ["Where do I live?", "And now?"]
    # The tiny model writes whatever bytes it likes; a zero is kept as the replacement character.
    answers = [
        text.replace("\x00", "\ufffd") for text in (reply.response, "".join(event["data"] for event in events[:-1]))
    ]
    assert [m.content for m in said if m.role == "assistant"] == [text for text in answers if text.strip()]
    memos.chat(user_id="silent", conversation_id="c", query="Hello?", max_tokens=2, add_message_on_answer=False)
    assert "silent" not in cubes(server)


# -- MemOS's server --------------------------------------------------------------------------------------------


def test_product_adds_and_finds(server: Running) -> None:
    client = server.client
    body = {"user_id": "pia", "messages": SAID, "async_mode": "sync", "session_id": "s", "custom_tags": ["t"]}
    reply = client.post("/product/add", json=body)
    assert reply.json()["message"] == "Memory added successfully"
    added = ok(reply)
    assert {item["cube_id"] for item in added} == {"pia"}
    found = ok(client.post("/product/search", json={"user_id": "pia", "query": "Where does she live?", "top_k": 2}))
    (bucket,) = found["text_mem"]
    assert (bucket["cube_id"], bucket["total_nodes"]) == ("pia", len(bucket["memories"]))
    best = bucket["memories"][0]
    assert "Lisbon" in best["memory"]
    assert (best["metadata"]["session_id"], best["metadata"]["tags"]) == ("s", ["t"])
    assert 0 < best["metadata"]["relativity"] <= 1
    by_id = ok(client.get(f"/product/get_memory/{best['id']}"))
    assert by_id["memory"] == best["memory"]
    several = ok(client.post("/product/get_memory_by_ids", json=[best["id"], "mem_none"]))
    assert [item["id"] for item in several["memories"]] == [best["id"]]
    whole = ok(client.post("/product/get_memory", json={"mem_cube_id": "pia", "user_id": "pia"}))
    assert whole["text_mem"][0]["total_nodes"] == len(whole["text_mem"][0]["memories"]) == len(added)
    page = ok(client.post("/product/get_memory", json={"mem_cube_id": "pia", "page": 1, "page_size": 1}))
    assert (len(page["text_mem"][0]["memories"]), page["text_mem"][0]["total_nodes"]) == (1, len(added))
    graph = ok(client.post("/product/get_all", json={"user_id": "pia", "memory_type": "text_mem"}))
    assert len(graph[0]["memories"][0]["nodes"]) == len(added)
    part = {"user_id": "pia", "memory_type": "text_mem", "search_query": "carpenter"}
    assert ok(client.post("/product/get_all", json=part))[0]["memories"][0]["nodes"]
    assert ok(client.post("/product/get_all", json={"user_id": "pia", "memory_type": "act_mem"})) == []


def test_product_kinds_are_kept_apart(server: Running) -> None:
    for kind, text in (("preference", "Likes jazz."), ("tool", "Call jazz_radio(volume)."), ("fact", "Jazz is old.")):
        server.add(text, kind=kind, cube=server_cube(server, "kinds"))
    ask = {"user_id": "kinds", "query": "jazz"}
    found = ok(server.client.post("/product/search", json=ask))
    told = {part: [m["memory"] for b in found[part] for m in b["memories"]] for part in ("text_mem", "pref_mem")}
    assert told == {"text_mem": ["Jazz is old."], "pref_mem": ["Likes jazz."]}
    assert found["tool_mem"][0]["memories"][0]["metadata"]["memory_type"] == "ToolTrajectoryMemory"
    less = ok(server.client.post("/product/search", json={**ask, "include_preference": False}))
    assert less["pref_mem"][0]["memories"] == []


def server_cube(server: Running, name: str) -> str:
    id: str = server.services.memories.cubes.named("default", name).id
    return id


def test_product_async_tasks(server: Running) -> None:
    client = server.client
    body = {"user_id": "task", "messages": SAID, "task_id": "mine", "writable_cube_ids": ["task-a", "task-b"]}
    started = ok(client.post("/product/add", json=body))
    assert [item["task_id"] for item in started] == ["mine", "mine"]
    wait = client.post("/product/scheduler/wait", params={"user_name": "task", "timeout_seconds": 30}).json()
    assert (wait["message"], wait["data"]["timed_out"]) == ("idle", False)
    status = "/product/scheduler/status"
    assert ok(client.get(status, params={"user_id": "task", "task_id": "mine"})) == [
        {"task_id": "mine", "status": "completed"}
    ]
    jobs = ok(client.get(status, params={"user_id": "task"}))
    assert [job["status"] for job in jobs] == ["completed", "completed"]
    assert len(ok(client.get(status, params={"user_id": "task", "task_id": jobs[0]["task_id"]}))) == 1
    assert client.get(status, params={"user_id": "task", "task_id": "other"}).status_code == 404
    assert ok(client.get(status, params={"user_id": "nobody"})) == []
    summary = ok(client.get("/product/scheduler/allstatus"))["all_tasks_summary"]
    assert summary["completed"] >= 2
    queue = ok(client.get("/product/scheduler/task_queue_status", params={"user_id": "task"}))
    assert (queue["remaining_tasks_count"], queue["pending_tasks_count"]) == (0, 0)
    both = {"user_id": "task", "query": "Lisbon", "readable_cube_ids": ["task-a", "task-b", "task-c"]}
    buckets = ok(client.post("/product/search", json=both))["text_mem"]
    assert {bucket["cube_id"] for bucket in buckets} == {"task-a", "task-b"}


def test_product_cubes_and_recovery(server: Running) -> None:
    client = server.client
    made = ok(client.post("/product/create_cube", json={"cube_name": "Notes", "owner_id": "o", "cube_id": "notes-1"}))
    assert made["cube_id"] == "notes-1"
    assert client.post("/product/create_cube", json={"cube_name": "notes-1", "owner_id": "o"}).status_code == 409
    assert ok(client.post("/product/exist_mem_cube_id", json={"mem_cube_id": "notes-1"})) == {"notes-1": True}
    assert ok(client.post("/product/exist_mem_cube_id", json={"mem_cube_id": "notes-2"})) == {"notes-2": False}
    given = {"user_id": "o", "mem_cube_id": "notes-1", "memory_content": "My car is grey."}
    (one,) = ok(client.post("/product/add", json=given))
    assert one["memory"] == "My car is grey."
    ok(client.post("/product/delete_memory", json={"memory_ids": [one["memory_id"]]}))
    assert client.get(f"/product/get_memory/{one['memory_id']}").status_code == 404
    record = {"mem_cube_id": "notes-1", "delete_record_id": one["memory_id"]}
    assert ok(client.post("/product/recover_memory_by_record_id", json=record))["status"] == "success"
    assert client.get(f"/product/get_memory/{one['memory_id']}").status_code == 200
    assert client.post("/product/recover_memory_by_record_id", json=record).status_code == 404


def test_product_deletes(server: Running) -> None:
    client = server.client

    def add(user: str, session: str, **more: Any) -> None:
        said = [{"role": "user", "content": f"The {session} garden of {user} has a pond."}]
        body = {"user_id": user, "session_id": session, "messages": said, "async_mode": "sync", **more}
        ok(client.post("/product/add", json=body))

    def left(cube: str = "del") -> list[str]:
        found = ok(client.post("/product/get_memory", json={"mem_cube_id": cube}))
        return [m["metadata"]["session_id"] for m in found["text_mem"][0]["memories"]]

    for session in ("s1", "s2", "s3"):
        add("del", session)
    add("guest", "s4", writable_cube_ids=["del"])
    for body in (
        {},
        {"filter": {}},
        {"filter": {"and": []}},
        {"filter": {"and": [{}]}},
        {"memory_ids": ["x"], "user_id": "del"},
        {"file_ids": ["f"]},
    ):
        assert client.post("/product/delete_memory", json=body).status_code == 400, body
    assert client.post("/product/delete_memory", json={"memory_ids": ["mem_none"]}).status_code == 404
    ok(client.post("/product/delete_memory", json={"user_id": "del", "session_id": "s1"}))
    assert left() == ["s2", "s3", "s4"]
    ok(client.post("/product/delete_memory", json={"filter": {"and": [{"user_id": "del"}, {"session_id": "s2"}]}}))
    assert left() == ["s3", "s4"]
    ok(client.post("/product/delete_memory", json={"user_id": "guest", "writable_cube_ids": ["del"]}))
    assert left() == ["s3"]
    ok(client.post("/product/delete_memory", json={"user_id": "del", "writable_cube_ids": ["del"]}))
    assert left() == []


def test_product_feedback(server: Running) -> None:
    client = server.client
    id = server.add("The tower is 80 m high.", cube=server_cube(server, "tower"))["id"]
    told = {"user_id": "tower", "history": [], "feedback_content": "That is wrong.", "retrieved_memory_ids": [id]}
    (record,) = ok(client.post("/product/feedback", json=told))
    assert record["record"]["update"] == [{"id": id, "action": "archived"}]
    said = [{"role": "user", "content": "My neighbour is called Ida."}]
    body = {"user_id": "tower", "messages": said, "is_feedback": True}
    assert ok(client.post("/product/add", json=body))[0]["record"]["add"]
    unknown = {**told, "retrieved_memory_ids": ["mem_none"]}
    assert client.post("/product/feedback", json=unknown).status_code == 404


def test_product_chat(server: Running) -> None:
    client = server.client
    ok(client.post("/product/add", json={"user_id": "talk", "messages": SAID, "async_mode": "sync"}))
    body = {
        "user_id": "talk",
        "query": "Where do I live?",
        "history": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hi!"}],
        "system_prompt": "Be short.",
        "max_tokens": 4,
        "temperature": 0,
    }
    reply = ok(client.post("/product/chat/complete", json=body))
    assert isinstance(reply["response"], str)
    # The memories are in the prompt: without them, or with those that a filter leaves, it is another one.
    seen = set()
    for more in ({}, {"filter": {"session_id": "none"}}, {"readable_cube_ids": ["no such cube"]}):
        before = prompt_tokens(server)
        ok(client.post("/product/chat/complete", json={**body, **more, "add_message_on_answer": False}))
        seen.add(prompt_tokens(server) - before)
    assert len(seen) == 2
    assert client.post("/product/chat/complete", json={**body, "model_name_or_path": "other"}).status_code == 404
    # What the client asks for by default is more than the whole context.
    asked = client.post("/product/chat/complete", json={**body, "max_tokens": 8192})
    assert asked.status_code == 200, asked.text


def prompt_tokens(server: Running) -> float:
    for line in server.client.get("/metrics").text.splitlines():
        if line.startswith("recallkv_prompt_tokens_total"):
            return float(line.rpartition(" ")[2])
    raise AssertionError("there is no count of prompt tokens")


# -- what they have in common ----------------------------------------------------------------------------------


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
    said = peers.messages_of(
        [
            peers.PeerMessage(content=[{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {}}]),
            peers.PeerMessage(content={"type": "text", "text": "two"}),
            peers.PeerMessage(text="three"),
            peers.PeerMessage(role="developer", content="four", name="Ana"),
            peers.PeerMessage(role="tool"),
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
def test_where(whose: dict[str, Any], filter: dict[str, Any], cubes: Any, rest: dict[str, Any]) -> None:
    place = peers.where(peers.Whose(**whose), filter)
    assert (place.cubes, place.filter) == (cubes, rest)


# -- isolation -------------------------------------------------------------------------------------------------

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
        for router in (mem0_routes.router, memos_product.router, memos_cloud.router)
        for route in router.routes
        for method, path in [(sorted(route.methods)[0], route.path)]  # type: ignore[attr-defined]
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
    headers = {"Authorization": f"Token {guarded.services.memories.keys.create('anna', 'anna')}"}
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
    boris = {"X-API-Key": guarded.services.memories.keys.create(f"boris-{time.time_ns()}", f"k{time.time_ns()}")}
    reply = guarded.client.request(method, _filled(path, ids), headers=boris, **_filled(request_, ids))
    if isinstance(expected, int):
        assert reply.status_code == expected, reply.text
    else:
        assert reply.status_code == 200, reply.text
        assert not expected(reply.json())
    assert "secret" not in reply.text.replace("secret?", "")
    assert _hers(guarded, headers) == before


def test_one_user_of_two_tenants(guarded: Running) -> None:
    keys = {tenant: guarded.services.memories.keys.create(tenant, f"{tenant}-two") for tenant in ("carla", "dario")}
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
