"""Changes of one memory at once, conditional requests, and what a change leaves as it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.domain.lifecycle import _merged
from tests.raw import reading
from tests.server.running import Running
from tests.server.test_memories import found, new_cube, say

ROUNDS = 40
Call = Callable[[], httpx.Response]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def at_once(pool: ThreadPoolExecutor, *calls: Call) -> list[httpx.Response]:
    return list(pool.map(lambda call: call(), calls))


def steps(server: Running, id: str) -> list[str]:
    return [step["action"] for step in server.client.get(f"/v1/memories/{id}/history").json()["data"]]


def test_changes_of_different_fields_at_once_are_all_kept(server: Running, pool: ThreadPoolExecutor) -> None:
    cube = new_cube(server, "at once")
    id = server.add("The gate opens at round zero.", cube=cube, kind="fact")["id"]
    path, before = f"/v1/memories/{id}", 1
    for n in range(1, ROUNDS + 1):
        wanted: list[dict[str, Any]] = [
            {"text": f"The gate opens at round {n}."},
            {"tags": [f"tag{n}"]},
            {"metadata": {f"key{n}": n}},
            {"importance": n / 100, "pinned": n % 2 == 0},
        ]
        calls: list[Call] = [partial(server.client.patch, path, json=body) for body in wanted]
        random.Random(n).shuffle(calls)
        assert [reply.status_code for reply in at_once(pool, *calls)] == [200] * 4
        now = server.client.get(path).json()
        assert (now["text"], now["tags"], now["importance"]) == (wanted[0]["text"], [f"tag{n}"], n / 100)
        assert now["pinned"] == (n % 2 == 0)
        assert now["metadata"] == {f"key{m}": m for m in range(1, n + 1)}
        assert (now["version"], now["revision"]) == (n + 1, before + 4)
        before += 4
    done = steps(server, id)
    assert (done.count("updated"), done.count("changed")) == (ROUNDS, 3 * ROUNDS)
    (hit,) = found(server, cube, f"gate opens round {ROUNDS}")
    assert hit["memory"]["text"].endswith(f"round {ROUNDS}.")


def test_changes_by_different_ways_at_once_are_all_kept(server: Running, pool: ThreadPoolExecutor) -> None:
    """PATCH, mem0's PUT, MemOS's update and feedback; then nothing of an earlier text is computed any more."""
    cube = new_cube(server, "ways")
    (item,) = say(server, cube, "My boat is called Argo.", session="s", tags=["t"]).json()["data"]
    id = item["id"]
    first = server.client.get(f"/v1/memories/{id}").json()
    client = server.client
    for n in range(ROUNDS):
        title = {"memory_id": id, "title": f"title{n}"}
        feedback = {"text": "That's right.", "memory_ids": [id], "cube": cube}
        calls: list[Call] = [
            partial(client.patch, f"/v1/memories/{id}", json={"text": f"My boat is called Argo {n}."}),
            partial(client.put, f"/v1/memories/{id}/", json={"metadata": {f"m{n}": n}}),
            partial(client.post, "/api/openmem/v1/update/memory", json=title),
            partial(client.post, "/v1/feedback", json=feedback),
        ]
        random.Random(n).shuffle(calls)
        replies = at_once(pool, *calls)
        assert [reply.status_code for reply in replies if reply.status_code >= 300] == [], [r.text for r in replies]
        if n % 10 == 0:
            server.chat("boat", memory={"ids": [id]})
    now = client.get(f"/v1/memories/{id}").json()
    metadata = {f"m{n}": n for n in range(ROUNDS)} | {"title": f"title{ROUNDS - 1}"}
    assert (now["text"], now["metadata"], now["uses"]) == (
        f"My boat is called Argo {ROUNDS - 1}.",
        metadata,
        1 + ROUNDS,
    )
    for name in ("owner", "author", "session", "tags", "event_at", "created_at", "kind"):
        assert now[name] == first[name], name
    done = steps(server, id)
    assert (done.count("updated"), done.count("changed"), done.count("reinforced")) == (ROUNDS, 2 * ROUNDS, ROUNDS)
    assert client.get(f"/v1/memories/{id}/history").json()["sources"][0]["content"] == "My boat is called Argo."
    labels = {label for entry in server.services.catalogue.entries() for label in entry.labels if label.startswith(id)}
    assert labels <= {f"{id}@{now['version']}"}


def test_texts_at_once_each_become_a_version(server: Running, pool: ThreadPoolExecutor) -> None:
    cube = new_cube(server, "texts")
    id = server.add("The owl sleeps.", cube=cube, kind="fact")["id"]
    said = ["The owl sleeps."]
    for n in range(0, ROUNDS, 4):
        texts = [f"The owl counts to {n + i}." for i in range(4)]
        calls: list[Call] = [partial(server.client.patch, f"/v1/memories/{id}", json={"text": text}) for text in texts]
        replies = [reply.json() for reply in at_once(pool, *calls)]
        said += [reply["text"] for reply in sorted(replies, key=lambda reply: reply["version"])]
        now = server.client.get(f"/v1/memories/{id}").json()
        assert (now["text"], now["version"]) == (said[-1], len(said))
        (hit,) = found(server, cube, "owl")
        assert hit["memory"]["text"] == said[-1]
        assert server.memories.index.cube(cube).nearest(
            server.memories.index.embeddings.in_context([said[-1]], [[]])[0], 1
        )[0][1] == pytest.approx(1.0, abs=1e-2)
    history = server.client.get(f"/v1/memories/{id}/history").json()["data"]
    assert [step["text_before"] for step in history[1:]] == said[:-1]


def test_a_change_beside_a_delete_is_kept_or_refused(server: Running, pool: ThreadPoolExecutor) -> None:
    cube = new_cube(server, "ends")
    for n in range(ROUNDS):
        id = server.add(f"Number {n} is to go.", cube=cube, kind="fact")["id"]
        path = f"/v1/memories/{id}"
        change, status, gone = at_once(
            pool,
            partial(server.client.patch, path, json={"text": "Something else entirely."}),
            partial(server.client.patch, path, json={"status": "archived"}),
            partial(server.client.delete, path),
        )
        assert (gone.status_code, {change.status_code, status.status_code} <= {200, 404}) == (200, True)
        assert server.client.get(path).status_code == 404
        assert found(server, cube, "Something else entirely") == []
        back = server.client.post(f"{path}/undelete").json()
        assert (back["text"] == "Something else entirely.") == (change.status_code == 200)
        assert (back["status"] == "archived") == (status.status_code == 200)
        assert server.client.delete(path, params={"forget": True}).json()["proof"]["clean"] is True


def test_adding_beside_a_forgotten_memory_holds_nothing_of_it(server: Running, pool: ThreadPoolExecutor) -> None:
    """What is said next has what was said before in its context: not what is being forgotten."""
    cube = new_cube(server, "context")
    for n in range(ROUNDS // 2):
        (item,) = say(server, cube, f"The password is xyzzy{n}.", session=f"s{n}").json()["data"]
        at_once(
            pool,
            partial(say, server, cube, f"The harbour has {n} cranes.", session=f"s{n}"),
            partial(server.client.delete, f"/v1/memories/{item['id']}", params={"forget": True}),
        )
        with reading(server.memories) as db:
            held = db.execute("SELECT count(*) FROM memory_text WHERE instr(context, ?)", (f"xyzzy{n}",)).fetchone()[0]
        assert held == 0
        assert all("xyzzy" not in hit["memory"]["text"] for hit in found(server, cube, f"xyzzy{n}"))


def test_nearly_the_same_at_once_is_one_memory(server: Running, pool: ThreadPoolExecutor) -> None:
    cube = new_cube(server, "bees")
    texts = [
        "I keep bees on the roof of my house.",
        "I keep bees on the roof of my house",
        "i keep bees on the roof of my house!",
    ]
    at_once(pool, *(lambda text=text: say(server, cube, text) for text in texts * 4))
    (memory,) = server.client.get("/v1/memories", params={"cube": cube}).json()["data"]
    assert (memory["uses"], memory["revision"]) == (12, 12)
    assert len(server.client.get("/v1/messages", params={"cube": cube}).json()["data"]) == 12


def test_adding_to_a_cube_that_is_being_deleted(server: Running, pool: ThreadPoolExecutor) -> None:
    for n in range(ROUNDS // 2):
        cube = new_cube(server, f"doomed {n}")
        replies = at_once(
            pool,
            partial(server.client.post, "/v1/memories", json={"text": "Into the void.", "cube": cube}),
            partial(say, server, cube, "I live in the void."),
            partial(server.client.post, f"/v1/cubes/{cube}/grants", json={"principal": "x"}),
            partial(server.client.delete, f"/v1/cubes/{cube}"),
        )
        assert all(reply.status_code in (200, 201, 404) for reply in replies), [reply.text for reply in replies]


# -- conditions ------------------------------------------------------------------------------------------------


def test_a_condition_lets_one_of_two_changes_through(server: Running, pool: ThreadPoolExecutor) -> None:
    added = server.client.post("/v1/memories", json={"text": "The tide is low."})
    path, tag = f"/v1/memories/{added.json()['id']}", added.headers["ETag"]
    assert tag == '"1"'
    for n in range(ROUNDS):
        headers = {"If-Match": tag}
        calls: list[Call] = [
            partial(server.client.patch, path, json={"metadata": {"n": [n, i]}}, headers=headers) for i in range(3)
        ]
        replies = at_once(pool, *calls)
        (done,) = [reply for reply in replies if reply.status_code == 200]
        refused = [reply for reply in replies if reply.status_code != 200]
        assert {reply.status_code for reply in refused} == {409}
        error = refused[0].json()["error"]
        assert (error["code"], error["revision"]) == ("conflict", done.json()["revision"])
        tag = done.headers["ETag"]
        assert tag == f'"{done.json()["revision"]}"' == server.client.get(path).headers["ETag"]
    assert server.client.get(path).json()["revision"] == 1 + ROUNDS


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('"1"', 200),
        ("*", 200),
        ('"9", "1"', 200),
        ('"9" , "1",', 200),
        ('"2"', 409),
        ('W/"1"', 409),
        ('"01"', 409),
        ('""', 409),
        ('"mem_1"', 409),
        (f'"{"9" * 5000}"', 409),
        ("1", 400),
        ("", 400),
        ('"1', 400),
        ('w/"1"', 400),
    ],
)
@pytest.mark.parametrize("way", ["patch", "put", "delete", "forget", "cube", "cube deleted"])
def test_if_match(server: Running, way: str, value: str, status: int) -> None:
    client, headers = server.client, {"If-Match": value}
    cube = client.post("/v1/cubes", json={"name": f"if match {way} {value}"[:200]})
    cube_id = cube.json()["id"]
    id = server.add("Conditional.", cube=cube_id)["id"]
    calls: dict[str, Call] = {
        "patch": lambda: client.patch(f"/v1/memories/{id}", json={"pinned": True}, headers=headers),
        "put": lambda: client.put(f"/v1/memories/{id}/", json={"text": "Changed."}, headers=headers),
        "delete": lambda: client.delete(f"/v1/memories/{id}", headers=headers),
        "forget": lambda: client.delete(f"/v1/memories/{id}", params={"forget": True}, headers=headers),
        "cube": lambda: client.patch(f"/v1/cubes/{cube_id}", json={"fidelity": "fast"}, headers=headers),
        "cube deleted": lambda: client.delete(f"/v1/cubes/{cube_id}", headers=headers),
    }
    reply = calls[way]()
    assert reply.status_code == status, reply.text
    if status == 409:
        assert (reply.json()["error"]["code"], reply.json()["error"]["revision"]) == ("conflict", 1)
    if status != 200:
        assert client.get(f"/v1/memories/{id}").json()["revision"] == 1
        assert client.get(f"/v1/cubes/{cube_id}").headers["ETag"] == '"1"'
    client.delete(f"/v1/cubes/{cube_id}")


def test_if_match_on_what_is_not_there(server: Running) -> None:
    for value in ("*", '"1"'):
        reply = server.client.patch("/v1/memories/mem_none", json={"pinned": True}, headers={"If-Match": value})
        assert reply.status_code == 404


def test_if_none_match(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "known"})
    memory = server.client.post("/v1/memories", json={"text": "Known.", "cube": cube.json()["id"]})
    for path, tag in (
        (f"/v1/memories/{memory.json()['id']}", memory.headers["ETag"]),
        (f"/v1/cubes/{cube.json()['id']}", cube.headers["ETag"]),
    ):
        for value, status in (
            (tag, 304),
            (f"W/{tag}", 304),
            ("*", 304),
            (f'"8", {tag}', 304),
            ('"8"', 200),
            ("8", 400),
        ):
            reply = server.client.get(path, headers={"If-None-Match": value})
            assert reply.status_code == status, value
            assert reply.headers.get("ETag") == (None if status == 400 else tag)
            assert bool(reply.content) == (status != 304)


def test_a_revision_counts_every_change(server: Running) -> None:
    cube = new_cube(server, "counted revisions")
    (item,) = say(server, cube, "I live in Oslo.").json()["data"]
    path = f"/v1/memories/{item['id']}"

    def revision() -> tuple[int, int]:
        shown = server.client.get(path)
        assert shown.headers["ETag"] == f'"{shown.json()["revision"]}"'
        return shown.json()["version"], shown.json()["revision"]

    assert revision() == (1, 1)
    say(server, cube, "I live in Oslo.")
    assert revision() == (1, 2)
    server.client.post("/v1/feedback", json={"text": "That's right.", "memory_ids": [item["id"]], "cube": cube})
    assert revision() == (1, 3)
    server.client.delete(path)
    back = server.client.post(f"{path}/undelete")
    assert back.headers["ETag"] == '"5"'
    assert revision() == (2, 5)
    say(server, cube, "I moved to Lima.")
    assert revision() == (2, 6)
    again = server.client.post("/v1/memories", json={"text": "I live in Lima.", "cube": cube})
    assert again.headers["ETag"] == server.client.get(f"/v1/memories/{again.json()['id']}").headers["ETag"]


# -- metadata --------------------------------------------------------------------------------------------------


def test_metadata_are_overlaid(server: Running) -> None:
    metadata = {"category": "a", "n": 1, "deep": {"x": 1, "y": {"z": [1]}}}
    path = f"/v1/memories/{server.add('Overlaid.', metadata=metadata)['id']}"

    def patched(**body: Any) -> Any:
        reply = server.client.patch(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["metadata"]

    assert patched(metadata={"priority": "low"}) == {**metadata, "priority": "low"}
    assert patched(metadata={"priority": None, "unknown": None}) == metadata
    assert patched(metadata={"deep": {"x": None, "y": {"w": 2}}})["deep"] == {"y": {"z": [1], "w": 2}}
    assert patched(metadata={"deep": [1]})["deep"] == [1]
    assert patched(metadata={}) == {**metadata, "deep": [1]}
    assert patched(text="Still overlaid.", metadata={"n": 2}) == {**metadata, "deep": [1], "n": 2}
    assert patched(metadata={"only": None}, replace_metadata=True) == {"only": None}
    assert patched(metadata={}, replace_metadata=True) == {}
    big = server.client.patch(path, json={"metadata": {"a": "x" * 9_000}})
    assert big.status_code == 200
    assert server.client.patch(path, json={"metadata": {"b": "x" * 9_000}}).status_code == 400  # together too large
    assert server.client.get(path).json()["metadata"] == {"a": "x" * 9_000}


def test_mem0s_metadata_are_set_key_by_key(server: Running) -> None:
    added = server.client.post(
        "/memories",
        json={
            "messages": [{"role": "user", "content": "As it is."}],
            "user_id": "m",
            "app_id": "shop",
            "infer": False,
            "metadata": {"category": "a", "deep": {"x": 1}},
        },
    )
    path = f"/memories/{added.json()['results'][0]['id']}"
    reply = server.client.put(path, json={"metadata": {"deep": {"y": 1}, "app_id": "other", "user_id": "other"}})
    assert reply.status_code == 200
    shown = server.client.get(path).json()
    assert shown["metadata"] == {"role": "user", "category": "a", "deep": {"y": 1}}
    assert (shown["app_id"], shown["user_id"]) == ("shop", "m")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
_OBJECT = st.dictionaries(st.text(max_size=2), _JSON, max_size=4)


@given(_OBJECT, _OBJECT)
@settings(max_examples=300, deadline=None)
def test_a_merge_patch_sets_what_it_names_and_nothing_else(old: dict[str, Any], patch: dict[str, Any]) -> None:
    """The properties of RFC 7396: doing it twice is doing it once; null is removed; what is not named stays."""
    before = repr(old)
    new = _merged(old, patch)
    assert repr(old) == before
    assert _merged(new, patch) == new
    for key in old.keys() - patch.keys():
        assert new[key] == old[key]
    for key, value in patch.items():
        if value is None:
            assert key not in new
        elif not isinstance(value, dict):
            assert new[key] == value
        else:
            assert new[key] == _merged(old.get(key, {}), value)
