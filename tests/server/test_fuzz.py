"""Whatever is sent to any route, there is no server error, and the answer has the shape that it should have.

Deeper: ``RECALLKV_FUZZ_EXAMPLES=500 pytest tests/server/test_fuzz.py`` (a route's random examples; beside them
schemathesis sends each route its edge cases).
"""

from __future__ import annotations

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from server.http.middleware.gate import OPEN_PATHS
from tests.server import fuzzing
from tests.server.running import Running

pytestmark = pytest.mark.transformers  # about routes, which are the same under both engines
EXAMPLES = int(os.environ.get("RECALLKV_FUZZ_EXAMPLES", "8"))
# The same examples each time, unless more are asked for. No shrinking in CI: it could take minutes.
bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
schema = fuzzing.described()
NUMBERS = itertools.count()
OPERATIONS = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]


@pytest.fixture
def known(server: Running) -> dict[str, list[Any]]:
    """What there is, made again for each route: some of them delete everything."""
    return fuzzing.furnish(server)


@schema.parametrize()
@bounded
def test_every_route_by_its_description(case: Any, server: Running, known: dict[str, list[Any]]) -> None:
    fuzzing.check(fuzzing.send(server, case, known), case)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@bounded
@given(data=st.data())
def test_every_route_with_one_hostile_value(
    operation: Any, data: st.DataObject, server: Running, known: dict[str, list[Any]]
) -> None:
    """What the description has no words for: not-a-number, half a surrogate pair, filters, integers of any size."""
    case = data.draw(operation.as_strategy())
    request = {"path_parameters": case.path_parameters, "query": case.query, "body": case.body}
    request = {part: fuzzing.with_known(value, known) for part, value in request.items() if value}
    paths = [path for path in fuzzing.places(request) if len(path) > 1]
    if "body" in request:
        paths.append(("body",))
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2)) if paths else ():
        value = data.draw(fuzzing.filters if path[-1] in ("filter", "filters") else fuzzing.hostile)
        try:
            request = fuzzing.replaced(request, path, value)
        except (KeyError, IndexError, TypeError):
            continue  # the first change took away the place of the second
    for part, value in request.items():
        setattr(case, part, value)
    fuzzing.check(fuzzing.send(server, case, {}), case)


@bounded
@given(
    path=st.sampled_from(["/v1/cubes/fuzz/documents", "/v1/cubes/load"]),
    name=st.text(max_size=20) | st.sampled_from(["a.txt", "a.md", "a.html", "a.pdf", "a.docx"]),
    media_type=st.sampled_from(["text/plain", "text/html", "application/pdf", "application/zip", "", "a/b", "\xff"]),
    content=st.binary(max_size=200) | st.sampled_from([b"%PDF-1.4\n%", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18]),
)
def test_bodies_that_are_files(
    path: str, name: str, media_type: str, content: bytes, server: Running, known: dict[str, list[Any]]
) -> None:
    """The description says nothing of these bodies: they are taken as they are."""
    headers: Any = {"content-type": media_type.encode("latin-1")}
    reply = server.client.post(path, params={"name": name}, content=content, headers=headers)
    fuzzing.check_shape(reply)


