"""Deleting in every dialect, ids of every kind, and expiry, over HTTP."""

from __future__ import annotations

import string
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.server.running import Running

CLOUD = "/api/openmem/v1"
Delete = Callable[[httpx.Client, str], httpx.Response]


def _cube(client: httpx.Client, user: str) -> str:
    id: str = client.get(f"/v1/cubes/{quote(user, safe='')}").json()["id"]
    return id


# Every way in which a client deletes all of a user.
WAYS: dict[str, Delete] = {
    "mem0": lambda c, u: c.delete("/memories", params={"user_id": u}),
    "mem0 platform": lambda c, u: c.delete("/v1/memories/", params={"user_id": u}),
    "mem0 filters": lambda c, u: c.delete("/v1/memories/", params={"filters": str({"AND": [{"user_id": u}]})}),
    "mem0 entity": lambda c, u: c.delete(f"/v2/entities/user/{quote(u, safe='')}/"),
    "mem0 entity, unquoted": lambda c, u: c.delete(f"/v2/entities/user/{quote(u, safe='/')}/"),
    "product": lambda c, u: c.post("/product/delete_memory", json={"user_id": u}),
    "product filter": lambda c, u: c.post("/product/delete_memory", json={"filter": {"and": [{"user_id": u}]}}),
    "product cube": lambda c, u: c.post("/product/delete_memory", json={"user_id": u, "writable_cube_ids": [u]}),
    "cloud": lambda c, u: c.post(f"{CLOUD}/delete/memory", json={"user_id": u}),
    "cloud filter": lambda c, u: c.post(f"{CLOUD}/delete/memory", json={"filter": {"user_id": u}}),
    "ours": lambda c, u: c.delete(f"/v1/cubes/{_cube(c, u)}"),
    "ours, by name": lambda c, u: c.delete(f"/v1/cubes/{quote(u, safe='')}"),
}


def fill(server: Running, user: str, word: str) -> list[str]:
    """Have a user say, change, correct and delete things that all hold a word; the memories' ids."""
    client = server.client

    def say(text: str, **more: Any) -> None:
        body = {"messages": text, "user_id": user, "agent_id": "cook", "run_id": "r1", **more}
        assert client.post("/memories", json=body).status_code == 200

    say(f"I live in {word}ville.")
    say(f"Do you know {word}ville?")
    say(f"I moved to {word}burg.")
    say(f"The {word} is in the shed.", infer=False, metadata={"k": word})
    told = {"user_id": user, "feedback_content": f"My aunt is called {word}a."}
    assert client.post(f"{CLOUD}/add/feedback", json=told).status_code == 200
    id = client.post("/v1/memories", json={"text": f"Gone {word}", "cube": user}).json()["id"]
    client.delete(f"/v1/memories/{id}")
    said = {"model": "tiny", "messages": [{"role": "user", "content": f"Where is the {word}?"}], "max_tokens": 3}
    chat = {**said, "memory": {"cube": user, "fidelity": "exact", "remember": True}}
    assert client.post("/v1/chat/completions", json=chat).status_code == 200
    client.post("/product/scheduler/wait", params={"user_name": user})
    held = client.get("/v1/memories", params={"cube": user, "status": "archived"}).json()["data"]
    assert any(f"{word}ville" in memory["text"] for memory in held)
    listed = client.get("/v1/memories", params={"cube": user}).json()["data"]
    return [id, *(memory["id"] for memory in (*held, *listed))]


