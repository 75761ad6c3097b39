"""Whatever is wrong with a request, the answer is a clear error in OpenAI's shape, and nothing is lost."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.transformers import LoadedModel
from tests.raw import reading
from tests.server.running import Running, running

CHAT = "/v1/chat/completions"


def error_of(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"5": 200}}, "logit_bias.5"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, None),
        ({"stop": ["x"] * 17}, None),
        ({"stop": ""}, None),
        ({"stop_token_ids": [99999]}, "stop_token_ids"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"seed": 2**70}, "seed"),
        ({"tools": [{"type": "function"}]}, None),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tool_choice": "required"}, None),
        ({"memory": {"mode": "always"}}, "memory.mode"),
        ({"memory": {"top_k": 65}}, "memory.top_k"),
        ({"memory": {"topk": 5}}, "memory.topk"),
        ({"memory": "yes"}, "memory"),
    ],
)
def test_values_out_of_range(server: Running, change: dict[str, Any], param: str | None) -> None:
    error = error_of(server.chat(**change), 400)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


def test_an_unknown_memory_option_names_the_nearest(server: Running) -> None:
    assert "memory.top_k" in error_of(server.chat(memory={"topk": 5}), 400)["message"]


def test_unknown_model_cube_and_ids(server: Running) -> None:
    assert error_of(server.chat(model="gpt-9"), 404)["code"] == "model_not_found"
    assert error_of(server.client.get("/v1/models/gpt-9"), 404)["code"] == "model_not_found"
    for options in ({"cube": "nowhere"}, {"cube": ["default", "nowhere"]}, {"ids": ["mem_0"]}):
        assert error_of(server.chat(memory=options), 404)["code"] == "not_found"
    for path in ("/v1/memories/mem_0", "/v1/cubes/nowhere", "/v1/nothing"):
        assert error_of(server.client.get(path), 404)["code"] == "not_found"
    assert error_of(server.client.delete("/v1/memories/..%2f..%2fetc"), 404)["code"] == "not_found"


def test_a_context_that_is_too_long_is_told_with_the_counts(server: Running) -> None:
    error = error_of(server.chat("x" * 3000), 400)
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"]
    assert "3045" in error["message"] or "30" in error["message"]
    error = error_of(server.chat(max_tokens=2047), 400)
    assert "2047 in the completion" in error["message"]
    assert server.chat(max_tokens=None).status_code == 200


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_value"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_value"),
        (b"\xff\xfe{}", None),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff"}]}', None),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
        (b"[" * 100_000, None),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, None),
        (b"null", "invalid_value"),
    ],
)
def test_bodies_that_are_no_request(server: Running, raw: bytes, code: str | None) -> None:
    reply = server.client.post(CHAT, content=raw, headers={"content-type": "application/json"})
    error = error_of(reply, 400)
    if code is not None:
        assert error["code"] == code
    assert server.chat().status_code == 200


def test_a_100_mb_body_is_refused_announced_or_not(server: Running) -> None:
    chunk = b" " * (1 << 20)

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield chunk

    for content in (chunk * 100, endless()):
        reply = server.client.post(CHAT, content=content)
        assert error_of(reply, 413)["code"] == "body_too_large"
        assert reply.headers["connection"] == "close"
    assert server.chat().status_code == 200


@pytest.mark.parametrize("framing", ["Content-Length: 33554432", "Transfer-Encoding: chunked"])
def test_a_refusal_reaches_a_client_that_sends_all_before_it_reads(server: Running, framing: str) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    chunk = b" " * (1 << 20)
    if framing.endswith("chunked"):
        chunk = b"100000\r\n" + chunk + b"\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n".encode())
        for _ in range(32):
            connection.sendall(chunk)
            time.sleep(0.01)  # by the end the answer has long been on its way
        if framing.endswith("chunked"):
            connection.sendall(b"0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b"}}")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": "x" * 100_001}, "text"),
        ({"text": "a\u0000b"}, "text"),
        ({"text": "x", "kind": "thought"}, "kind"),
        ({"text": "x", "colour": "red"}, "colour"),
        ({"text": "x", "metadata": []}, "metadata"),
        ({"text": 5}, "text"),
    ],
)
def test_bad_memories(server: Running, body: dict[str, Any], param: str) -> None:
    assert error_of(server.client.post("/v1/memories", json=body), 400)["param"] == param


def test_other_bad_bodies(server: Running) -> None:
    post = server.client.post
    assert error_of(post("/v1/memories", json={"text": "x", "cube": "nowhere"}), 404)["code"] == "not_found"
    assert error_of(post("/v1/cubes", json={"name": ""}), 400)["param"] == "name"
    assert post("/v1/cubes", json={"name": "twice"}).status_code == 201
    assert error_of(post("/v1/cubes", json={"name": "twice"}), 409)["code"] == "conflict"
    assert error_of(server.client.get("/v1/memories?limit=0"), 400)["param"] == "limit"
    assert error_of(server.client.get("/v1/memories?after=mem_0"), 404)["code"] == "not_found"
    assert error_of(server.client.get("/v1/memories?kind=thought"), 400)["param"] == "kind"
    assert error_of(post("/tokenize", json={}), 400)["code"] == "invalid_value"
    assert error_of(post("/detokenize", json={"tokens": [10**9]}), 400)["param"] == "tokens"
    assert error_of(post("/v1/completions", json={"model": "tiny", "prompt": ""}), 400)["param"] == "prompt"
    assert error_of(post("/v1/completions", json={"model": "tiny", "prompt": [10**9]}), 400)["param"] == "prompt"
    assert error_of(post("/v1/embeddings", json={"input": []}), 400)["type"] == "invalid_request_error"
    assert error_of(server.client.put("/v1/memories"), 405)["code"] == "method_not_allowed"


def test_errors_before_the_first_token_of_a_stream_have_a_status(server: Running) -> None:
    assert error_of(server.chat("x" * 3000, stream=True), 400)["code"] == "context_length_exceeded"
    assert error_of(server.chat(memory={"ids": ["mem_0"]}, stream=True), 404)["code"] == "not_found"


@pytest.mark.transformers
def test_errors_in_mid_stream_travel_as_events(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        calls = 0

        def fail_later(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise RuntimeError("the device is lost")

        hook = model.model.model.layers[0].register_forward_pre_hook(fail_later)
        try:
            lines = [line for line in server.chat(stream=True, max_tokens=50).text.split("\n\n") if line]
        finally:
            hook.remove()
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "engine_failed"
        assert server.chat().status_code == 200


@pytest.mark.transformers
def test_a_damaged_segment_is_computed_and_counted(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        server.add("My dog is called Biscuit.")
        expected = server.chat("my dog").json()["choices"][0]["message"]["content"]
    for path in (tmp_path / "segments").glob("??/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with running(model, tmp_path) as server:
        reply = server.chat("my dog").json()
        assert reply["choices"][0]["message"]["content"] == expected
        assert reply["memory"]["memories"][0]["source"] == "computed"
        # the header, the memory and, because the question is the same, the turns; a preload may have found the answer
        found = re.search(r"^recallkv_segments_quarantined_total ([\d.]+)", server.client.get("/metrics").text, re.M)
        assert found is not None
        assert float(found[1]) >= 3
        assert len(list((tmp_path / "segments" / "quarantine").glob("*.safetensors"))) >= 3


def test_a_full_disk_is_507_and_chat_goes_on(server: Running, tmp_path: Path) -> None:
    """SQLite is told that its file may not grow: what it says then is what it says on a full disk."""
    store = server.memories
    with reading(store) as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        (most,) = db.execute("PRAGMA max_page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
    try:
        replies = [server.client.post("/v1/memories", json={"text": "x" * 50_000}) for _ in range(3)]
        assert error_of(replies[-1], 507)["code"] == "storage_full"
        assert server.chat().status_code == 200
    finally:
        with reading(store) as db:
            db.execute(f"PRAGMA max_page_count = {most}")
    assert server.client.post("/v1/memories", json={"text": "room again"}).status_code == 201


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_only_vllm_can_do_is_refused_by_name(server: Running, change: dict[str, Any], param: str) -> None:
    error = error_of(server.chat(**change), 400)
    assert (error["code"], error["param"]) == ("unsupported", param)


def test_too_many_waiting_requests_are_503_with_retry_after(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        server.let_wait(patched, 0)
        reply = server.chat()
        assert error_of(reply, 503)["code"] == "queue_full"
        assert reply.headers["retry-after"] == "1"
    assert server.chat().status_code == 200


def test_a_body_that_stops_coming_is_408(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path, body_timeout_s=0.2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert server.chat().status_code == 200
