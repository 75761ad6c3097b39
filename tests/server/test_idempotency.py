"""Writes with an ``Idempotency-Key``: done once, answered twice."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.transformers import LoadedModel
from memory import EmbedderError, HashEmbedder, KeyedRequests, MemoryStore, Reply
from memory.domain import retries as retries_module
from memory.storage.sqlite.transaction import SqliteTransaction
from server.app import create_app
from server.http.middleware.idempotency import READS, REPEATABLE, WRITES, Idempotency
from tests.process import free_port
from tests.raw import reading
from tests.server.running import Running, running
from tests.server.test_memories import found, new_cube

_numbers = itertools.count()
CLOUD = "/api/openmem/v1"
SAID = [{"role": "user", "content": "I keep three donkeys."}]


def key() -> dict[str, str]:
    return {"Idempotency-Key": f"key-{next(_numbers)}"}


def twice(server: Running, method: str, path: str, **request: Any) -> tuple[httpx.Response, httpx.Response]:
    headers = {**request.pop("headers", {}), **key()}
    first = server.client.request(method, path, headers=headers, **request)
    return first, server.client.request(method, path, headers=headers, **request)


def same(first: httpx.Response, again: httpx.Response) -> None:
    assert first.status_code < 300, first.text
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    for name in ("content-type", "etag"):
        assert again.headers.get(name) == first.headers.get(name)


def state(server: Running) -> list[Any]:
    """All that there is, and all that was done, of all cubes."""
    tables = ("memories", "memory_changes", "messages", "cubes", "documents", "feedback", "grants", "groups")
    with reading(server.memories) as db:
        rows = [db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables]  # noqa: S608 - ours
        n_jobs = db.execute("SELECT count(*) FROM jobs").fetchone()[0]
    return [n_jobs, *([tuple(row) for row in found] for found in rows)]


def dump(server: Running) -> bytes:
    cube = new_cube(server, f"to dump {next(_numbers)}")
    server.add("In a bundle.", cube=cube)
    return server.client.get(f"/v1/cubes/{cube}/dump").content


def requests(server: Running) -> list[tuple[str, str, dict[str, Any]]]:
    """One of every write of every dialect, each of which can be done once."""
    n = next(_numbers)
    cube = new_cube(server, f"keyed {n}")

    def added(text: str = "A memory to change.") -> str:
        id: str = server.add(f"{text} {next(_numbers)}", cube=cube, kind="fact")["id"]
        return id

    deleted = added()
    server.client.delete(f"/v1/memories/{deleted}")
    server.client.post(f"/v1/cubes/{cube}/grants", json={"principal": "gone"})
    document = server.client.post(f"/v1/cubes/{cube}/documents", params={"name": "old.txt"}, content=b"An old file.")
    mem0 = {"messages": SAID, "user_id": f"u{n}"}
    return [
        ("POST", "/v1/memories", {"json": {"text": "Said once.", "cube": cube}}),
        ("POST", "/v1/memories/messages", {"json": {"messages": SAID, "cube": cube}}),
        ("POST", "/v1/memories/messages", {"json": {"messages": SAID, "cube": cube, "wait": False}}),
        ("PATCH", f"/v1/memories/{added()}", {"json": {"text": "Changed once."}}),
        ("DELETE", f"/v1/memories/{added()}", {}),
        ("DELETE", f"/v1/memories/{added()}", {"params": {"forget": True}}),
        ("POST", f"/v1/memories/{deleted}/undelete", {}),
        ("POST", "/v1/feedback", {"json": {"text": "I keep four donkeys.", "cube": cube}}),
        ("POST", "/v1/cubes", {"json": {"name": f"new {n}"}}),
        ("PATCH", f"/v1/cubes/{cube}", {"json": {"fidelity": "exact"}}),
        ("POST", f"/v1/cubes/{cube}/grants", {"json": {"principal": "boris"}}),
        ("DELETE", f"/v1/cubes/{cube}/grants/gone", {}),
        ("PUT", f"/v1/groups/g{n}", {"json": {"members": ["a"]}}),
        ("POST", f"/v1/cubes/{cube}/documents", {"params": {"name": "a.txt"}, "content": b"A file of donkeys."}),
        ("DELETE", f"/v1/cubes/{cube}/documents/{document.json()['id']}", {}),
        ("POST", "/v1/cubes/load", {"params": {"name": f"loaded {n}"}, "content": dump(server)}),
        ("POST", f"/v1/cubes/{cube}/reindex", {}),
        ("DELETE", f"/v1/cubes/{new_cube(server, f'to go {n}')}", {}),
        ("POST", "/v3/memories/add/", {"json": mem0}),
        ("POST", "/v1/memories/", {"json": mem0}),
        ("POST", "/v1/memories/", {"json": {**mem0, "infer": False}}),
        ("POST", "/memories", {"json": mem0}),
        ("PUT", f"/v1/memories/{added()}/", {"json": {"text": "By PUT."}}),
        ("PUT", f"/memories/{added()}", {"json": {"text": "By PUT."}}),
        ("DELETE", f"/v1/memories/{added()}/", {}),
        ("PUT", "/v1/batch/", {"json": {"memories": [{"memory_id": added(), "text": "In a batch."}]}}),
        ("DELETE", "/v1/batch/", {"json": {"memories": [{"memory_id": added()}]}}),
        ("POST", "/v1/feedback/", {"json": {"memory_id": added(), "feedback": "POSITIVE"}}),
        ("DELETE", "/v1/memories/", {"params": {"user_id": f"u{n}"}}),
        ("POST", "/product/add", {"json": {"user_id": f"p{n}", "messages": SAID, "async_mode": "sync"}}),
        ("POST", "/product/add", {"json": {"user_id": f"p{n}", "messages": SAID, "async_mode": "async"}}),
        ("POST", "/product/add", {"json": {"user_id": f"p{n}", "memory_content": "As it is."}}),
        ("POST", "/product/feedback", {"json": {"user_id": f"p{n}", "feedback_content": "I like tea.", "history": []}}),
        ("POST", "/product/delete_memory", {"json": {"memory_ids": [added()]}}),
        ("POST", "/product/create_cube", {"json": {"cube_name": f"product {n}", "owner_id": "o"}}),
        (
            "POST",
            f"{CLOUD}/add/message",
            {"json": {"user_id": f"c{n}", "conversation_id": "c", "messages": SAID, "async_mode": False}},
        ),
        (
            "POST",
            f"{CLOUD}/add/feedback",
            {"json": {"user_id": f"c{n}", "conversation_id": "c", "feedback_content": "I like tea."}},
        ),
        ("POST", f"{CLOUD}/update/memory", {"json": {"memory_id": added(), "content": "By the cloud."}}),
        ("POST", f"{CLOUD}/delete/memory", {"json": {"memory_ids": [added()]}}),
    ]


def settled(server: Running) -> None:
    """Wait until every job has ended."""
    jobs = server.memories.jobs
    while any(jobs.counts().get(status, 0) for status in ("waiting", "running")):
        time.sleep(0.01)


def test_every_write_is_done_once(server: Running) -> None:
    for method, path, request in requests(server):
        headers = key()
        first = server.client.request(method, path, headers=headers, **request)
        assert first.status_code < 300, (method, path, first.text)
        settled(server)
        before = state(server)
        again = server.client.request(method, path, headers=headers, **request)
        settled(server)
        assert state(server) == before, (method, path)
        same(first, again)


def test_every_write_is_done_once_also_after_a_restart(model: LoadedModel, tmp_path: Path) -> None:
    done: list[tuple[dict[str, str], tuple[str, str, dict[str, Any]], httpx.Response]] = []
    with running(model, tmp_path) as server:
        for request in requests(server):
            headers = key()
            done.append((headers, request, server.client.request(*request[:2], headers=headers, **request[2])))
        settled(server)
    with running(model, tmp_path) as server:
        before = state(server)
        for headers, (method, path, fields), first in done:
            # Something was deleted in a cube of its own: those replies are gone, and say so.
            again = server.client.request(method, path, headers=headers, **fields)
            if again.status_code != 410:
                same(first, again)
        assert state(server) == before


def test_every_route_is_a_read_or_a_write_that_is_tried_here(server: Running) -> None:
    """A new route does nothing twice unless it is listed as a read."""
    routes = {
        (method.upper(), path)
        for path, methods in create_app(server.services).openapi()["paths"].items()
        for method in methods
        if method.upper() in WRITES
    }
    reads = {path.rstrip("/") for _, path in routes} & READS
    assert reads == READS
    assert {path.rstrip("/") for method, path in routes if method != "POST"} & READS == set()
    assert {path.rstrip("/") for _, path in routes} >= REPEATABLE
    tried = [(method, path.rstrip("/")) for method, path, _ in requests(server)]
    for method, path in sorted(routes):
        parts = path.rstrip("/").split("/")
        like = [
            one
            for one in tried
            if one[0] == method
            and len(one[1].split("/")) == len(parts)
            and all(p == q or p.startswith("{") for p, q in zip(parts, one[1].split("/"), strict=True))
        ]
        untried = {"/reset", "/v1/jobs/{job_id}", "/v1/memories", "/memories", "/memories/{memory_id}"}
        untried |= {"/v2/entities/{kind}/{id}/", "/product/recover_memory_by_record_id"}
        assert like or path.rstrip("/") in READS or path in untried, (method, path)


def test_reads_by_post_are_done_each_time(server: Running) -> None:
    cube = new_cube(server, "read again")
    body, headers = {"query": "hare", "cube": cube}, key()
    assert server.client.post("/v1/memories/search", json=body, headers=headers).json()["data"] == []
    server.add("The hare is quick.", cube=cube)
    again = server.client.post("/v1/memories/search", json=body, headers=headers)
    assert len(again.json()["data"]) == 1
    assert "idempotency-replayed" not in again.headers
    assert server.client.post("/v1/memories/search", json={**body, "query": "x"}, headers=headers).status_code == 200


def test_a_chat_is_answered_again_and_remembers_once(server: Running) -> None:
    cube, headers = new_cube(server, "chat again"), key()
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "I live in Tromsø."}],
        "max_tokens": 2,
        "memory": {"cube": cube, "remember": True},
    }
    for _ in range(2):
        assert server.client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    settled(server)
    assert len(server.client.get("/v1/messages", params={"cube": cube}).json()["data"]) == 1
    assert found(server, cube, "Tromsø")[0]["memory"]["uses"] == 1
    asked = {"user_id": "chat twice", "conversation_id": "c", "query": "I live in Narvik.", "stream": False}
    for _ in range(2):
        assert server.client.post(f"{CLOUD}/chat", json=asked, headers=headers).status_code == 200
    settled(server)
    told = server.client.get("/v1/messages", params={"cube": "chat twice"}).json()["data"]
    assert [message["role"] for message in told].count("user") == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/memories", {"text": "Another text."}),
        ("POST", "/v1/memories?x=1", {"text": "The first text."}),
        ("POST", "/v1/cubes", {"text": "The first text."}),
        ("PUT", "/v1/memories", {"text": "The first text."}),
        ("POST", "/v1/memories/messages", {"messages": SAID}),
    ],
)
def test_a_key_for_another_request_is_refused(server: Running, method: str, path: str, body: dict[str, Any]) -> None:
    headers = key()
    assert server.client.post("/v1/memories", json={"text": "The first text."}, headers=headers).status_code == 201
    before = state(server)
    reply = server.client.request(method, path, json=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert state(server) == before


@pytest.mark.parametrize("value", ["", "x" * 256])
def test_bad_keys(server: Running, value: str) -> None:
    before = state(server)
    reply = server.client.post("/v1/memories", json={"text": "x"}, headers={"Idempotency-Key": value})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "Idempotency-Key")
    two = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert server.client.post("/v1/memories", json={"text": "x"}, headers=two).status_code == 400
    assert state(server) == before
    good = {"Idempotency-Key": "é" * 255}
    encoded = [(name.encode(), text.encode("latin-1")) for name, text in good.items()]
    assert server.client.post("/v1/memories", json={"text": "x"}, headers=encoded).status_code == 201


def test_keys_are_per_tenant(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    own = key()
    replies = [
        guarded.client.post("/v1/memories", json={"text": f"{name}'s."}, headers={**keys[name], **own})
        for name in ("anna", "boris")
    ]
    assert [reply.json()["text"] for reply in replies] == ["anna's.", "boris's."]
    refused = guarded.client.post("/v1/memories", json={"text": "nobody's."}, headers=own)
    assert refused.status_code == 401


def test_what_failed_may_be_tried_again(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    cube, headers = new_cube(server, "failing"), key()
    assert server.client.post("/v1/memories", json={"text": "", "cube": cube}, headers=headers).status_code == 400
    body = {"text": "In the end.", "cube": cube}
    embeddings = server.memories.index.embeddings

    def fails(error: Exception, *args: Any) -> Any:
        raise error

    for error in (EmbedderError("not now"), RuntimeError("a fault")):
        with monkeypatch.context() as patched:
            patched.setattr(embeddings, "in_context", partial(fails, error))
            # Not by the client that is used again: the connection ends with a fault.
            assert httpx.post(f"{server.url}/v1/memories", json=body, headers=headers).status_code >= 500
    # A user of mem0's is made before its first memory fails: that is no reason not to try again.
    mem0 = {"messages": SAID, "user_id": "of a failure", "infer": False}
    own = key()
    with monkeypatch.context() as patched:
        patched.setattr(embeddings, "in_context", partial(fails, EmbedderError("not now")))
        assert server.client.post("/memories", json=mem0, headers=own).status_code >= 500
    assert server.client.post("/memories", json=mem0, headers=own).status_code == 200
    first = server.client.post("/v1/memories", json=body, headers=headers)
    again = server.client.post("/v1/memories", json=body, headers=headers)
    same(first, again)
    assert len(server.client.get("/v1/memories", params={"cube": cube}).json()["data"]) == 1


def test_what_failed_after_it_had_written_is_not_done_again(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    cube, headers = new_cube(server, "half done"), key()
    body = {"messages": [*SAID, {"role": "user", "content": "Second."}], "user_id": "half done", "infer": False}
    add, calls = server.memories.add_noted, itertools.count()

    def fails_second(*args: Any, **fields: Any) -> Any:
        if next(calls):
            raise EmbedderError("not now")
        return add(*args, **fields)

    with monkeypatch.context() as patched:
        patched.setattr(server.memories, "add_noted", fails_second)
        assert server.client.post("/memories", json=body, headers=headers).status_code == 503
    for _ in range(2):
        reply = server.client.post("/memories", json=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "idempotency_cut_off")
    assert len(server.client.get("/v1/memories", params={"cube": cube}).json()["data"]) == 1


def test_a_retry_waits_for_the_first(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    cube, headers = new_cube(server, "waiting"), key()
    add, begun, go = server.memories.add_noted, threading.Event(), threading.Event()

    def slowly(*args: Any, **fields: Any) -> Any:
        begun.set()
        assert go.wait(20)
        return add(*args, **fields)

    monkeypatch.setattr(server.memories, "add_noted", slowly)

    def post(text: str = "Only once.") -> httpx.Response:
        return server.client.post("/v1/memories", json={"text": text, "cube": cube}, headers=headers)

    with ThreadPoolExecutor(5) as pool:
        replies = [pool.submit(post) for _ in range(4)]
        assert begun.wait(20)
        assert post("Another.").json()["error"]["code"] == "idempotency_key_reused"
        go.set()
        done = [reply.result() for reply in replies]
    assert {reply.status_code for reply in done} == {201}
    assert len({reply.content for reply in done}) == 1
    assert sum("idempotency-replayed" in reply.headers for reply in done) == 3
    assert len(server.client.get("/v1/memories", params={"cube": cube}).json()["data"]) == 1


def test_a_retry_does_not_wait_for_ever(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    headers, go, begun = key(), threading.Event(), threading.Event()
    add = server.memories.add_noted
    middleware = _middleware(server)
    monkeypatch.setattr(middleware, "_wait_s", 0.05)

    def slowly(*args: Any, **fields: Any) -> Any:
        begun.set()
        assert go.wait(20)
        return add(*args, **fields)

    monkeypatch.setattr(server.memories, "add_noted", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.client.post, "/v1/memories", json={"text": "Slow."}, headers=headers)
        assert begun.wait(20)
        reply = server.client.post("/v1/memories", json={"text": "Slow."}, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "idempotency_key_in_use")
        assert int(reply.headers["retry-after"]) > 0
        go.set()
        assert first.result().status_code == 201
    assert server.client.post("/v1/memories", json={"text": "Slow."}, headers=headers).content == first.result().content


def _middleware(server: Running) -> Idempotency:
    (own,) = [
        item for item in gc.get_objects() if type(item) is Idempotency and item._requests is server.services.keyed
    ]
    return own


# -- what is kept, and for how long ----------------------------------------------------------------------------


def files(server: Running) -> bytes:
    folder = server.services.config.data_dir
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("way", ["forget", "cube", "user", "purge", "corrected", "feedback"])
def test_replies_do_not_outlive_what_they_quote(model: LoadedModel, tmp_path: Path, way: str) -> None:
    with running(model, tmp_path) as server:
        cube = new_cube(server, "ada")
        word = "xylophonquagga"
        if way == "feedback":
            id = server.add("An owl.", cube=cube, kind="fact")["id"]
            said = {"text": f"Actually, it is a {word}.", "memory_ids": [id], "cube": cube, "corrected": f"A {word}."}
            headers, path, body = key(), "/v1/feedback", said
        else:
            headers, path = key(), "/v1/memories"
            body = {"text": f'The "{word}" is in the barn.', "cube": cube, "metadata": {"of": word}, "kind": "fact"}  # type: ignore[dict-item]
        first = server.client.post(path, json=body, headers=headers)
        assert first.status_code == 201
        id = id if way == "feedback" else first.json()["id"]
        if way == "corrected":
            changed = server.client.patch(f"/v1/memories/{id}", json={"text": f"A {word}!"}, headers=key())
            assert changed.status_code == 200
        assert word.encode() in files(server)
        with reading(server.memories) as db:
            assert db.execute("SELECT count(*) FROM keyed_requests WHERE body IS NOT NULL").fetchone()[0] >= 1
        if way == "cube":
            server.client.delete(f"/v1/cubes/{cube}", headers=key())
        elif way == "user":
            server.client.delete("/v2/entities/user/ada/", headers=key())
        elif way == "purge":
            server.client.delete(f"/v1/memories/{id}")
            server.memories.erasing.purge(time.time() + 90_000)
        else:
            own = key()
            proofs = [
                server.client.delete(f"/v1/memories/{id}", params={"forget": True}, headers=own) for _ in range(2)
            ]
            same(*proofs)
            assert proofs[0].json()["proof"]["found"]["replies"] == 0
            assert proofs[0].json()["proof"]["clean"] is True
        assert word.encode() not in files(server)
        again = server.client.post(path, json=body, headers=headers)
        assert (again.status_code, again.json()["error"]["code"]) == (410, "idempotency_reply_gone")
        assert "201" in again.json()["error"]["message"]


def test_a_reply_that_comes_after_its_memory_was_forgotten_is_not_kept(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube, headers = new_cube(server, "late"), key()
    keyed = server.services.keyed
    finish = keyed.finish

    def later(own: Any, reply: Any) -> None:
        server.memories.forget("default", json.loads(reply.body)["id"])
        finish(own, reply)

    with monkeypatch.context() as patched:
        patched.setattr(keyed, "finish", later)
        body = {"text": "The zebrafinch sings.", "cube": cube}
        assert server.client.post("/v1/memories", json=body, headers=headers).status_code == 201
    assert server.client.post("/v1/memories", json=body, headers=headers).status_code == 410
    assert b"zebrafinch" not in files(server)


def test_of_a_request_there_is_a_digest_only(server: Running) -> None:
    headers = {"Idempotency-Key": "secret-key-of-a-client"}
    body = {"messages": [{"content": "Hm."}], "session": "narwhalsession", "cube": new_cube(server, "digests")}
    server.client.post("/v1/memories/messages", json=body, headers=headers)
    settled(server)
    with reading(server.memories) as db:
        rows = [tuple(row) for row in db.execute("SELECT * FROM keyed_requests").fetchall()]
    assert "secret-key" not in repr(rows)
    assert "narwhalsession" not in repr(rows)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[KeyedRequests]:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    yield store.keyed
    store.close()


def _kept(log: KeyedRequests) -> list[tuple[str, bool]]:
    with log._storage.read() as tx:
        assert isinstance(tx, SqliteTransaction)
        rows = tx.db.execute("SELECT key, body IS NOT NULL AS kept FROM keyed_requests ORDER BY seq").fetchall()
    return [(row["key"], bool(row["kept"])) for row in rows]


def test_what_is_kept_is_bounded(log: KeyedRequests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries_module, "MAX_KEYS", 5)
    monkeypatch.setattr(retries_module, "MAX_TENANT_BYTES", 25)
    monkeypatch.setattr(retries_module, "MAX_REPLY_BYTES", 50)
    for n in range(8):
        own = log.claim("t", f"k{n}", "r")
        assert not isinstance(own, Reply)
        log.finish(own, Reply(200, {}, b"x" * 10))
    other = log.claim("u", "k", "r")
    assert not isinstance(other, Reply)
    log.finish(other, Reply(200, {}, b"x" * 51))
    log.sweep()
    assert _kept(log) == [("k3", False), ("k4", False), ("k5", False), ("k6", True), ("k7", True), ("k", False)]
    log.sweep(time.time() + retries_module.KEPT_S + 1)
    assert _kept(log) == []


def test_a_key_is_free_after_a_day(log: KeyedRequests, monkeypatch: pytest.MonkeyPatch) -> None:
    own = log.claim("t", "k", "r")
    assert not isinstance(own, Reply)
    log.finish(own, Reply(200, {}, b"x"))
    assert isinstance(log.claim("t", "k", "r"), Reply)
    monkeypatch.setattr(retries_module, "KEPT_S", -1.0)
    assert not isinstance(log.claim("t", "k", "another"), Reply)


# -- kills -----------------------------------------------------------------------------------------------------

_SERVER = """
import os, signal, sys
from pathlib import Path
from memory.domain.adding import Adding
from memory.domain.retries import KeyedRequests
from tests.server import running as server
from tests.tiny import tiny_model