def shown(client: httpx.Client, user: str, ids: list[str], word: str) -> list[str]:
    """The answers of all routes that show something of a user; the word is in none of the questions."""
    mine = {"user_id": user}
    replies = [
        *(client.get("/v1/memories", params={"cube": user, "status": s}) for s in ("active", "archived", "deleted")),
        client.get("/v1/messages", params={"cube": user}),
        client.get("/v1/feedback", params={"cube": user}),
        client.get("/v1/jobs"),
        client.get("/v1/scheduler"),
        client.post("/v1/memories/search", json={"query": "shed aunt live", "cube": user, "at": time.time() - 0.5}),
        client.get("/memories", params=mine),
        client.post("/v3/memories/", json={"filters": mine}),
        client.post("/v3/memories/search/", json={"query": "shed aunt live", "filters": mine}),
        client.get("/v1/entities/"),
        client.post("/product/search", json={**mine, "query": "shed aunt live"}),
        client.post("/product/get_memory", json={"mem_cube_id": user}),
        client.post("/product/get_all", json={**mine, "memory_type": "text_mem"}),
        client.post(f"{CLOUD}/get/message", json={**mine, "message_limit_number": 50}),
        client.post(f"{CLOUD}/get/memory", json=mine),
        client.post(f"{CLOUD}/search/memory", json={**mine, "query": "shed aunt live"}),
        client.post("/product/get_memory_by_ids", json=ids),
        client.get(f"/v1/cubes/{quote(user, safe='')}/dump"),
    ]
    for id in ids:
        replies += [client.get(f"/v1/memories/{id}"), client.get(f"/v1/memories/{id}/history")]
        replies += [client.get(f"/v1/event/{id}/"), client.post(f"/v1/memories/{id}/undelete")]
    return [str(reply.request.url) for reply in replies if word.lower().encode() in reply.content.lower()]


def in_files(folder: Path, word: str) -> list[str]:
    raw = word.lower().encode()
    return [file.name for file in folder.rglob("*") if file.is_file() and raw in file.read_bytes().lower()]


@pytest.mark.parametrize("way", WAYS)
def test_a_deleted_user_leaves_nothing(server: Running, way: str) -> None:
    word = f"Quagga{string.ascii_lowercase[list(WAYS).index(way)]}x"
    user = f"team/{list(WAYS).index(way)}"
    ids = fill(server, user, word)
    folder = server.services.config.data_dir
    assert in_files(folder, word)
    reply = WAYS[way](server.client, user)
    assert reply.status_code == 200, reply.text
    assert shown(server.client, user, ids, word) == []
    assert in_files(folder, word) == []
    held = server.client.get("/v1/cache").json()["data"]
    assert not [segment for segment in held if set(ids) & {label.partition("@")[0] for label in segment["memories"]}]
    added = server.client.post("/memories", json={"messages": "New is this.", "user_id": user, "infer": False})
    assert added.status_code == 200
    assert len(server.client.get("/memories", params={"user_id": user}).json()["results"]) == 1


