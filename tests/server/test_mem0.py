"""The dialect of mem0, spoken by its own Python clients, and by older ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.transformers import LoadedModel
from tests.server import clients
from tests.server.dialects import SAID, cubes, ended, mem0_client, texts
from tests.server.running import Running, running


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
