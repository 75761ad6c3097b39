"""What clients see of a server that is told to stop, and of connections that are idle."""

from __future__ import annotations

import http.client
import json
import logging
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from engine.errors import EngineClosed
from engine.transformers import LoadedModel
from tests.server.processes import QUICK, Process, saved_tiny_model, serving
from tests.server.running import Running, running

LONG: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 1900,
    "ignore_eos": True,
}
MEMOS = {"user_id": "u", "conversation_id": "c", "query": "hello", "max_tokens": 500}

POST = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@pytest.fixture
def slow(model: LoadedModel) -> Iterator[None]:
    """A model that takes 50 ms a step, so that nothing long ends within a test."""
    hook = model.model.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.05))
    yield
    hook.remove()


@contextmanager
def asked(*calls: Callable[[], Any]) -> Iterator[list[Future[Any]]]:
    """Run these at once, each in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as threads:
        yield [threads.submit(call) for call in calls]


def stop(server: Running) -> None:
    """What a signal does."""
    server.app.handle_exit(signal.SIGTERM, None)
    wait_for(lambda: server.client.get("/health/ready").status_code == 503)


def wait_for(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def raw(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(30)
    return connection


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def is_ending(reply: httpx.Response) -> None:
    """The whole answer of a server that ends."""
    assert reply.status_code == 503, reply.text
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-request-id"]
    told = reply.json()["error"]
    assert (told["code"], told["type"], told["param"]) == ("shutting_down", "server_error", None)


def is_broken_off(lines: list[str]) -> None:
    """The last events of a stream that was broken off."""
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "shutting_down"
    assert all("error" not in json.loads(event) for event in events[:-2])


def running_requests(server: Running, n: int) -> None:
    wait_for(lambda: len(server.services.requests) >= n)


@pytest.mark.transformers
@pytest.mark.usefixtures("slow")
def test_what_clients_see_while_the_server_drains(
    model: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams and whole requests of several dialects, running or in their prefill; new requests; health."""
    caplog.set_level(logging.INFO)
    endless = replace(model, eos_token_ids=frozenset())  # the dialects cannot say ignore_eos
    with running(endless, tmp_path, drain_s=8.0) as server:
        server.let_wait(monkeypatch, 100)

        def post(path: str, body: dict[str, Any]) -> httpx.Response:
            return server.client.post(path, json=body)

        def streamed(path: str, body: dict[str, Any]) -> list[str]:
            with server.client.stream("POST", path, json=body) as reply:
                assert reply.headers["content-type"].startswith("text/event-stream")
                return list(reply.iter_lines())  # raises where the chunked coding has no end

        chat = "/v1/chat/completions"
        long = {**LONG, "messages": [{"role": "user", "content": "hello " * 300}], "max_tokens": 200}
        wholes = [(chat, LONG), ("/v1/completions", {**LONG, "prompt": "hello"})]
        wholes += [("/product/chat/complete", MEMOS), ("/api/openmem/v1/chat", MEMOS)]
        streams = [(chat, {**LONG, "stream": True}), ("/v1/completions", {**LONG, "prompt": "a", "stream": True})]
        streams.append(("/api/openmem/v1/chat", {**MEMOS, "stream": True}))
        calls: list[Any] = [lambda p=path, b=body: post(p, b) for path, body in wholes]
        calls += [lambda p=path, b=body: streamed(p, b) for path, body in streams]
        with asked(*calls) as found:
            running_requests(server, len(calls))
            time.sleep(1)
            in_time = {**LONG, "max_tokens": 40}
            with asked(lambda: post(chat, long), lambda: post(chat, in_time)) as (in_prefill, last):
                running_requests(server, len(calls) + 2)
                stop(server)
                begun = time.monotonic()
                for path, body in (
                    *wholes,
                    (chat, {**LONG, "stream": True}),
                    ("/v1/memories", {"text": "x" * 1_000_000}),
                ):
                    is_ending(post(path, body))
                for path in ("/v1/models", "/metrics", "//v1/models/", "/nothing", "/v1/cubes/x/dump"):
                    is_ending(server.client.get(path))
                for path, status in {"/health": 503, "/health/ready/": 503, "/health/live": 200}.items():
                    reply = server.client.get(path)
                    assert (reply.status_code, reply.headers["connection"]) == (status, "close")
                assert time.monotonic() - begun < 8
                is_ending(in_prefill.result())
                assert last.result().json()["usage"]["completion_tokens"] == 40
                assert last.result().headers["connection"] == "close"
        assert time.monotonic() - begun < 30
        for whole in found[: len(wholes)]:
            is_ending(whole.result())
        for lines in found[len(wholes) :]:
            is_broken_off(lines.result())
    messages = [record.getMessage() for record in caplog.records]
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert [message for message in messages if "broken off" in message] == ["8 requests were broken off"]