def test_reset_leaves_nothing(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    headers = keys["anna"]
    body = {"messages": "The okapi is in the shed.", "user_id": "zoe", "async_mode": False}
    guarded.client.post("/v1/memories/", json=body, headers=headers)
    assert guarded.client.post("/reset", headers=headers).status_code == 200
    assert guarded.client.get("/v1/cubes", headers=headers).json()["data"] == []
    assert in_files(guarded.services.config.data_dir, "okapi") == []


def test_conversations_go_with_what_they_quote(server: Running) -> None:
    """The turns of a conversation hold its words, and their keys and values are kept behind the memories'."""
    user = "talker"
    server.client.post("/memories", json={"messages": "The lynx is tame.", "user_id": user, "infer": False})
    turns: list[dict[str, str]] = []
    for text in ("Is the lynx tame?", "Is it really?"):
        turns.append({"role": "user", "content": text})
        body = {"model": "tiny", "messages": turns, "max_tokens": 4, "memory": {"cube": user, "fidelity": "exact"}}
        answer = server.client.post("/v1/chat/completions", json=body).json()
        turns.append(answer["choices"][0]["message"])
    server.client.delete("/v1/memories/", params={"user_id": user})
    assert not [s for s in server.client.get("/v1/cache").json()["data"] if s.get("kind") == "turns"]
    body = {"model": "tiny", "messages": turns[:3], "max_tokens": 2, "memory": {"cube": user, "fidelity": "exact"}}
    assert server.client.post("/v1/chat/completions", json=body).json()["memory"]["memories"] == []


def test_deleting_an_agent_or_a_run_takes_its_messages_only(server: Running) -> None:
    client = server.client
    for agent, run, text in (
        ("cook", "r1", "The oven is hot."),
        ("cook", "r2", "Soup is red."),
        ("guide", "r1", "Go up."),
    ):
        body = {"messages": text, "user_id": "two", "agent_id": agent, "run_id": run}
        assert client.post("/memories", json=body).json()["results"]

    def left() -> tuple[list[str], list[str]]:
        said = client.get("/v1/messages", params={"cube": "two"}).json()["data"]
        found = client.get("/memories", params={"user_id": "two"}).json()["results"]
        return sorted(m["content"] for m in said), sorted(m["memory"].removeprefix("User: ") for m in found)

    assert client.delete("/v1/memories/", params={"user_id": "two", "run_id": "r2"}).status_code == 200
    assert left() == (["Go up.", "The oven is hot."],) * 2
    guide = {"filter": {"and": [{"user_id": "two"}, {"agent_id": "guide"}]}}
    assert client.post("/product/delete_memory", json=guide).status_code == 200
    assert left() == (["The oven is hot."],) * 2
    assert client.post(f"{CLOUD}/delete/memory", json={"agent_id": "cook"}).status_code == 200
    assert left() == ([], [])


def test_what_a_filter_lets_through_can_be_brought_back(server: Running) -> None:
    client = server.client
    for tag in ("x", "y"):
        body = {"user_id": "some", "memory_content": f"Tagged {tag}.", "custom_tags": [tag]}
        client.post("/product/add", json=body)
    gone = client.post("/product/delete_memory", json={"filter": {"and": [{"user_id": "some"}, {"tags": "x"}]}}).json()
    (id,) = gone["data"]["record_ids"]
    record = {"mem_cube_id": "some", "delete_record_id": id}
    assert client.post("/product/recover_memory_by_record_id", json=record).status_code == 200
    assert len(client.get("/memories", params={"user_id": "some"}).json()["results"]) == 2


def test_queued_messages_of_a_deleted_user_come_to_nothing(server: Running) -> None:
    client, jobs = server.client, server.memories.jobs
    client.post("/memories", json={"messages": "Here I am.", "user_id": "queued", "infer": False})
    cube = client.get("/v1/cubes/queued").json()["id"]
    said = {"session": None, "owner": "queued", "agent": None, "tags": [], "metadata": None, "expires_at": None}
    message = {"id": "msg_q", "role": "user", "text": "The caracal hides.", "sent_at": 1.0}
    payload = {"cube": cube, "messages": [message], "said": said, "extractor": None}
    job = jobs.put("default", "messages", payload)
    client.delete("/v1/memories/", params={"user_id": "queued"})
    ended = client.get(f"/v1/jobs/{job.id}", params={"wait_s": 20}).json()
    assert ended["status"] in ("failed", "completed")
    assert in_files(server.services.config.data_dir, "caracal") == []
    assert client.get("/memories", params={"user_id": "queued"}).json()["results"] == []


def test_adding_while_deleting(server: Running) -> None:
    """Every addition is answered with success, and what was added after the last delete is there."""
    client, statuses = server.client, []

    def add(n: int) -> None:
        for i in range(6):
            body = {"messages": f"Fact {n} {i}.", "user_id": "busy", "infer": i % 2 == 0}
            statuses.append(client.post("/memories", json=body).status_code)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert client.delete("/v2/entities/user/busy/").status_code in (200, 404)
        assert client.delete("/v1/memories/", params={"user_id": "busy"}).status_code == 200
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    client.delete("/v1/memories/", params={"user_id": "busy"})
    client.post("/memories", json={"messages": "The last fact.", "user_id": "busy", "infer": False})
    assert len(client.get("/memories", params={"user_id": "busy"}).json()["results"]) == 1


# -- ids -------------------------------------------------------------------------------------------------------

ODD = [
    *(
        "team/ann",
        "a/b/c",
        "/ann",
        "ann/",
        "a//b",
        "a-b-c",
        "o'hara",
        'say "hi"',
        "100%",
        "pct_",
        "%2F",
        "a%2Fb",
        "a b",
    ),
    *(
        " ann ",
        "a.b",
        "...",
        "ann?x=1",
        "ann#top",
        "名前",
        "Ünï",
        "a\\b",
        "a;b",
        "a&b=c",
        "*x",
        "user:1",
        "a\tb",
        "a\nb",
    ),
    *("cube_0123456789abcdef01234567", "agent:cook", "grants", "default/x", "'; DROP TABLE cubes; --", "x" * 200),
]
IDS = st.text(
    st.sampled_from(string.ascii_letters + string.digits + "/-_.'\"%?# &=+:;@\\[]{}|^~`<>,!$()*äñ日🎉")
    | st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00\ufdd0"),
    min_size=1,
    max_size=20,
).filter(lambda id: id.strip() and id.strip() not in (".", "..", "*"))


def each_example(test: Any) -> Any:
    for id in ODD:
        test = example(id)(test)
    return test


@pytest.mark.transformers  # about ids, whatever computes
@each_example
@settings(max_examples=10, deadline=None)
@given(IDS)
def test_any_id_works_in_every_dialect(server: Running, id: str) -> None:
    client = server.client
    mine = {"user_id": id}
    part = quote(id, safe="")

    def add(n: int) -> None:
        body = {"messages": f"The {n} drum of this user.", "infer": False, **mine}
        assert client.post("/v1/memories/", json=body).status_code == 200, id

    def counts() -> list[int]:
        product = client.post("/product/search", json={**mine, "query": "drum"}).json()["data"]["text_mem"]
        return [
            len(client.get("/memories", params=mine).json()["results"]),
            len(client.post("/v3/memories/", json={"filters": mine}).json()["results"]),
            len(client.post("/v3/memories/search/", json={"query": "drum", "filters": mine}).json()["results"]),
            sum(len(bucket["memories"]) for bucket in product),
            client.post("/product/get_memory", json={"mem_cube_id": id}).json()["data"]["text_mem"][0]["total_nodes"],
            client.post(f"{CLOUD}/get/memory", json=mine).json()["data"]["total"],
            len(
                client.post(f"{CLOUD}/search/memory", json={**mine, "query": "drum"}).json()["data"][
                    "memory_detail_list"
                ]
            ),
            len(client.get("/v1/memories", params={"cube": id}).json().get("data", [])),
        ]

    assert counts() == [0] * 8
    add(1)
    assert counts() == [1] * 8
    cube = client.get(f"/v1/cubes/{part}").json()
    assert cube["name"] == id.strip()
    assert client.get(f"/v1/cubes/{part}/grants").status_code == 200
    assert client.get(f"/v1/cubes/{part}/documents").json()["data"] == []
    assert client.get(f"/v1/cubes/{part}/dump").status_code == 200
    assert {"user", "agent"} >= {
        e["type"] for e in client.get("/v1/entities/").json()["results"] if e["id"] == id.strip()
    }
    assert client.delete(f"/v2/entities/user/{part}/").status_code == 200
    assert counts() == [0] * 8
    for n, delete in enumerate(
        (
            lambda: client.delete(f"/v2/entities/user/{part}"),
            lambda: client.delete("/v1/memories/", params=mine),
            lambda: client.post(f"{CLOUD}/delete/memory", json=mine),
            lambda: client.delete(f"/v1/cubes/{part}"),
        ),
        start=2,
    ):
        add(n)
        reply = delete()
        if reply.status_code == 307:
            reply = client.delete(reply.headers["location"])
        assert reply.status_code == 200, (n, reply.text)
        assert client.get("/memories", params=mine).json()["results"] == []


def test_ids_with_slashes_that_nobody_quoted(server: Running) -> None:
    for id in ("team/ann", "a/b/c"):
        body = {"messages": "I am here.", "user_id": id, "infer": False}
        server.client.post("/memories", json=body)
        assert server.client.delete(f"/v2/entities/user/{id}/").status_code == 200
        assert server.client.get("/memories", params={"user_id": id}).json()["results"] == []
    assert server.client.delete("/v2/entities/user/nobody/at all/").status_code == 404
    assert server.client.delete("/v2/entities/planet/mars/").status_code == 400


@pytest.mark.parametrize("id", ["x" * 201, "   ", ""])
def test_ids_that_are_refused(server: Running, id: str) -> None:
    client = server.client
    body = {"messages": "x y", "user_id": id, "infer": False}
    assert client.post("/memories", json=body).status_code == 400
    assert client.get("/memories", params={"user_id": id}).status_code == 400
    assert client.post(f"{CLOUD}/get/message", json={"user_id": id}).status_code == 400
    if id:
        assert client.delete(f"/v2/entities/user/{quote(id)}/").status_code == 400


def test_a_user_id_is_never_a_cube_s_id(server: Running) -> None:
    client = server.client
    client.post("/memories", json={"messages": "My safe is behind the clock.", "user_id": "owner", "infer": False})
    cube = client.get("/v1/cubes/owner").json()["id"]
    theirs = {"user_id": cube}
    for reply in (
        client.post("/v3/memories/search/", json={"query": "safe clock", "filters": theirs}),
        client.post("/search", json={"query": "safe clock", **theirs}),
        client.get("/memories", params=theirs),
        client.post("/product/search", json={**theirs, "query": "safe clock"}),
        client.post("/product/get_memory", json={"mem_cube_id": cube}),
        client.post("/product/get_all", json={**theirs, "memory_type": "text_mem"}),
        client.post(f"{CLOUD}/search/memory", json={**theirs, "query": "safe clock"}),
        client.post(f"{CLOUD}/get/memory", json=theirs),
        client.post(f"{CLOUD}/get/message", json=theirs),
        client.delete("/memories", params=theirs),
        client.delete(f"/v2/entities/user/{cube}/"),
        client.post("/product/delete_memory", json=theirs),
        client.post(f"{CLOUD}/delete/memory", json=theirs),
        client.post("/memories", json={"messages": "Somebody else.", **theirs, "infer": False}),
    ):
        assert "safe" not in reply.text
    assert len(client.get("/memories", params={"user_id": "owner"}).json()["results"]) == 1
    assert len(client.get("/memories", params=theirs).json()["results"]) == 1
    assert client.delete("/memories", params=theirs).status_code == 200
    assert len(client.get("/memories", params={"user_id": "owner"}).json()["results"]) == 1


# -- expiry ----------------------------------------------------------------------------------------------------


def test_what_has_expired_is_listed_nowhere(server: Running) -> None:
    client = server.client
    body = {"text": "The guest word is marmot.", "cube": "guests", "expires_at": time.time() - 1}
    client.post("/v1/cubes", json={"name": "guests"})
    id = client.post("/v1/memories", json=body).json()["id"]
    mine = {"user_id": "guests"}
    for reply in (
        client.get("/v1/memories", params={"cube": "guests"}),
        client.get("/memories", params=mine),
        client.post("/v3/memories/", json={"filters": mine}),
        client.post("/product/get_memory", json={"mem_cube_id": "guests"}),
        client.post(f"{CLOUD}/get/memory", json=mine),
    ):
        assert "marmot" not in reply.text
    assert client.get(f"/v1/memories/{id}").json()["status"] == "archived"
    shown_as = client.get(f"/product/get_memory/{id}").json()["data"]["metadata"]["status"]
    assert shown_as == "archived"
    archived = client.get("/v1/memories", params={"cube": "guests", "status": "archived"}).json()["data"]
    assert [memory["id"] for memory in archived] == [id]
    asked = {"query": "guest word", "cube": "guests", "at": time.time() - 5}
    assert client.post("/v1/memories/search", json=asked).json()["data"][0]["memory"]["id"] == id


def test_a_day_of_expiry_is_included(server: Running) -> None:
    client, day = server.client, 86_400
    for name, at in (("today", time.time()), ("yesterday", time.time() - day)):
        date = time.strftime("%Y-%m-%d", time.gmtime(at))
        body = {"messages": f"Ends {name}.", "user_id": "days", "infer": False, "expiration_date": date}
        assert client.post("/memories", json=body).status_code == 200
    listed = client.get("/memories", params={"user_id": "days"}).json()["results"]
    assert [memory["memory"] for memory in listed] == ["Ends today."]