def test_the_endless_stream_begins(server: Running) -> None:
    with server.client.stream("GET", fuzzing.ENDLESS) as reply:
        assert reply.status_code == 200
        assert next(reply.iter_lines()).startswith(":")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_no_route_answers_without_a_key(operation: Any, guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    """Where keys are needed, with a wrong one and without; with the right one the request goes through the gate."""
    path = operation.path.replace("{", "").replace("}", "")
    for headers in ({}, {"Authorization": "Bearer rk_nobody"}, {"X-API-Key": "nobody"}):
        reply = guarded.client.request(operation.method, path, headers=headers, json={})
        assert (reply.status_code == 401) == (operation.path not in OPEN_PATHS), path
    reply = guarded.client.request(operation.method, path, headers=keys["anna"], json={}, params={"wait_s": 0})
    assert reply.status_code < 500
    assert reply.status_code != 401


class Writes(RuleBasedStateMachine):
    """Changes of one cube in any order. What is gone is 404 or 409, never more than that."""

    server: Running
    memories = Bundle("memories")
    dumps = Bundle("dumps")

    def __init__(self) -> None:
        super().__init__()
        self.client = self.server.client
        self.name = f"cube-{next(NUMBERS)}"
        assert self.client.post("/v1/cubes", json={"name": self.name}).status_code == 201

    def _ok(self, reply: httpx.Response, *others: int) -> httpx.Response:
        assert reply.status_code in (200, 201, *others), reply.text
        return reply

    @rule(target=memories, text=st.sampled_from(["I like tea.", "I live in Lisbon.", "I moved to Oslo.", "Tea!"]))
    def add(self, text: str) -> str:
        return str(self._ok(self.client.post("/v1/memories", json={"text": text, "cube": self.name})).json()["id"])

    @rule(id=memories, change=st.sampled_from([{"text": "I like coffee."}, {"pinned": True}, {"status": "archived"}]))
    def change(self, id: str, change: dict[str, Any]) -> None:
        self._ok(self.client.patch(f"/v1/memories/{id}", json=change), 404, 409)

    @rule(id=memories, forget=st.booleans())
    def delete(self, id: str, forget: bool) -> None:
        self._ok(self.client.delete(f"/v1/memories/{id}", params={"forget": forget}), 404)

    @rule(id=memories)
    def undelete(self, id: str) -> None:
        self._ok(self.client.post(f"/v1/memories/{id}/undelete"), 404, 409)

    @rule(id=memories)
    def look(self, id: str) -> None:
        self._ok(self.client.get(f"/v1/memories/{id}"), 404)
        self._ok(self.client.get(f"/v1/memories/{id}/history"), 404)

    @rule(text=st.sampled_from(["That is right.", "That is wrong.", "I live in Porto now."]))
    def feedback(self, text: str) -> None:
        self._ok(self.client.post("/v1/feedback", json={"text": text, "cube": self.name}))

    @rule()
    def search_and_chat(self) -> None:
        self._ok(self.client.post("/v1/memories/search", json={"query": "tea", "cube": self.name}))
        self._ok(self.server.chat("tea?", memory={"cube": self.name}, max_tokens=2))

    @rule()
    def reindex(self) -> None:
        self._ok(self.client.post(f"/v1/cubes/{self.name}/reindex"))

    @rule(target=dumps, segments=st.booleans())
    def dump(self, segments: bool) -> bytes:
        return self._ok(self.client.get(f"/v1/cubes/{self.name}/dump", params={"segments": segments})).content

    @rule(dump=dumps, damage=st.none() | st.floats(0, 1, exclude_max=True))
    def load(self, dump: bytes, damage: float | None) -> None:
        if damage is not None:
            at = int(damage * len(dump))
            dump = dump[:at] + bytes([dump[at] ^ 0x55]) + dump[at + 1 :]
        reply = self.client.post("/v1/cubes/load", params={"name": f"loaded-{next(NUMBERS)}"}, content=dump)
        self._ok(reply, *([400] if damage is not None else []))

    @invariant()
    def lists_are_read(self) -> None:
        for status in ("active", "deleted"):
            self._ok(self.client.get("/v1/memories", params={"cube": self.name, "status": status}))


def test_changes_in_any_order(server: Running) -> None:
    machine = type("WritesHere", (Writes,), {"server": server})
    more = settings(bounded, max_examples=2 * EXAMPLES, stateful_step_count=15)
    run_state_machine_as_test(machine, settings=more)


def test_four_clients_at_once(server: Running, known: dict[str, list[Any]]) -> None:
    """Each writes, reads, deletes and chats in a cube that all of them use."""
    cube = known["cube_id"][1]

    def work(number: int) -> list[int]:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            seen = []
            for turn in range(2 * EXAMPLES):
                added = client.post("/v1/memories", json={"text": f"Fact {number} of turn {turn}.", "cube": cube})
                id = added.json()["id"]
                replies = [
                    added,
                    client.patch(f"/v1/memories/{id}", json={"text": f"Fact {turn}."}),
                    client.patch(f"/v1/memories/{known['memory_id'][0]}", json={"metadata": {"n": turn}}),
                    client.post("/v1/memories/search", json={"query": "fact", "cube": cube}),
                    client.post("/product/search", json={"query": "fact", "user_id": "fuzz"}),
                    client.delete(f"/v1/memories/{id}"),
                    client.post(f"/v1/memories/{id}/undelete"),
                    client.get(f"/v1/cubes/{cube}/dump"),
                ]
                seen += [reply.status_code for reply in replies]
            return seen

    with ThreadPoolExecutor(4) as pool:
        statuses = [status for seen in pool.map(work, range(4)) for status in seen]
    assert set(statuses) <= {200, 201, 409}
    assert len(statuses) == 4 * 2 * EXAMPLES * 8


# -- what was found ------------------------------------------------------------------------------------------------

HALF = "\ud800"


def post(server: Running, path: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return server.client.post(path, content=json.dumps(body), headers=headers)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", {"model": HALF, "messages": [{"role": "user", "content": "x"}]}, 400),
        ("/v1/completions", {"model": HALF, "prompt": "x"}, 400),
        ("/v1/memories", {"text": "x", "kind": HALF}, 400),
        ("/v1/memories", {"text": "x", "cube": HALF}, 400),
        ("/v1/memories", {"text": "x", "metadata": {"a": [HALF]}}, 400),
        ("/v1/memories", {"text": "x", "metadata": {HALF: 1}}, 400),
        ("/v1/memories/messages", {"messages": [{"content": "x"}], "extractor": HALF}, 400),
        ("/v1/memories/search", {"query": "x", "filter": {"owner": HALF}}, 400),
        ("/v1/memories/search", {"query": "x", "filter": {"importance": {"gt": 2**64}}}, 200),
        ("/v1/memories/list", {"filter": {"tags": [HALF]}}, 400),
        ("/v1/memories/list", {"filter": {f"metadata.{HALF}": 1}}, 400),
        ("/v1/memories/list", {"filter": {"pinned": -(2**63) - 1}}, 200),
        ("/v1/memories/list", {"filter": {"not": []}}, 400),
        ("/api/openmem/v1/update/memory", {"memory_id": HALF}, 400),
        ("/product/get_memory", {"mem_cube_id": "default", "filter": {"info": {"n": 2**70}}}, 200),
    ],
)
def test_what_can_neither_be_stored_nor_be_told(server: Running, path: str, body: dict[str, Any], status: int) -> None:
    reply = post(server, path, body)
    assert reply.status_code == status, reply.text
    fuzzing.check_shape(reply)


@pytest.mark.parametrize(
    "filters", ['{"x": "\\ud800"}', "{1: b'x'}", "{'a': {1, 2}}", "{'a': 1j}", "[1]", "{" * 3000, "[" * 3000]
)
def test_filters_in_a_query_that_are_none(server: Running, filters: str) -> None:
    reply = server.client.delete("/v1/memories/", params={"user_id": "nobody", "filters": filters})
    assert reply.status_code == 400, reply.text
    fuzzing.check_shape(reply)


@pytest.mark.parametrize("ends", [{"repetition_penalty": 1e-320}, {"repetition_penalty": 1e-38, "top_p": 0.5}])
def test_a_penalty_that_makes_infinities(server: Running, ends: dict[str, float]) -> None:
    reply = server.chat("hello", temperature=1, **ends)
    assert reply.status_code == 200, reply.text
