from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.transformers import LoadedModel
from tests.memory.files import docx, pdf
from tests.server.running import Running, running
from tests.server.test_cli import call

TENANTS = ("anna", "boris", "clara")


@pytest.fixture(scope="module")
def keys(guarded: Running) -> dict[str, dict[str, str]]:
    create = guarded.services.keys.create
    return {tenant: {"Authorization": f"Bearer {create(tenant, tenant)}"} for tenant in TENANTS}


def put(client: httpx.Client, cube: str, name: str, data: bytes, **more: Any) -> httpx.Response:
    return client.post(f"/v1/cubes/{cube}/documents", params={"name": name}, content=data, **more)


def test_the_life_of_a_document(server: Running) -> None:
    client = server.client
    added = put(client, "default", "pool.docx", docx([("Heading1", "Pool"), ("", "No diving from the pier.")]))
    assert added.status_code == 201
    document = added.json()
    assert (document["action"], document["n_chunks"], document["object"]) == ("added", 1, "document")
    (hit,) = client.post("/v1/memories/search", json={"query": "diving pier"}).json()["data"]
    assert hit["memory"]["metadata"]["name"] == "pool.docx"
    chat = server.chat("may I dive from the pier?").json()
    assert [used["id"] for used in chat["memory"]["memories"]] == [hit["memory"]["id"]]
    assert put(client, "default", "pool.docx", b"other", headers={"Content-Type": "text/plain"}).json()["action"] == (
        "replaced"
    )
    assert client.get(f"/v1/memories/{hit['memory']['id']}").status_code == 404
    (listed,) = client.get("/v1/cubes/default/documents").json()["data"]
    assert (listed["name"], listed["cube"]) == ("pool.docx", document["cube"])
    gone = client.delete(f"/v1/cubes/default/documents/{listed['id']}").json()
    assert (gone["deleted"], gone["memories_removed"]) == (True, 1)
    assert client.get("/v1/cubes/default/documents").json()["data"] == []
    assert client.delete(f"/v1/cubes/default/documents/{listed['id']}").status_code == 404


@pytest.mark.transformers
def test_segments_of_what_was_replaced_are_gone_with_the_reply(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "segments"}).json()["id"]

    def labels() -> set[str]:
        return {label.partition("@")[0] for entry in server.services.catalogue.entries() for label in entry.labels}

    for text, expected in ((b"The lamp is green.", 0), (b"The lamp is red.", 1)):
        replaced = put(server.client, cube, "lamp.txt", text).json()
        assert (replaced["segments_removed"] > 0) == bool(expected)
        (memory,) = server.client.get("/v1/memories", params={"cube": cube}).json()["data"]
        server.chat("lamp", memory={"cube": cube})
        server.flush()
        assert memory["id"] in labels()


@pytest.mark.parametrize(
    ("name", "data"), [("a.exe", b"MZ"), ("a.pdf", b"no pdf"), ("a.docx", b"PK"), ("a.txt", b""), ("a.txt", b"\x00")]
)
def test_bad_files_are_400(server: Running, name: str, data: bytes) -> None:
    reply = put(server.client, "default", name, data)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unreadable_document")


def test_bad_requests(server: Running) -> None:
    assert put(server.client, "nothing", "a.txt", b"x").status_code == 404
    assert server.client.post("/v1/cubes/default/documents", content=b"x").status_code == 400
    assert put(server.client, "default", "a\x01.txt", b"x").json()["error"]["code"] == "invalid_memory"


def test_documents_of_others(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    """Strangers see nothing; who may read lists, who may write adds and deletes."""
    client = guarded.client
    cube = client.post("/v1/cubes", json={"name": "docs"}, headers=keys["anna"]).json()["id"]
    document = put(client, cube, "a.txt", b"Anna's.", headers=keys["anna"]).json()["id"]

    def statuses(tenant: str) -> list[int]:
        listed = client.get(f"/v1/cubes/{cube}/documents", headers=keys[tenant])
        added = put(client, cube, "b.txt", b"Boris's.", headers=keys[tenant])
        deleted = client.delete(f"/v1/cubes/{cube}/documents/{document}", headers=keys[tenant])
        return [listed.status_code, added.status_code, deleted.status_code]

    assert statuses("boris") == [404, 404, 404]
    client.post(f"/v1/cubes/{cube}/grants", json={"principal": "boris"}, headers=keys["anna"])
    assert statuses("boris") == [200, 403, 403]
    client.post(f"/v1/cubes/{cube}/grants", json={"principal": "clara", "access": "write"}, headers=keys["anna"])
    assert statuses("clara") == [200, 201, 200]
    own = client.post("/v1/cubes", json={"name": "docs"}, headers=keys["boris"]).json()["id"]
    (left,) = client.get(f"/v1/cubes/{cube}/documents", headers=keys["anna"]).json()["data"]
    assert client.delete(f"/v1/cubes/{own}/documents/{left['id']}", headers=keys["boris"]).status_code == 404


def test_import_from_the_command_line(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "one.md").write_text("# One\n\nThe first note.")
    (folder / "deep" / "two.txt").write_text("The second note.")
    (folder / "three.png").write_bytes(b"no document")
    (folder / ".git" / "config.txt").write_text("hidden")
    (tmp_path / "ferry.pdf").write_bytes(pdf([["The ferry leaves at nine."]]))
    server.client.post("/v1/cubes", json={"name": "imported"})
    given = ("memory", "import", str(folder), str(tmp_path / "ferry.pdf"), "--cube", "imported", "--url", server.url)
    status, out, _ = call(capsys, *given)
    assert status == 0
    assert out.splitlines() == [
        "added     notes/deep/two.txt (1 memories)",
        "added     notes/one.md (1 memories)",
        "added     ferry.pdf (1 memories)",
    ]
    (folder / "bad.pdf").write_bytes(b"no pdf")
    status, out, _ = call(capsys, *given)
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()] == ["failed", "unchanged", "unchanged", "unchanged"]
    assert call(capsys, "memory", "import", str(tmp_path / "nowhere"), "--url", server.url)[0] == 2


