"""Slashes too many or too few, encoded slashes, and methods that a path has not."""

from __future__ import annotations

import http.client
import json
import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.transformers import LoadedModel
from server.app import create_app
from server.http.middleware.gate import OPEN_PATHS
from tests.server.running import Running, running


def ask(server: Running, method: str, target: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a request line as it is written here; the body of an answer that has an end."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    try:
        body = "{}" if method in ("POST", "PUT", "PATCH", "DELETE") else None
        connection.request(method, target, body, {"content-type": "application/json", **headers})
        reply = connection.getresponse()
        streams = (reply.getheader("content-type") or "").startswith("text/event-stream")
        return reply.status, reply.headers, b"" if streams else reply.read()
    finally:
        connection.close()


def status(server: Running, method: str, target: str) -> int:
    return ask(server, method, target)[0]


def declared(server: Running) -> list[tuple[str, str]]:
    """Every method and path of the application, with some name in the place of each parameter."""
    routes = [route for route in create_app(server.services).routes if isinstance(route, APIRoute)]
    return [
        (method, re.sub(r"\{[^}]*\}", "nobody", route.path)) for route in routes for method in sorted(route.methods)
    ]


def doubled(path: str) -> str:
    """The path with some of its slashes doubled, or more; always the same ones."""
    chance = random.Random(path)
    return "".join(part * chance.choice((1, 2, 3)) if part == "/" else part for part in re.split("(/)", path))


def test_every_path_has_its_route_however_its_slashes_are(server: Running) -> None:
    paths = declared(server)
    assert len(paths) > 90
    for method, path in paths:
        wanted = status(server, method, path)
        assert wanted not in (307, 308, 405, 500), (method, path)
        ways = [f"/{path}", path.replace("/", "//"), doubled(path)]
        other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
        if (method, other) not in paths:  # else that is a route of its own
            ways += [other, f"/{other}", doubled(other)]
        assert {way: status(server, method, way) for way in ways} == dict.fromkeys(ways, wanted), (method, path)


def test_a_route_that_has_both_forms_keeps_them_apart(server: Running) -> None:
    """mem0's version 1 adds at ``/v1/memories/``, where this server's own API has ``/v1/memories``."""
    for path in ("/v1/memories", "//v1//memories"):
        assert b"text" in ask(server, "POST", path)[2]
        assert b"messages" in ask(server, "POST", f"{path}/")[2]
    assert status(server, "PUT", "/v1/memories/nobody") == status(server, "PUT", "/v1/memories/nobody/") == 404
    assert status(server, "PATCH", "/v1/memories/nobody/") == status(server, "PATCH", "/v1/memories/nobody") == 404


def test_a_body_comes_along(server: Running) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for path in ("/v1/chat/completions/", "/v1//chat//completions"):
        assert server.client.post(path, json=body).json()["object"] == "chat.completion"
    for path in ("/v1//models", "//v1/models", "/v1/models/"):
        assert json.loads(ask(server, "GET", path)[2])["data"][0]["id"] == "tiny"


def test_requests_are_counted_under_their_route(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        for path in ("/v1/models", "/v1//models", "//v1/models/"):
            ask(server, "GET", path)
        counted = re.findall(r"recallkv_http_requests_total\{(.*)\} (\S+)", server.client.get("/metrics").text)
        assert [n for labels, n in counted if '"/v1/models"' in labels] == ["3.0"], counted
        assert not any("unmatched" in labels for labels, _ in counted)


def name_of(server: Running, target: str) -> str:
    """The name that the model's route got."""
    message = json.loads(ask(server, "GET", target)[2])["error"]["message"]
    found = re.search(r"The model '(.*)' does not exist; this", message, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("org/name", "org/name"),
        ("org/name/", "org/name"),
        ("org//name", "org/name"),
        ("org%2Fname", "org/name"),
        ("org%2fname/", "org/name"),
        ("org%2F%2Fname", "org//name"),
        ("%2Forg%2F", "/org/"),
        ("a%252Fb", "a%2Fb"),
        ("a%25b", "a%b"),
        ("a%0Ab", "a\nb"),
        ("%C3%BC", "ü"),
    ],
)
def test_names_keep_their_slashes(server: Running, target: str, name: str) -> None:
    assert name_of(server, f"/v1/models/{target}") == name


NAMES = st.text(
    st.one_of(st.sampled_from("/%. ?#&+;\n"), st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, slash=st.booleans())
def test_any_name_arrives_as_it_was_encoded(server: Running, name: str, slash: bool) -> None:
    assert name_of(server, f"/v1/models/{quote(name, safe='')}" + "/" * slash) == name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
def test_a_cube_is_found_by_any_name(server: Running, name: str) -> None:
    made = server.client.post("/v1/cubes", json={"name": name})
    if made.status_code != 201:  # not a name that a cube may have
        return
    name = made.json()["name"]
    path = f"/v1/cubes/{quote(name, safe='')}"
    _, _, body = ask(server, "GET", path)
    cube = json.loads(body)
    assert cube == made.json()
    assert status(server, "GET", f"{path}/grants") == 200
    assert status(server, "DELETE", f"/v1/cubes/{cube['id']}//") == 200


def test_nobody_gets_around_the_key(guarded: Running) -> None:
    for method, path in declared(guarded):
        ways = (
            path,
            f"/{path}",
            doubled(path),
            f"{path}/",
            "/" + path[1:].replace("/", "%2F"),
            path.replace("/", "/%2F"),
        )
        for way in ways:
            reached = "/" + "/".join(filter(None, way.split("/"))) in OPEN_PATHS
            assert (status(guarded, method, way) == 401) != reached, way
    tricks = ["/health%2Fready", "/health/..//v1/models", "/health%0A", "/health;/v1/models", "//health//..%2Fmetrics"]
    assert {path: status(guarded, "GET", path) for path in tricks} == dict.fromkeys(tricks, 401)
    for path in ("//health", "/health/", "/health//ready/"):
        assert status(guarded, "GET", path) == 200


def test_limits_hold_for_a_path_however_its_slashes_are(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path, max_body_bytes=1024) as server:
        for path in ("/v1/cubes/load", "/v1/cubes/load/", "/v1//cubes/load", "/v1/cubes/lo%61d"):
            reply = server.client.post(f"{path}?name=x", content=b"x" * 5000)
            assert reply.json()["error"]["code"] == "invalid_memory", path
        for path in ("/v1/cubes//x/documents", "/v1/cubes%2Fload", "/v1/cubes/load%0A"):
            assert server.client.post(f"{path}?name=x", content=b"x" * 5000).status_code == 413
        for path in ("/v1/cubes%2Fload", "/v1/cubes/load%0A"):
            assert server.client.post(f"{path}?name=x", content=b"x").status_code in (404, 405)


def test_head_is_get_without_a_body(server: Running) -> None:
    for path in [path for method, path in declared(server) if method == "GET"]:
        assert ask(server, "HEAD", path)[::2] == (status(server, "GET", path), b""), path
    lengths = {method: ask(server, method, "/v1/models")[1]["content-length"] for method in ("GET", "HEAD")}
    assert lengths["GET"] == lengths["HEAD"]
    assert status(server, "HEAD", "/v1/chat/completions") == 405
    # The connection goes on after a HEAD whose GET would have streamed.
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    for method, path in (("HEAD", "/v1/scheduler/events"), ("HEAD", "/health"), ("GET", "/health")):
        connection.request(method, path)
        assert connection.getresponse().read() == (b'{"status":"ok"}' if method == "GET" else b"")
    connection.close()


def error(reply: tuple[int, Any, bytes]) -> tuple[int, str]:
    told = json.loads(reply[2])["error"]
    assert told["type"] == "invalid_request_error"
    assert set(told) == {"message", "type", "param", "code"}
    return reply[0], told["code"]


def test_methods_that_a_path_has_not(server: Running) -> None:
    for path, allowed in {
        "/v1/cubes": "GET, HEAD, OPTIONS, POST",
        "/v1//cubes/": "GET, HEAD, OPTIONS, POST",
        "/v1/chat/completions": "OPTIONS, POST",
        "/v1/memories/x": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
        "/v1/ping": "GET, HEAD, OPTIONS",
    }.items():
        for method in ("TRACE", "PROPFIND", *(() if "PUT" in allowed else ("PUT",))):
            reply = ask(server, method, path)
            assert error(reply) == (405, "method_not_allowed")
            assert reply[1]["allow"] == allowed
        options = ask(server, "OPTIONS", path)
        assert (options[0], options[1]["allow"], options[2]) == (204, allowed, b"")
    for method in ("GET", "POST", "OPTIONS", "PUT"):
        assert error(ask(server, method, "/v1/nothing/here")) == (404, "not_found")
    assert error(ask(server, "GET", "/")) == error(ask(server, "GET", "//")) == (404, "not_found")


def test_pages_of_other_origins_may_ask_at_any_of_the_paths(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path, cors_origins=("https://app.example",), api_keys="required") as server:
        for path in ("/v1/models", "//v1/models/"):
            asked = {"origin": "https://app.example", "access-control-request-method": "GET"}
            reply = ask(server, "OPTIONS", path, **asked)
            assert (reply[0], reply[1]["access-control-allow-origin"]) == (200, "https://app.example")
        assert status(server, "OPTIONS", "/v1/models") == 401
