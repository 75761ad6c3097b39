"""What every request passes before a route: an id, a size limit, the host check, the key."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import re
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory.domain.keys import PREFIX as KEY_PREFIX
from server.errors import error_body
from server.logs import request_id

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN_PATHS = ("/health", "/health/live", "/health/ready")
DEFAULT_TENANT = "default"
TENANT = "recallkv.tenant"
REQUEST_ID = "recallkv.request_id"
BODY_FILE = "recallkv.body"

ENDING, ENDING_CODE = "The server is shutting down.", "shutting_down"

CLOSE = ((b"connection", b"close"),)

# How long and how much of a refused body is read on for the client's sake; seconds as nginx's lingering_time and
# lingering_timeout. Nothing of it is kept.
_LINGER_S, _LINGER_QUIET_S, _LINGER_BYTES = 30.0, 5.0, 1 << 30

CountRequest = Callable[[str, str, int], None]


def is_loopback(host: str) -> bool:
    """Whether an address to bind to, or a Host header, names this machine only."""
    name = host.rpartition(":")[0] if re.fullmatch(r"[^:]+:\d+|\[.*\]:\d+", host) else host
    name = name.strip("[]")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


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


def _key(scope: Scope) -> str:
    """The key that a request carries: ``Authorization: Bearer KEY`` (or ``Token KEY``, as other memory servers' clients
    say), else ``X-API-Key: KEY``. Empty when there is none."""
    scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return key.strip()
    return (header(scope, b"x-api-key") or "").strip()


class RequestIds:
    """Takes over the client's ``X-Request-Id`` or makes one; sends it back; counts the request."""

    def __init__(self, app: ASGIApp, count: CountRequest) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        id = given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        scope[REQUEST_ID] = id
        token = request_id.set(id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", id.encode())]
                route = scope.get("route")
                self._count(scope["method"], getattr(route, "path", "unmatched"), message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


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


def replayed(messages: Iterable[Message], receive: Receive) -> Receive:
    """Receives these messages, then what comes."""
    replay = iter(messages)

    async def receive_again() -> Message:
        return next(replay, None) or await receive()

    return receive_again


class Gate:
    """Default deny: every path but health needs a key where keys are required; without keys, only requests that
    name a loopback host are served (a web page cannot reach the server by rebinding its own name to it)."""

    def __init__(
        self, app: ASGIApp, *, required: bool, check_host: bool, tenant_of: Callable[[str], str | None]
    ) -> None:
        self._app = app
        self._required = required
        self._check_host = check_host
        self._tenant_of = tenant_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._check_host and not is_loopback(header(scope, b"host") or ""):
            await refuse(send, 403, "This server serves loopback hosts only.", "host_refused")
            return
        key = _key(scope)
        # In a thread: the look-up may have to wait for a write to reach the disk.
        tenant = await asyncio.to_thread(self._tenant_of, key) if key.startswith(KEY_PREFIX) else None
        if tenant is None and not self._required and not key.startswith(KEY_PREFIX):
            tenant = DEFAULT_TENANT  # clients send some placeholder where no key is needed
        if tenant is None:
            await refuse(
                send, 401, "A valid API key is needed.", "invalid_api_key", ((b"www-authenticate", b"Bearer"),)
            )
            return
        scope[TENANT] = tenant
        await self._app(scope, receive, send)
