"""Limits of bodies: how large they may be, and how long they may take."""

from __future__ import annotations

import asyncio
import errno
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.middleware.answers import CLOSE, header, refuse, replayed

log = logging.getLogger(__name__)

BODY_FILE = "recallkv.body"


class BodyLimit:
    """Refuses bodies over the limit with 413, by their announced length or as they come, and with 408 those that
    stop coming.

    ``files`` has limits of their own for some paths: such a body is kept in an unnamed file in ``folder``, which the
    scope has as ``BODY_FILE``, and not in memory; the route gets an empty one. All such files together have room for
    two of the largest: what comes beyond that is refused with 507.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        timeout_s: float,
        *,
        files: Mapping[str, int] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._files = files or {}
        self._folder = folder
        self._in_files = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._files.get(scope.get("path", ""))
        if limit is not None:
            await self._in_file(scope, receive, send, limit)
            return
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        if await self._read(scope, receive, send, self._max_bytes, keep):
            await self._app(scope, replayed(messages, receive), send)

    async def _in_file(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        size, last = 0, ""
        with tempfile.TemporaryFile(dir=self._folder) as file:

            async def keep(message: Message) -> None:
                nonlocal size, last
                last = message["type"]
                size += len(_body(message))
                self._in_files += len(_body(message))
                if self._in_files > 2 * max(self._files.values()):
                    raise OSError(errno.ENOSPC, "other bodies take up the room that there is for them")
                await asyncio.to_thread(file.write, _body(message))

            try:
                try:
                    whole = await self._read(scope, receive, send, limit, keep)
                    file.seek(0)
                except OSError as error:
                    log.error("a request's body cannot be kept: %s", error.strerror or error)
                    await refuse(send, 507, "There is no room for the request's body.", "storage_full", CLOSE)
                    return
                if whole and last != "http.disconnect":  # a part of a bundle could be one
                    scope[BODY_FILE] = file
                    end: Message = {"type": "http.request", "body": b"", "more_body": False}
                    await self._app(scope, replayed([end], receive), send)
            finally:
                self._in_files -= size

    async def _read(
        self, scope: Scope, receive: Receive, send: Send, limit: int, keep: Callable[[Message], Awaitable[None]]
    ) -> bool:
        """Read the body before the route runs: it is bounded, and errors are ours to word. False: it was refused."""
        announced = header(scope, b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit:
            await self._too_large(receive, send, limit)
            return False
        total = 0
        while True:
            try:
                message = await asyncio.wait_for(receive(), self._timeout_s)
            except TimeoutError:
                await refuse(send, 408, "The request's body stopped coming.", "body_timeout", CLOSE)
                return False
            total += len(_body(message))
            if total > limit:
                await self._too_large(receive if message.get("more_body", False) else None, send, limit)
                return False
            await keep(message)
            if message["type"] != "http.request" or not message.get("more_body", False):
                return True

    async def _too_large(self, unread: Receive | None, send: Send, limit: int) -> None:
        # The answer leaves at once, so a client that looks while it sends can stop; the connection is not used again.
        message = f"A request's body has at most {limit} bytes."
        await refuse(send, 413, message, "body_too_large", CLOSE, unread=unread)


def _body(message: Message) -> bytes:
    found: bytes = message.get("body", b"")
    return found