def kill(*args, **fields):
    os.kill(os.getpid(), signal.SIGKILL)

folder, port, when = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if when == "before":
    Adding.add_noted = kill
elif when == "after":
    KeyedRequests.finish = kill
import socket, uvicorn
bind = socket.socket.bind
socket.socket.bind = lambda self, address: bind(self, ("127.0.0.1", port) if address == ("127.0.0.1", 0) else address)
with server.running(tiny_model(), folder) as started:
    print("ready", flush=True)
    sys.stdin.read()
"""


class _Process:
    def __init__(self, folder: Path, when: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", _SERVER, str(folder), str(port), when]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(60)
        self.process.stdout.close()
        return code


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_loses_and_doubles_nothing_silently(model: LoadedModel, tmp_path: Path, when: str) -> None:
    body, headers = {"text": "Written under a kill.", "kind": "fact"}, {"Idempotency-Key": "killed"}
    told = {"messages": SAID}
    first = _Process(tmp_path, when)
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"{first.url}/v1/memories", json=body, headers=headers, timeout=60)
    assert first.end() == -signal.SIGKILL
    if when == "after":  # a job is named after its key: it can be asked for again
        second = _Process(tmp_path, when)
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{second.url}/v1/memories/messages", json=told, headers={"Idempotency-Key": "m"}, timeout=60)
        assert second.end() == -signal.SIGKILL
    with running(model, tmp_path) as server:
        again = server.client.post("/v1/memories", json=body, headers=headers)
        if when == "before":
            same(again, server.client.post("/v1/memories", json=body, headers=headers))
        else:
            assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_cut_off")
            for _ in range(2):
                reply = server.client.post("/v1/memories/messages", json=told, headers={"Idempotency-Key": "m"})
                assert (reply.status_code, len(reply.json()["data"])) == (201, 1)
            assert len(server.client.get("/v1/messages").json()["data"]) == 1
        texts = [memory["text"] for memory in server.client.get("/v1/memories").json()["data"]]
        assert texts.count("Written under a kill.") == 1
