"""Bodies that come compressed, or as JSON without saying so."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.transformers import LoadedModel
from tests.server.running import Running, running

BODY = {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "hello " * 50}]}
DATA = json.dumps(BODY).encode()


def raw(data: bytes) -> bytes:
    """A deflate stream without zlib's header."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def post(server: Running, content: Any, encoding: str | None = None, kind: str | None = "application/json") -> Any:
    headers = {"content-encoding": encoding, "content-type": kind}
    given = {name: value for name, value in headers.items() if value is not None}
    return server.client.post("/v1/chat/completions", content=content, headers=given)


def chunks(data: bytes, size: int) -> Any:
    return (data[i : i + size] for i in range(0, len(data), size))


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(DATA)),
        ("x-gzip", gzip.compress(DATA)),
        ("GZIP", gzip.compress(DATA)),
        ("gzip", gzip.compress(DATA[:100]) + gzip.compress(b"") + gzip.compress(DATA[100:])),
        ("deflate", zlib.compress(DATA)),
        ("deflate", raw(DATA)),
        ("identity", DATA),
        ("", DATA),
    ],
)
def test_compressed_bodies_are_read_whole_or_in_pieces(server: Running, encoding: str, data: bytes) -> None:
    assert post(server, data, encoding).status_code == 200
    for size in (1, 7, 1000):
        assert post(server, chunks(data, size), encoding).status_code == 200


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", DATA),
        ("deflate", DATA),
        ("gzip", gzip.compress(DATA)[:-9]),
        ("gzip", gzip.compress(DATA)[:20]),
        ("gzip", gzip.compress(DATA) + b"more"),
        ("deflate", zlib.compress(DATA)[:-1]),
        ("deflate", raw(DATA)[:-2]),
    ],
)
def test_damaged_ones_are_refused(server: Running, encoding: str, data: bytes) -> None:
    reply = post(server, data, encoding)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "invalid_encoding")
    assert encoding in error["message"]
    assert post(server, DATA).status_code == 200


def test_random_damage_is_never_a_server_error(server: Running) -> None:
    chance = random.Random(0)
    for _ in range(60):
        data = bytearray(gzip.compress(DATA))
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert post(server, bytes(data), "gzip").status_code in (200, 400)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "aes128gcm"])
def test_other_encodings_are_refused_with_those_that_are_taken(server: Running, encoding: str) -> None:
    reply = post(server, DATA, encoding)
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert reply.headers["accept-encoding"] == "gzip, deflate"
    assert "gzip" in reply.json()["error"]["message"]


def test_the_limit_counts_what_comes_out(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path, max_body_bytes=1 << 20) as server:
        bomb = gzip.compress(b" " * (1 << 28))
        for content in (bomb, chunks(bomb, 1 << 14)):
            reply = post(server, content, "gzip")
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
        fits = json.dumps({**BODY, "user": "x" * (1 << 19)}).encode()
        assert post(server, gzip.compress(fits), "gzip").status_code == 200


def test_a_compressed_cube_is_loaded(server: Running) -> None:
    server.add("I keep a goose.")
    dumped = server.client.get("/v1/cubes/default/dump").content
    headers = {"content-encoding": "gzip"}
    reply = server.client.post("/v1/cubes/load?name=again", content=gzip.compress(dumped), headers=headers)
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/vnd.api+json"])
def test_json_is_read_under_any_name(server: Running, kind: str | None) -> None:
    assert post(server, DATA, kind=kind).status_code == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_web_pages_must_say_that_it_is_json(server: Running, kind: str | None) -> None:
    headers = {"origin": "http://elsewhere.example", **({} if kind is None else {"content-type": kind})}
    reply: httpx.Response = server.client.post("/v1/memories", content=b'{"text": "x"}', headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in reply.json()["error"]["message"]


def test_documents_keep_their_content_type(server: Running) -> None:
    reply = server.client.post(
        "/v1/cubes/default/documents?name=notes",
        content=b"[A goose](x) lives here.",
        headers={"content-type": "text/markdown"},
    )
    assert reply.status_code == 201, reply.text
