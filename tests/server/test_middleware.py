"""What is read of a body that was refused: all that a client needs to come to the answer, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.http.middleware import answers
from server.http.middleware.body import BODY_FILE, BodyLimit

MIB = b" " * (1 << 20)


async def unreached(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("a body over the limit was let through")


def refused(receive: Callable[[], Awaitable[Message]], **headers: str) -> list[Message]:
    """What is sent for a request with this body."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(asyncio.wait_for(BodyLimit(unreached, max_bytes=10, timeout_s=5)(scope, receive, send), 30))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"body_too_large" in sent[1]["body"]
    assert not sent[-1].get("more_body", False)
    return sent


@pytest.mark.parametrize("headers", [{"content-length": "99999999"}, {}], ids=["announced", "not-announced"])
def test_a_refused_body_is_read_to_its_end(headers: dict[str, str]) -> None:
    left = 40

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": MIB, "more_body": left > 0}

    sent = refused(receive, **headers)
    assert left == 0
    assert [message.get("more_body") for message in sent] == [None, True, None]  # the answer first, the end when read


def test_a_body_that_came_whole_is_answered_at_once() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": MIB, "more_body": False}

    assert len(refused(receive)) == 2


def test_no_more_is_read_than_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_LINGER_BYTES", 8 << 20)
    n = 0

    async def receive() -> Message:
        nonlocal n
        n += 1
        return {"type": "http.request", "body": MIB, "more_body": True}

    refused(receive, **{"content-length": "99999999"})
    assert n == 8


def test_nobody_is_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_LINGER_QUIET_S", 0.05)

    async def silence() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    refused(silence, **{"content-length": "99999999"})

    monkeypatch.setattr(answers, "_LINGER_S", 0.2)

    async def drip() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    refused(drip, **{"content-length": "99999999"})


def test_a_client_that_leaves_is_not_waited_for() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    refused(gone, **{"content-length": "99999999"})


def kept_in_file(bodies: list[list[Message]], folder: Path, limit: int = 100) -> tuple[list[bytes], list[int]]:
    """What routes found in the file for each of these bodies, all sent at once, and the refusals' statuses."""
    found: list[bytes] = []
    statuses: list[int] = []
    all_there = asyncio.Event()

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(scope[BODY_FILE].read())
        await all_there.wait()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def run() -> None:
        app = BodyLimit(route, max_bytes=10, timeout_s=5, files={"/load": limit}, folder=folder)

        async def one(body: list[Message]) -> None:
            messages = iter(body)

            async def receive() -> Message:
                return next(messages)

            await app({"type": "http", "path": "/load", "headers": []}, receive, send)

        running = [asyncio.create_task(one(body)) for body in bodies]
        while len(found) + len(statuses) + sum(task.done() for task in running) < len(bodies):
            await asyncio.sleep(0.01)
        all_there.set()
        await asyncio.gather(*running)
        assert app._in_files == 0

    asyncio.run(asyncio.wait_for(run(), 30))
    return found, statuses


def body(*parts: bytes) -> list[Message]:
    return [{"type": "http.request", "body": part, "more_body": i + 1 < len(parts)} for i, part in enumerate(parts)]


def test_a_large_body_is_kept_in_a_file(tmp_path: Path) -> None:
    assert kept_in_file([body(b"a" * 40, b"b" * 60)], tmp_path) == ([b"a" * 40 + b"b" * 60], [])
    assert kept_in_file([body(b"a" * 101)], tmp_path) == ([], [413])


def test_files_have_a_bound_together(tmp_path: Path) -> None:
    found, statuses = kept_in_file([body(b"a" * 90)] * 3, tmp_path)
    assert (found, statuses) == ([b"a" * 90] * 2, [507])


def test_a_body_that_breaks_off_reaches_no_route(tmp_path: Path) -> None:
    broken: list[Message] = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]
    assert kept_in_file([broken], tmp_path) == ([], [])
