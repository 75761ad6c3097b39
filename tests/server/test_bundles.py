"""Pages in bundles: what comes along, what is believed, and what is left to be computed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.transformers import LoadedModel
from kvcache import verify_folder
from memory.language.dates import EARLIEST, LATEST
from server.config import Config, EngineSettings, MemorySettings
from server.core.signing import KEY_BYTES, BundleKey, BundleKeyError
from server.wiring import open_services
from tests.server.running import Running, running
from tests.server.test_cli import call
from tests.server.test_documents import load
from tests.server.test_fidelity import settle

TEXTS = [f"In harbour {i} lies the boat with the number {i * 17} on its bow." for i in range(4)]
KEY = bytes(range(KEY_BYTES))
# Several servers, each with a store of its own; tests/server/test_there_and_back.py is for any engine.
pytestmark = pytest.mark.transformers
Change = Callable[[dict[str, bytes]], object]


def ask(server: Running, cube: str, texts: list[str], **options: Any) -> tuple[str, dict[str, Any]]:
    """The answer to a question over these memories of a cube, and the receipt."""
    listed = server.client.get("/v1/memories", params={"cube": cube}).json()["data"]
    ids = {memory["text"]: memory["id"] for memory in listed}
    memory = {"cube": cube, "ids": [ids[text] for text in texts], **options}
    reply = server.chat("which boat?", memory=memory).json()
    return reply["choices"][0]["message"]["content"], reply["memory"]


def sources(receipt: dict[str, Any]) -> set[str]:
    return {memory["source"] for memory in receipt["memories"]}


def filled(server: Running, name: str = "boats") -> str:
    """A cube whose memories have pages, on disk."""
    cube: str = server.client.post("/v1/cubes", json={"name": name}).json()["id"]
    for text in TEXTS:
        server.add(text, cube=cube)
    ask(server, cube, TEXTS[:3])
    settle(server)
    server.flush()
    return cube


def dump(server: Running, cube: str, **params: Any) -> bytes:
    reply = server.client.get(f"/v1/cubes/{cube}/dump", params={"segments": True, **params})
    assert reply.status_code == 200, reply.text
    return reply.content


def pages(server: Running) -> list[str]:
    return sorted(entry.key for entry in server.services.catalogue.entries() if entry.kind == "standalone")


def attached(data: bytes) -> list[dict[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if "segments.jsonl" not in archive.namelist():
            return []
        return [json.loads(line) for line in archive.read("segments.jsonl").splitlines()]


def repacked(data: bytes, change: Change) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return into.getvalue()


@pytest.fixture(scope="module")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def home(model: LoadedModel, key_folder: Path) -> Iterator[Running]:
    """Where the bundle comes from. Its tenant is ``default``."""
    (key_folder / "bundle.key").write_bytes(KEY)
    with running(model, key_folder) as server:
        yield server


@pytest.fixture(scope="module")
def cube(home: Running) -> str:
    return filled(home)


@pytest.fixture(scope="module")
def dumped(home: Running, cube: str) -> bytes:
    return dump(home, cube)


@pytest.fixture(scope="module")
def away(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Another server of the same operator: a data folder of its own, the same key."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "bundle.key").write_bytes(KEY)
    with running(model, folder) as server:
        yield server


@pytest.fixture
def empty(away: Running) -> Iterator[Running]:
    """``away`` without cubes."""
    yield away
    settle(away)
    for item in away.client.get("/v1/cubes").json()["data"]:
        away.client.delete(f"/v1/cubes/{item['id']}")


def taken(server: Running, data: bytes, name: str = "loaded", **more: Any) -> dict[str, Any]:
    """What a load says of the pages."""
    reply = load(server.client, name, data, **more)
    assert reply.status_code == 201, reply.text
    told: dict[str, Any] = reply.json()["segments"]
    return told


# -- the way there and back --------------------------------------------------------------------------------------


def test_pages_are_used_at_once_with_the_same_answer(home: Running, cube: str, dumped: bytes, empty: Running) -> None:
    order = [TEXTS[2], TEXTS[0]]
    before, receipt = ask(home, cube, order)
    assert sources(receipt) <= {"resident", "host"}
    told = taken(empty, dumped)
    assert told == {"taken": len(attached(dumped)), "left": 0, "reasons": {}}
    assert pages(empty) == sorted(line["name"] for line in attached(dumped))
    settle(empty)
    assert empty.services.upkeep.stats().pages_built == 0, "nothing is computed that came along"
    after, receipt = ask(empty, "loaded", order)
    assert after == before
    assert [memory["source"] for memory in receipt["memories"]] == ["disk", "disk"]
    assert [memory["fidelity"] for memory in receipt["memories"]] == ["high", "high"]


def test_a_memory_that_goes_takes_its_loaded_page_along(dumped: bytes, empty: Running) -> None:
    taken(empty, dumped)
    (first, *_) = empty.client.get("/v1/memories", params={"cube": "loaded"}).json()["data"]
    assert empty.client.delete(f"/v1/memories/{first['id']}").json()["segments_removed"] >= 1
    assert not any(first["id"] in label for entry in empty.services.catalogue.entries() for label in entry.labels)
    assert not set(pages(empty)) & {line["name"] for line in attached(dumped)}


def test_a_cube_that_is_loaded_twice_shares_its_pages(dumped: bytes, empty: Running) -> None:
    """The same texts have the same pages; these then go with a memory of either cube."""
    taken(empty, dumped, "first")
    assert taken(empty, dumped, "second")["taken"] == len(attached(dumped))
    found = pages(empty)
    assert len(found) == len(attached(dumped))
    again = dump(empty, "first")
    assert [line["name"] for line in attached(again)] == [line["name"] for line in attached(dumped)]
    memory = empty.client.get("/v1/memories", params={"cube": "second"}).json()["data"][0]
    empty.client.delete(f"/v1/memories/{memory['id']}")
    assert not set(pages(empty)) & set(found)


def test_loaded_pages_outlive_a_restart(model: LoadedModel, dumped: bytes, tmp_path: Path) -> None:
    (tmp_path / "bundle.key").write_bytes(KEY)
    with running(model, tmp_path) as server:
        assert taken(server, dumped)["taken"] > 0
        found = pages(server)
    assert verify_folder(tmp_path / "segments").bad == []
    for stray in (tmp_path / "segments").glob("index.sqlite*"):
        stray.unlink()  # the files alone say all
    with running(model, tmp_path) as server:
        assert pages(server) == found
        labels = {label for entry in server.services.catalogue.entries() for label in entry.labels}
        assert labels <= server.memories.active_labels()
        assert all(entry.certificate is not None for entry in server.services.catalogue.entries() if entry.root)


def test_without_being_asked_no_page_comes_along(home: Running, cube: str) -> None:
    data = home.client.get(f"/v1/cubes/{cube}/dump").content
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert not [name for name in archive.namelist() if name.startswith("segments")]


def test_no_page_of_a_deleted_memory_or_another_cube_comes_along(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        cube, other = filled(server), filled(server, "other")
        assert attached(dump(server, other)) == [], "its texts have pages, which are another cube's"
        listed = server.client.get("/v1/memories", params={"cube": cube}).json()["data"]
        assert attached(dump(server, cube))
        server.client.delete(f"/v1/memories/{listed[1]['id']}")
        after = attached(dump(server, cube))
        assert not [line for line in after if listed[1]["id"] in line["memories"]]


def test_pages_of_another_tenant_do_not_come_along(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    """Also where both use the same cube: whose pages they are stands in their roots."""
    client = guarded.client
    cube = client.post("/v1/cubes", json={"name": "shared"}, headers=keys["anna"]).json()["id"]
    client.post(f"/v1/cubes/{cube}/grants", json={"principal": "boris", "access": "write"}, headers=keys["anna"])
    for text in TEXTS:
        client.post("/v1/memories", json={"text": text, "cube": cube}, headers=keys["anna"])
    body = {"model": "tiny", "messages": [{"role": "user", "content": "the boat in the harbour"}], "max_tokens": 1}
    asked = client.post("/v1/chat/completions", json=body | {"memory": {"cube": cube}}, headers=keys["boris"])
    assert asked.json()["memory"]["memories"]
    settle(guarded)
    guarded.flush()

    def came(tenant: str) -> bytes:
        params = {"segments": True}
        return client.get(f"/v1/cubes/{cube}/dump", params=params, headers=keys[tenant]).content

    assert attached(came("anna")) == []
    data = came("boris")
    assert len(attached(data)) > 0
    left = len(attached(data))
    assert taken(guarded, data, "copy", headers=keys["anna"]) == {"taken": 0, "left": left, "reasons": {"tenant": left}}
    assert taken(guarded, data, "copy", headers=keys["boris"])["taken"] == left


# -- what is not believed ----------------------------------------------------------------------------------------


def with_file(change: Callable[[bytearray], None]) -> Change:
    def changed(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.startswith("segments/"))
        content = bytearray(members[name])
        change(content)
        members[name] = bytes(content)

    return changed


def with_line(change: Callable[[dict[str, Any]], None], which: str = "segments") -> Change:
    def changed(members: dict[str, bytes]) -> None:
        lines = [json.loads(line) for line in members[f"{which}.jsonl"].splitlines()]
        for line in lines:
            change(line)
        members[f"{which}.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return changed


def flip(at: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[at] ^= 1

    return change


def other_token(content: bytearray) -> None:
    """The last tensor is the tokens."""
    content[-4] ^= 1


def other_start(content: bytearray) -> None:
    at = content.index(b'"start":"') + len(b'"start":"')
    content[at] = ord("7") if content[at] != ord("7") else ord("8")


def with_manifest(**changes: Any) -> Change:
    def change(members: dict[str, bytes]) -> None:
        members["manifest.json"] = json.dumps({**json.loads(members["manifest.json"]), **changes}).encode()

    return change


def renamed_memories(members: dict[str, bytes]) -> None:
    """Two memories change places: their texts, not their ids."""
    lines = [json.loads(line) for line in members["memories.jsonl"].splitlines()]
    lines[0]["text"], lines[1]["text"] = lines[1]["text"], lines[0]["text"]
    members["memories.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)


TAMPERED: dict[str, tuple[Change, str]] = {
    "a number": (with_file(flip(-2000)), "damaged"),
    "a token": (with_file(other_token), "damaged"),
    "a position": (with_file(other_start), "damaged"),
    "cut off": (with_file(lambda content: content.__delitem__(slice(-4, None))), "damaged"),
    "more behind it": (with_file(lambda content: content.extend(b"more")), "damaged"),
    "another signature": (with_line(lambda line: line["note"].update(signature="0" * 64)), "signature"),
    "no signature": (with_line(lambda line: line["note"].update(signature="")), "signature"),
    "another digest": (with_line(lambda line: line["note"].update(file="0" * 64)), "signature"),
    "a better certificate": (with_line(lambda line: line["note"]["kl"].update(high=0.0)), "signature"),
    "fewer memories": (with_line(lambda line: line["memories"].pop()), "signature"),
    "another note": (with_line(lambda line: line["note"].update(more=1)), "damaged"),
    "no note": (with_line(lambda line: line.update(note={})), "damaged"),
    "another text": (with_line(lambda line: line.update(text=line["text"] + "!"), "memories"), "signature"),
    "texts that changed places": (renamed_memories, "signature"),
    "another version": (with_line(lambda line: line.update(version=9), "memories"), "signature"),
    "archived": (with_line(lambda line: line.update(status="archived"), "memories"), "signature"),
    "another model": (with_manifest(fingerprint="ab" * 32), "model"),
    "no model": (with_manifest(fingerprint=None), "model"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_changed_is_not_taken(name: str, dumped: bytes, empty: Running) -> None:
    change, reason = TAMPERED[name]
    told = taken(empty, repacked(dumped, change))
    assert told["reasons"].keys() == {reason}
    assert told["taken"] + told["left"] == len(attached(dumped))
    assert len(pages(empty)) == told["taken"]
    assert list((empty.services.config.data_dir / "segments").rglob("*.tmp")) == []
    texts = [m["text"] for m in empty.client.get("/v1/memories", params={"cube": "loaded"}).json()["data"]]
    if texts:
        assert ask(empty, "loaded", texts[:2])[0], "the texts work as they do without"


def test_a_packed_bundle_is_as_good_as_the_first(dumped: bytes, empty: Running) -> None:
    """The helper above changes nothing by itself."""
    assert taken(empty, repacked(dumped, lambda members: None))["left"] == 0


def test_signatures_of_two_pages_cannot_be_exchanged(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        cube = filled(server)
        for i in range(4):
            server.add(f"Long story number {i}: " + "and so it went on, day by day; " * 14, cube=cube)
        listed = server.client.get("/v1/memories", params={"cube": cube}).json()["data"]
        ask(server, cube, [memory["text"] for memory in listed[4:]])
        settle(server)
        server.flush()
        data = dump(server, cube)
        lines = attached(data)
        assert len(lines) >= 2

        def exchanged(members: dict[str, bytes]) -> None:
            a, b, *rest = lines
            a, b = {**a, "note": b["note"]}, {**b, "note": a["note"]}
            members["segments.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in (a, b, *rest))

        told = taken(server, repacked(data, exchanged))
        assert told == {"taken": len(lines) - 2, "left": 2, "reasons": {"signature": 2}}


def test_pages_that_are_left_are_built(dumped: bytes, empty: Running) -> None:
    built = empty.services.upkeep.stats().pages_built
    assert taken(empty, repacked(dumped, with_file(flip(-2000))))["left"] == 1
    settle(empty)
    assert empty.services.upkeep.stats().pages_built > built
    _, receipt = ask(empty, "loaded", [TEXTS[2], TEXTS[0]])
    assert sources(receipt) <= {"resident", "host", "disk"}


def test_another_key_believes_nothing(model: LoadedModel, dumped: bytes, tmp_path: Path) -> None:
    n = len(attached(dumped))
    with running(model, tmp_path) as server:
        assert taken(server, dumped) == {"taken": 0, "left": n, "reasons": {"signature": n}}
        assert (tmp_path / "bundle.key").stat().st_mode & 0o777 == 0o600
        (tmp_path / "bundle.key").write_bytes(b"short")
        assert taken(server, dumped, "again") == {"taken": 0, "left": n, "reasons": {"key": n}}
        settle(server)
        server.flush()
        unsigned = server.client.get("/v1/cubes/loaded/dump", params={"segments": True})
        assert (unsigned.status_code, unsigned.json()["error"]["code"]) == (500, "bundle_key_failed")
        assert str(tmp_path) not in unsigned.text
        assert server.client.get("/v1/cubes/loaded/dump").status_code == 200


STRUCTURE: dict[str, Change] = {
    "a file more": lambda members: members.update({f"segments/{'a' * 64}.safetensors": b"x"}),
    "a file less": lambda members: members.pop(next(name for name in members if name.startswith("segments/"))) and None,
    "a path": lambda members: members.update({"segments/../../evil.safetensors": b"x"}),
    "no lines": lambda members: members.pop("segments.jsonl") and None,
    "lines without files": lambda members: (
        [members.pop(name) for name in list(members) if name.startswith("segments/")] and None
    ),
    "a line twice": lambda members: members.update({"segments.jsonl": members["segments.jsonl"] * 2}),
    "unknown field": with_line(lambda line: line.update(more=1)),
    "a name that is none": with_line(lambda line: line.update(name="../x")),
    "of no memory": with_line(lambda line: line.update(memories=["mem_nowhere"])),
    "of a memory twice": with_line(lambda line: line["memories"].append(line["memories"][0])),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_bundle_of_another_shape_is_refused(name: str, dumped: bytes, empty: Running) -> None:
    reply = load(empty.client, "bad", repacked(dumped, STRUCTURE[name]))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_memory")
    assert empty.client.get("/v1/cubes").json()["data"] == []


def test_a_file_that_is_there_twice_is_refused(dumped: bytes, empty: Running) -> None:
    name = f"segments/{attached(dumped)[0]['name']}.safetensors"
    into = io.BytesIO(dumped)
    with zipfile.ZipFile(into, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, b"x")
    assert load(empty.client, "bad", into.getvalue()).status_code == 400


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_found_or_harmless(dumped: bytes, away: Running, data: st.DataObject) -> None:
    """Of the members that pages are in, headers of the zip included: the bundle is refused, or the page is not taken,
    or it is the page that was signed."""
    begin = dumped.index(b"segments/")
    at = data.draw(st.integers(begin - 30, len(dumped) - 1) | st.integers(begin - 30, begin + 3000))
    damaged = bytearray(dumped)
    damaged[at] ^= data.draw(st.integers(1, 255))
    reply = load(away.client, "flipped", bytes(damaged))
    if reply.status_code == 400:
        return
    assert reply.status_code == 201
    try:
        if reply.json()["segments"]["taken"]:
            assert pages(away) == sorted(line["name"] for line in attached(dumped))
            assert verify_folder(away.services.config.data_dir / "segments").bad == []
    finally:
        settle(away)
        away.client.delete("/v1/cubes/flipped")


# -- keys and limits ---------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    key = BundleKey(tmp_path / "bundle.key", made=True)
    key.check()
    assert not (tmp_path / "bundle.key").exists()
    signature = key.sign({"a": 1})
    assert (tmp_path / "bundle.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.key"]
    again = BundleKey(tmp_path / "bundle.key", made=True)
    assert again.signed({"a": 1}, signature)
    assert not again.signed({"a": 2}, signature)
    assert not again.signed({"a": 1}, "Ä" * 64)


@pytest.mark.parametrize("content", [b"", b"x" * (KEY_BYTES - 1), b"x" * (KEY_BYTES + 1)])
def test_a_key_of_another_size_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bundle.key").write_bytes(content)
    key = BundleKey(tmp_path / "bundle.key", made=True)
    with pytest.raises(BundleKeyError, match="32 bytes"):
        key.check()
    with pytest.raises(BundleKeyError, match="32 bytes"):
        key.sign({})


def test_a_bad_key_stops_the_start(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, engine=EngineSettings(model="tiny"), memory=MemorySettings(embedder="hash"))
    missing = replace(config, memory=replace(config.memory, bundle_key_file=tmp_path / "nowhere.key"))
    with pytest.raises(BundleKeyError, match="cannot be read"):
        open_services(missing)
    (tmp_path / "bundle.key").write_bytes(b"short")
    with pytest.raises(BundleKeyError, match="32 bytes"):
        open_services(config)
    with pytest.raises(BundleKeyError, match="no bundle key can be made"):
        BundleKey(tmp_path / "no" / "bundle.key", made=True).sign({})


def test_more_than_the_disk_may_hold_is_left(model: LoadedModel, dumped: bytes, tmp_path: Path) -> None:
    (tmp_path / "bundle.key").write_bytes(KEY)
    with running(model, tmp_path) as server:
        server.services.catalogue.disk.budget = 1000
        n = len(attached(dumped))
        assert taken(server, dumped) == {"taken": 0, "left": n, "reasons": {"room": n}}


def test_limits_of_bundles(model: LoadedModel, dumped: bytes, tmp_path: Path) -> None:
    """Pages may be larger than other bodies, texts may not."""
    pages_bytes = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(dumped)).infolist() if "/" in info.filename)
    assert pages_bytes > 60_000
    limits: dict[str, Any] = {"max_body_bytes": len(dumped) - pages_bytes, "max_bundle_bytes": len(dumped)}
    with running(model, tmp_path / "large", **limits) as server:
        assert load(server.client, "good", dumped).status_code == 201
        assert load(server.client, "bad", dumped + b"x").json()["error"]["code"] == "body_too_large"
        settle(server)
    with running(model, tmp_path / "small", max_body_bytes=1024) as server:
        refused = load(server.client, "bad", dumped)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_memory")
        assert "without its segments" in refused.json()["error"]["message"]


def test_from_the_command_line(home: Running, cube: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = ("--url", home.url)
    file = tmp_path / "cube.zip"
    assert call(capsys, "memory", "dump", str(file), "--cube", cube, *url)[0] == 0
    assert attached(file.read_bytes()) == []
    assert call(capsys, "memory", "dump", str(file), "--cube", cube, "--segments", *url)[0] == 0
    n = len(attached(file.read_bytes()))
    status, out, err = call(capsys, "memory", "load", str(file), "--cube", "by hand", *url)
    assert (status, err) == (0, f"pages: {n} taken, 0 left\n")
    assert home.client.delete(f"/v1/cubes/{out.strip()}").status_code == 200


@pytest.mark.parametrize("field", ["expires_at", "event_at", "event_until"])
def test_times_are_those_of_the_calendar_and_come_back(server: Running, field: str) -> None:
    """What a memory may be given, a bundle can hold."""
    cube = server.client.post("/v1/cubes", json={"name": f"times {field}"}).json()["id"]
    for at in (EARLIEST, -1.5, 253_370_764_800.0, LATEST):
        if field != "expires_at" or at > 0:  # else it is gone at once
            server.add(f"{field} {at}", cube=cube, **{field: at})
    for at in (EARLIEST - 1, LATEST + 1, 1e18):
        reply = server.client.post("/v1/memories", json={"text": "a", "cube": cube, field: at})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    path = "/v1/memories"
    before = {m["text"]: m[field] for m in server.client.get(path, params={"cube": cube}).json()["data"]}
    data = dump(server, cube)
    taken(server, data, f"loaded {field}")
    after = server.client.get(path, params={"cube": f"loaded {field}"}).json()["data"]
    assert {memory["text"]: memory[field] for memory in after} == before
    assert len(before) >= 2


@pytest.mark.parametrize("date", [None, "9999-12-31", "9999-12-31T23:59:59Z"])
def test_memories_that_never_expire_are_dumped(server: Running, date: str | None) -> None:
    """Clients of mem0 say so by no date, or by the last one there is."""
    body = {"messages": f"Never gone: {date}.", "user_id": "evergreen", "infer": False}
    added = server.client.post("/memories", json={**body, "expiration_date": "2999-01-01"}).json()["results"][0]["id"]
    assert server.client.put(f"/memories/{added}", json={"expiration_date": date}).status_code == 200
    cube = server.client.get(f"/v1/memories/{added}").json()["cube"]
    with zipfile.ZipFile(io.BytesIO(dump(server, cube))) as archive:
        assert f"Never gone: {date}." in archive.read("memories.jsonl").decode()
