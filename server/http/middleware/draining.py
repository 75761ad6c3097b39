"""The end of serving: what becomes of requests when the server is told to stop.

While it drains, the server still listens: health says 503, new requests are refused with 503, and those that run go on.
What has not ended when the time is up is broken off in a way that its client understands.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import error_body
from server.http.middleware.answers import ENDING, ENDING_CODE, refuse_ending
from server.http.middleware.gate import OPEN_PATHS

RUNNING = "recallkv.running"

# A request that waits for no generation is about to write or to be read: it gets this many seconds more than the
# others, so that nobody is told of a failure that was none.
_FINISH_S = 2.0
# How long the answers that break requests off may take to leave.
_ANSWER_S = 2.0
_LOOK_EVERY_S = 0.02

_CLOSE = (b"connection", b"close")
_LAST_EVENTS = f"data: {json.dumps(error_body(ENDING, 'server_error', ENDING_CODE))}\n\ndata: [DONE]\n\n".encode()


class Running:
    """One request on its way through the application."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._has_body = False
        self._answer: Message | None = None
        self._over = False
        self.waits_for_tokens = False
        self.broken = False

    @property
    def _streams(self) -> bool:
        found = dict(self._answer["headers"]).get(b"content-type", b"") if self._answer else b""
        return bytes(found).startswith(b"text/event-stream")

    def heard(self, message: Message) -> None:
        """Note what came from the client."""
        self._has_body = not message.get("more_body", False)

    def told(self, message: Message) -> None:
        """Note what was sent to the client."""
        if message["type"] == "http.response.start":
            self._answer = message
        else:
            self._over = not message.get("more_body", False)

    def break_off(self, *, at_any_point: bool) -> None:
        """End it, where that can be said to its client. Unless ``at_any_point``, a request that may be writing is let
        be: one whose body is here and that waits for no tokens."""
        if self.broken or self._over or (self._answer is not None and not self._streams):
            return
        if at_any_point or self._streams or self.waits_for_tokens or not self._has_body:
            self.broken = True
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def say_so(self, receive: Receive, send: Send) -> None:
        """Send what the client of a request that was broken off is told: a whole 503, or a stream's last events."""
        if self._answer is None:
            await refuse_ending(send, None if self._has_body else receive)
        else:
            await send({"type": "http.response.body", "body": _LAST_EVENTS, "more_body": False})


class Requests:
    """The requests that run now, and how they are brought to their end."""

    def __init__(self) -> None:
        self._running: set[Running] = set()
        self.broken = 0

    def __len__(self) -> int:
        return len(self._running)

    @contextmanager
    def holding(self, running: Running) -> Iterator[None]:
        """Count a request while it runs."""
        self._running.add(running)
        try:
            yield
        finally:
            self._running.discard(running)

    async def drain(self, drain_s: float, min_s: float, hurry: Callable[[], bool]) -> None:
        """Wait until nothing runs, ``min_s`` seconds at least. What still runs after ``drain_s`` (or ``min_s``)
        seconds, or once ``hurry`` says so, is broken off; what cannot be is left."""
        loop = asyncio.get_running_loop()
        at_least = loop.time() + min_s
        until = loop.time() + max(drain_s, min_s)
        while self._running or loop.time() < at_least:
            now = loop.time()
            if hurry():
                at_least, until = now, min(until, now - _FINISH_S)
            if now >= until + _FINISH_S + _ANSWER_S:
                return
            if now >= until:
                for running in list(self._running):
                    running.break_off(at_any_point=now >= until + _FINISH_S)
            await asyncio.sleep(_LOOK_EVERY_S)


@contextmanager
def waiting_for_tokens(scope: Scope) -> Iterator[None]:
    """Mark the request as one that waits for tokens only: breaking it off loses nothing else."""
    running: Running | None = scope.get(RUNNING)
    if running is None:
        yield
        return
    running.waits_for_tokens = True
    try:
        yield
    finally:
        running.waits_for_tokens = False


class Draining:
    """Refuses new requests once the server drains, and answers for those that are broken off."""

    def __init__(self, app: ASGIApp, *, requests: Requests, draining: Callable[[], bool]) -> None:
        self._app = app
        self._requests = requests
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._draining() and scope["path"] not in OPEN_PATHS:
            await refuse_ending(send, receive)
        else:
            await self._run(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = asyncio.timeout(None)
        running = scope[RUNNING] = Running(limit)

        async def hear() -> Message:
            message = await receive()
            running.heard(message)
            return message

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and self._draining():
                message = {**message, "headers": _closing(message["headers"])}
            await send(message)
            running.told(message)

        with self._requests.holding(running):
            try:
                async with limit:
                    await self._app(scope, hear, tell)
            except TimeoutError:
                if not limit.expired():
                    raise
                self._requests.broken += 1
                await running.say_so(receive, send)


def _closing(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return headers that say that the connection ends with this answer."""
    return [*(pair for pair in headers if pair[0].lower() != _CLOSE[0]), _CLOSE]