@pytest.mark.transformers
@pytest.mark.usefixtures("slow")
def test_clients_that_are_slow_or_gone_do_not_hold_up_the_end(
    model: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(model, tmp_path, drain_s=1.0) as server:
        body = json.dumps({**LONG, "stream": True}).encode()
        head = POST.format("/v1/chat/completions", len(body)).encode()
        gone, arriving, large, idle, half = (raw(server) for _ in range(5))
        gone.sendall(head + body)
        running_requests(server, 1)
        gone.close()
        arriving.sendall(head + body[:10])
        large.sendall(head.replace(str(len(body)).encode(), b"9999999") + b" " * 300_000)
        half.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x")
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in idle.recv(1 << 16)
        running_requests(server, 2)
        stop(server)
        begun = time.monotonic()
        for connection in (arriving, large):
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"shutting_down" in answer
            assert b"connection: close" in answer
        assert read_all(idle) == b""
        assert read_all(half) == b""
        assert time.monotonic() - begun < 8
        for connection in (arriving, large, idle, half):
            connection.close()
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def test_a_body_that_is_arriving_is_served_if_it_comes_in_time(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path, drain_s=10.0) as server, closing(raw(server)) as arriving:
        body = json.dumps({"text": "The dog barks."}).encode()
        arriving.sendall(POST.format("/v1/memories", len(body)).encode() + body[:10])
        running_requests(server, 1)
        stop(server)
        arriving.sendall(body[10:])
        assert read_all(arriving).startswith(b"HTTP/1.1 201 ")


def test_a_write_under_way_is_finished(model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no time to drain: nobody is told of a failure of what was written."""
    with running(model, tmp_path, drain_s=0.0) as server:
        add, begun = server.memories.add_noted, threading.Event()

        def slowly(*args: Any, **fields: Any) -> Any:
            begun.set()
            time.sleep(1.0)
            return add(*args, **fields)

        monkeypatch.setattr(server.memories, "add_noted", slowly)
        with asked(lambda: httpx.post(f"{server.url}/v1/memories", json={"text": "The dog barks."})) as found:
            begun.wait()
            server.app.handle_exit(signal.SIGTERM, None)
            assert found[0].result().status_code == 201


def test_what_is_drained_when_nothing_runs(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path / "a", drain_s=60.0) as server, idle_connections(server.url, 200) as idle:
        begun = time.monotonic()
        server.app.handle_exit(signal.SIGTERM, None)
        for connection in idle:
            assert connection.sock.recv(1) == b""
        assert time.monotonic() - begun < 5
    with running(model, tmp_path / "b", drain_min_s=1.5, drain_s=0.0) as server:
        begun = time.monotonic()
        stop(server)
        is_ending(httpx.get(f"{server.url}/v1/models"))
        wait_for(lambda: not server.app.servers[0].is_serving())
        assert 1.4 < time.monotonic() - begun < 10


def test_an_engine_that_closes_under_a_request_is_503(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def closing_engine(*_: object) -> Any:
        raise EngineClosed("the engine is shutting down")
        yield

    monkeypatch.setattr(server.services.engine, "generate", closing_engine)
    for stream in (False, True):
        reply = server.chat(stream=stream)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert reply.json()["error"]["code"] == "shutting_down"


def test_a_full_queue_is_503(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.let_wait(monkeypatch, 0)
    bodies = {"/v1/chat/completions": LONG, "/v1/completions": {**LONG, "prompt": "a", "stream": True}}
    bodies |= {"/product/chat/complete": MEMOS, "/api/openmem/v1/chat": {**MEMOS, "stream": True}}
    for path, body in bodies.items():
        reply = server.client.post(path, json=body)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1"), path
        assert reply.json()["error"]["code"] == "queue_full"
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.transformers
def test_pings_are_comments_without_a_blank_line(model: LoadedModel, tmp_path: Path) -> None:
    """Some decoders take the blank line for the end of an event without data."""
    hook = model.model.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.2))
    try:
        with running(model, tmp_path, sse_ping_s=0.05) as server:
            text = server.chat(stream=True).text
            assert text.count(": ping\n") > 3
            assert ": ping\n\n" not in text
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
            chunks = list(
                client.chat.completions.create(
                    model="tiny",
                    messages=[{"role": "user", "content": "hello"}],
                    max_tokens=3,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
            )
            assert chunks[-1].choices[0].finish_reason == "length"
    finally:
        hook.remove()


# -- processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_tiny_model(tmp_path_factory.mktemp("tiny"))


def log_of(server: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


@contextmanager
def idle_connections(url: str, n: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Connections that were used once."""
    with ExitStack() as stack:
        opened = [http.client.HTTPConnection(url.removeprefix("http://"), timeout=60) for _ in range(n)]
        for connection in opened:
            stack.enter_context(closing(connection))
            again(connection)
        yield opened


def again(connection: http.client.HTTPConnection) -> None:
    """Use a connection that is open, and open none anew."""
    connection.auto_open = 0 if connection.sock else 1
    connection.request("GET", "/health/live")
    assert connection.getresponse().read() == b'{"status":"ok"}'


@pytest.mark.slow
def test_the_life_of_a_process(tmp_path: Path, tiny: str) -> None:
    """Idle connections outlast clients' pools, many are served at once, SIGTERM is answered to the end."""
    flags: tuple[str, ...] = (
        *QUICK,
        "--engine.served_name",
        "tiny",
        "--server.drain_s",
        "2",
        "--engine.max_running",
        "2",
    )
    with serving(tmp_path / "data", *flags, model=tiny) as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        soft, hard = re.findall(r"Max open files +(\d+) +(\d+)", limits)[0]
        assert int(soft) >= min(int(hard), 65536)
        with idle_connections(server.url, 300) as connections:
            time.sleep(6.5)  # longer than uvicorn's 5 s
            for connection in connections:
                again(connection)

        body = {**LONG, "max_tokens": 60_000}
        chat = f"{server.url}/v1/chat/completions"
        stream = httpx.stream("POST", chat, json={**body, "stream": True}, timeout=60)
        with asked(*[lambda: httpx.post(chat, json=body, timeout=60)] * 4) as wholes, stream as reply:
            lines = reply.iter_lines()
            next(lines)
            time.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
            is_broken_off(list(lines))
            for whole in wholes:  # two of them were waiting for the others
                is_ending(whole.result())
        assert server.process.wait(60) == 0
        entries = log_of(server)
        assert not [entry for entry in entries if "traceback" in entry or entry["level"] == "error"]
        assert [entry["message"] for entry in entries if entry["level"] == "warning"] == ["5 requests were broken off"]


@pytest.mark.slow
def test_settings_and_signals_of_a_process(tmp_path: Path, tiny: str) -> None:
    """keep_alive_s is kept to; a job that is under way is done at the next start; a second SIGINT ends the wait."""
    flags: tuple[str, ...] = (
        *QUICK,
        "--engine.served_name",
        "tiny",
        "--server.drain_s",
        "600",
        "--server.keep_alive_s",
        "1.5",
    )
    flags += ("--memory.extractor", "model")
    with serving(tmp_path / "data", *flags, model=tiny) as server:
        with idle_connections(server.url, 1) as (connection,):
            begun = time.monotonic()
            assert connection.sock.recv(1) == b""
            assert 1.0 < time.monotonic() - begun < 20

        chat = f"{server.url}/v1/chat/completions"
        with asked(lambda: httpx.post(chat, json={**LONG, "max_tokens": 60_000}, timeout=60)) as whole:
            said = {"messages": [{"role": "user", "content": "My dog is called Biscuit."}], "wait": False}
            queued = httpx.post(f"{server.url}/v1/memories/messages", json=said).raise_for_status().json()
            wait_for(lambda: _job(server, queued["id"])["status"] == "running")
            server.process.send_signal(signal.SIGINT)
            wait_for(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(1)
            server.process.send_signal(signal.SIGINT)
            is_ending(whole[0].result())
        assert server.process.wait(60) == 0
        assert not [entry for entry in log_of(server) if "traceback" in entry or entry["level"] == "error"]
    with serving(tmp_path / "data", *QUICK, model=tiny) as server:
        wait_for(lambda: _job(server, queued["id"])["status"] == "completed", 60)


def _job(server: Process, id: str) -> dict[str, Any]:
    job: dict[str, Any] = httpx.get(f"{server.url}/v1/jobs/{id}").raise_for_status().json()
    return job
