from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from engine.transformers import LoadedModel
from server.app import create_app
from server.http.middleware.gate import OPEN_PATHS, is_loopback
from server.run import offer_first_key
from tests.server.running import Running, running


def routes(guarded: Running) -> list[tuple[str, str]]:
    app = create_app(guarded.services)
    found: list[tuple[str, str]] = []

    def walk(items: Any) -> None:
        for route in items:
            if isinstance(route, Route | APIRoute):
                found.extend((method, route.path) for method in sorted(route.methods or ()))
            elif getattr(route, "routes", None):
                walk(route.routes)

    walk(app.routes)
    assert ("POST", "/v1/chat/completions") in found or len(app.openapi()["paths"]) > 10
    found += [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    return sorted(set(found))


def test_every_route_but_health_needs_a_key(guarded: Running) -> None:
    table = routes(guarded)
    assert len(table) > 20
    assert {"/metrics", "/openapi.json", "/docs", "/tokenize"} <= {path for _, path in table}
    for method, path in table:
        reply = guarded.client.request(method, path.replace("{", "").replace("}", ""))
        if path in OPEN_PATHS:
            assert reply.status_code == 200, path
        else:
            assert reply.status_code == 401, (method, path)
            assert reply.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                assert reply.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer rk_wrong", "Basic abc", "bearer x y", "Bearer \u00e9".encode("latin-1")]
)
def test_wrong_keys(guarded: Running, header: str | bytes) -> None:
    assert guarded.client.get("/v1/models", headers={"Authorization": header}).status_code == 401  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Token KEY"}, {"authorization": "token   KEY"}, {"X-API-Key": "KEY"}, {"x-api-key": "KEY"}],
)
def test_a_key_in_other_servers_headers(guarded: Running, headers: dict[str, str]) -> None:
    key = guarded.services.keys.create("carl", f"carl-{headers}")
    first = {"Authorization": f"Bearer {key}"}
    added = guarded.client.post("/v1/memories", json={"text": "Found by any header."}, headers=first).json()
    given = {name: value.replace("KEY", key) for name, value in headers.items()}
    assert guarded.client.get(f"/v1/memories/{added['id']}", headers=given).status_code == 200
    wrong = {name: value.replace("KEY", key[:-1]) for name, value in headers.items()}
    assert guarded.client.get("/v1/models", headers=wrong).status_code == 401
    # A wrong key in the one header is not made up for by the other.
    both = {"Authorization": "Bearer rk_wrong", "X-API-Key": key}
    assert guarded.client.get("/v1/models", headers=both).status_code == 401


def test_tenants_see_nothing_of_each_other(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    client = guarded.client
    added = client.post("/v1/memories", json={"text": "My dog is called Biscuit."}, headers=keys["anna"]).json()
    cube = client.post("/v1/cubes", json={"name": "private"}, headers=keys["anna"]).json()

    def chat(tenant: str, **memory: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "What is my dog called?"}]
        request = {"model": "tiny", "messages": messages, "max_tokens": 3, "memory": memory}
        return client.post("/v1/chat/completions", json=request, headers=keys[tenant])

    assert len(chat("anna").json()["memory"]["memories"]) == 1
    assert chat("boris").json()["memory"]["memories"] == []
    for attempt in (chat("boris", ids=[added["id"]]), chat("boris", cube=cube["id"]), chat("boris", cube="private")):
        assert attempt.status_code == 404
    for method in ("GET", "PATCH", "DELETE"):
        body = {"json": {"text": "mine"}} if method == "PATCH" else {}
        reply = client.request(method, f"/v1/memories/{added['id']}", headers=keys["boris"], **body)  # type: ignore[arg-type]
        assert reply.status_code == 404
    assert client.delete(f"/v1/cubes/{cube['id']}", headers=keys["boris"]).status_code == 404
    assert client.get("/v1/memories", headers=keys["boris"]).json()["data"] == []
    assert client.get(f"/v1/memories/{added['id']}", headers=keys["anna"]).json()["text"] == added["text"]


def test_the_same_text_of_two_tenants_shares_no_segment(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    sources = {}
    for tenant in ("anna", "boris"):
        memory = guarded.client.post("/v1/memories", json={"text": "Same text."}, headers=keys[tenant]).json()
        request = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 2,
            "memory": {"ids": [memory["id"]]},
        }
        for _ in range(2):
            reply = guarded.client.post("/v1/chat/completions", json=request, headers=keys[tenant]).json()
            sources.setdefault(tenant, []).append(reply["memory"]["memories"][0]["source"])
    for first, second in sources.values():
        assert first == "computed"
        assert second in ("resident", "host")


def test_an_address_that_is_not_loopback_needs_keys_and_offers_the_first(
    model: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(model, tmp_path, host="0.0.0.0") as server:
        assert server.client.get("/v1/models").status_code == 401
        offer_first_key(server.services)
        key = capsys.readouterr().err.strip().rpartition(" ")[2]
        assert server.client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        offer_first_key(server.services)
        assert capsys.readouterr().err == ""
    with running(model, tmp_path / "off", host="0.0.0.0", api_keys="off") as server:
        assert server.client.get("/v1/models").status_code == 200


def test_a_revoked_key_is_refused_at_once(guarded: Running) -> None:
    keys = guarded.services.keys
    header = {"Authorization": f"Bearer {keys.create('x', 'temporary')}"}
    assert guarded.client.get("/v1/models", headers=header).status_code == 200
    keys.revoke("temporary")
    assert guarded.client.get("/v1/models", headers=header).status_code == 401


def test_on_loopback_no_key_is_needed_but_a_real_one_counts(server: Running) -> None:
    header = {"Authorization": f"Bearer {server.services.keys.create('anna', 'k')}"}
    server.client.post("/v1/memories", json={"text": "anna's"}, headers=header)
    assert len(server.client.get("/v1/memories", headers=header).json()["data"]) == 1
    placeholder = {"Authorization": "Bearer none"}
    assert server.client.get("/v1/memories", headers=placeholder).json()["data"] == []
    assert server.client.get("/v1/memories", headers={"Authorization": "Bearer rk_mistyped"}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8000", ""])
def test_other_hosts_are_refused_without_keys(server: Running, host: str) -> None:
    reply = server.client.get("/v1/models", headers={"Host": host})
    assert reply.status_code in (400, 403)


def test_with_keys_any_host_is_served(guarded: Running, keys: dict[str, dict[str, str]]) -> None:
    reply = guarded.client.get("/v1/models", headers={"Host": "memory.example", **keys["anna"]})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8:80", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_request_ids(server: Running) -> None:
    assert server.client.get("/version", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a b", "x" * 200, "semi;colon"):
        assert server.client.get("/version", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad
    reply = server.chat()
    assert reply.json()["id"] == f"chatcmpl-{reply.headers['x-request-id']}"