# -- cubes as files ----------------------------------------------------------------------------------------------


def load(client: httpx.Client, name: str, data: bytes, **more: Any) -> httpx.Response:
    return client.post("/v1/cubes/load", params={"name": name}, content=data, **more)


def test_a_cube_goes_to_another_server(server: Running, guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "moving", "fidelity": "exact"}).json()["id"]
    server.add("The piano tuner is called Ansel.", cube=cube)
    put(server.client, cube, "notes.md", b"# Piano\n\nTuned in spring and autumn.")
    dumped = server.client.get(f"/v1/cubes/{cube}/dump")
    assert (dumped.status_code, dumped.headers["content-type"]) == (200, "application/zip")
    loaded = load(guarded.client, "moved", dumped.content, headers=keys["anna"])
    assert loaded.status_code == 201
    assert (loaded.json()["memories"], loaded.json()["fidelity"]) == (2, "exact")
    asked = {"query": "piano tuner", "cube": "moved"}
    hits = guarded.client.post("/v1/memories/search", json=asked, headers=keys["anna"]).json()["data"]
    assert hits[0]["memory"]["text"] == "The piano tuner is called Ansel."
    assert load(guarded.client, "moved", dumped.content, headers=keys["anna"]).status_code == 409
    bad = load(guarded.client, "bad", dumped.content[:-30], headers=keys["anna"])
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_memory")
    names = [item["name"] for item in guarded.client.get("/v1/cubes", headers=keys["anna"]).json()["data"]]
    assert "bad" not in names


def test_dumps_of_others(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    """Strangers find nothing; reading is not enough; whoever may write may dump; what is loaded is one's own."""
    client = guarded.client
    cube = client.post("/v1/cubes", json={"name": "treasure"}, headers=keys["anna"]).json()["id"]
    client.post("/v1/memories", json={"text": "Under the pear tree.", "cube": cube}, headers=keys["anna"])
    path = f"/v1/cubes/{cube}/dump"
    assert client.get(path, headers=keys["boris"]).status_code == 404
    client.post(f"/v1/cubes/{cube}/grants", json={"principal": "boris"}, headers=keys["anna"])
    assert client.get(path, headers=keys["boris"]).status_code == 403
    client.post(f"/v1/cubes/{cube}/grants", json={"principal": "boris", "access": "write"}, headers=keys["anna"])
    dumped = client.get(path, headers=keys["boris"])
    assert dumped.status_code == 200
    own = load(client, "treasure", dumped.content, headers=keys["boris"]).json()
    assert own["shared"] is False
    for tenant, expected in (("boris", 200), ("anna", 404), ("clara", 404)):
        assert client.get(f"/v1/cubes/{own['id']}", headers=keys[tenant]).status_code == expected
        assert client.get(f"/v1/cubes/{own['id']}/dump", headers=keys[tenant]).status_code == expected


@pytest.mark.transformers
def test_pages_of_what_had_some_are_built_again(model: LoadedModel, tmp_path: Path) -> None:
    def parts(server: Running, cube: str) -> int:
        memories = server.client.get("/v1/memories", params={"cube": cube}).json()["data"]
        ids = {memory["id"] for memory in memories}
        found = {
            part.label.partition("@")[0]
            for entry in server.services.catalogue.entries()
            for part in entry.parts
            if part.label is not None
        }
        return len(found & ids)

    with running(model, tmp_path / "one") as server:
        cube = server.client.post("/v1/cubes", json={"name": "paged"}).json()["id"]
        for i in range(3):
            server.add(f"Box {i} holds the tools of captain number {i}.", cube=cube)
        for _ in range(2):
            server.chat("which box?", memory={"cube": cube, "top_k": 3})
        settle(server)
        assert parts(server, cube) == 3
        server.add("Nobody ever asked for this one.", cube=cube)
        dumped = server.client.get(f"/v1/cubes/{cube}/dump").content
    with running(model, tmp_path / "two") as server:
        loaded = load(server.client, "paged", dumped).json()["id"]
        settle(server)
        assert parts(server, loaded) >= 3


def settle(server: Running) -> None:
    deadline = time.monotonic() + 30
    quiet = 0
    while quiet < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
        quiet = quiet + 1 if server.client.get("/v1/cache").json()["upkeep"]["waiting"] == 0 else 0


def test_dump_and_load_from_the_command_line(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.client.post("/v1/cubes", json={"name": "by hand"})
    server.add("The kettle whistles at eight.", cube="by hand")
    url = ("--url", server.url)
    file = tmp_path / "cube.zip"
    assert call(capsys, "memory", "dump", str(file), "--cube", "by hand", *url)[0] == 0
    status, out, _ = call(capsys, "memory", "load", str(file), "--cube", "by hand again", *url)
    assert status == 0
    assert server.client.get(f"/v1/cubes/{out.strip()}").json()["name"] == "by hand again"
    assert [path.name for path in tmp_path.iterdir()] == ["cube.zip"]
    status, _, err = call(capsys, "memory", "dump", str(tmp_path / "none.zip"), "--cube", "nothing", *url)
    assert (status, err.startswith("recallkv: 404")) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["cube.zip"]
    assert call(capsys, "memory", "dump", str(tmp_path / "no" / "where.zip"), "--cube", "by hand", *url)[0] == 2
