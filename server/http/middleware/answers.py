"""Answers that middleware gives itself, and what it reads of a request."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable

from starlette.types import Message, Receive, Scope, Send

from server.http.errors import error_body

log = logging.getLogger(__name__)


ENDING, ENDING_CODE = "The server is shutting down.", "shutting_down"

CLOSE = ((b"connection", b"close"),)

# How long and how much of a refused body is read on for the client's sake; seconds as nginx's lingering_time and
# lingering_timeout. Nothing of it is kept.
_LINGER_S, _LINGER_QUIET_S, _LINGER_BYTES = 30.0, 5.0, 1 << 30


async def refuse(
    send: Send,
    status: int,
    message: str,
    code: str,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    *,
    type: str = "invalid_request_error",
    unread: Receive | None = None,
) -> None:
    """Answer. ``unread``: where the rest of the request's body comes from, when the connection ends with this answer:
    it ends only once the client has stopped sending, or has had its time."""
    body = json.dumps(error_body(message, type, code)).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
    if unread is not None:
        await _linger(unread)
        await send({"type": "http.response.body", "body": b""})


async def refuse_ending(send: Send, unread: Receive | None) -> None:
    """Answer 503 to a request that is not served, or not finished, because the server is about to end."""
    headers = ((b"retry-after", b"1"), *CLOSE)
    await refuse(send, 503, ENDING, ENDING_CODE, headers, type="server_error", unread=unread)


async def _linger(receive: Receive) -> None:
    """Read on and forget, within bounds. A socket that is closed over bytes nobody has read sends a reset, and a reset
    takes the answer from a client that has not come to reading it: many send all before they look."""
    left = _LINGER_BYTES
    try:
        async with asyncio.timeout(_LINGER_S):
            while left > 0:
                async with asyncio.timeout(_LINGER_QUIET_S):
                    message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):  # all of it was sent, or the client is gone
                    return
    except TimeoutError:
        log.debug("a client went on sending, or kept quiet, after its body was refused")


def header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def replayed(messages: Iterable[Message], receive: Receive) -> Receive:
    """Make a channel that receives these messages, then what comes."""
    replay = iter(messages)

    async def receive_again() -> Message:
        return next(replay, None) or await receive()

    return receive_again
