"""What is read of a body that was refused: all that a client needs to come to the answer, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from server import middleware
from server.middleware import BodyLimit

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
    monkeypatch.setattr(middleware, "_LINGER_BYTES", 8 << 20)
    n = 0

    async def receive() -> Message:
        nonlocal n
        n += 1
        return {"type": "http.request", "body": MIB, "more_body": True}

    refused(receive, **{"content-length": "99999999"})
    assert n == 8


def test_nobody_is_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "_LINGER_QUIET_S", 0.05)

    async def silence() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    refused(silence, **{"content-length": "99999999"})

    monkeypatch.setattr(middleware, "_LINGER_S", 0.2)

    async def drip() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    refused(drip, **{"content-length": "99999999"})


def test_a_client_that_leaves_is_not_waited_for() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    refused(gone, **{"content-length": "99999999"})
