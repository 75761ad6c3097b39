"""The dialect of MemOS's own server."""

from __future__ import annotations

from typing import Any

from tests.server.dialects import SAID, ok
from tests.server.running import Running


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
    id: str = server.memories.cubes.named("default", name).id
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
