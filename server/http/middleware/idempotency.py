"""``Idempotency-Key``: a write that is tried again with the same key is done once, and answered as it was the first
time (``memory.retries`` has what is kept of it, and for how long)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory import KeyedRequests, KeyReused, MemoryStoreError, Reply, StillRunning, Ticket
from memory.database import ticket
from server.core.once import Once, once
from server.http.errors import ApiError, describe
from server.http.middleware.answers import replayed
from server.http.middleware.body import BODY_FILE
from server.http.middleware.gate import TENANT

log = logging.getLogger(__name__)

WRITES = ("POST", "PUT", "PATCH", "DELETE")
READS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/v1/memories/search",
        "/v1/memories/list",
        "/v1/scenes/hint",
        "/v1/prefetch",
        "/search",
        "/v2/memories/search",
        "/v3/memories/search",
        "/v2/memories",
        "/v3/memories",
        "/product/search",
        "/product/chat/complete",
        "/product/get_memory",
        "/product/get_memory_by_ids",
        "/product/get_all",
        "/product/exist_mem_cube_id",
        "/product/scheduler/wait",
        "/api/openmem/v1/search/memory",
        "/api/openmem/v1/get/message",
        "/api/openmem/v1/get/memory",
        "/api/openmem/v1/get/status",
        "/api/openmem/v1/chat",
    }
)
"""What is asked by POST and changes nothing, without a slash at the end: done each time, whatever the key. What a chat
remembers is remembered once (``server.once``)."""
REPEATABLE = frozenset({"/v1/memories/messages", "/api/openmem/v1/add/message"})
"""What makes nothing but jobs named after the key: it can be done again when it was cut off."""
MAX_KEY_CHARS = 255
KEPT_HEADERS = ("content-type", "etag", "location")
_PART = 1 << 20


@dataclass(frozen=True)
class _Keyed:
    """A request with a key: digests of its key and of all that makes it the request it is."""

    tenant: str
    key: str
    request: str
    quotes: bool
    repeatable: bool


class _Recorder:
    """Takes a reply in, to be kept before it is sent."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def take(self, message: Message) -> None:
        self._messages.append(message)

    @property
    def reply(self) -> Reply | None:
        """Return the reply; None when there is no whole one."""
        if len(self._messages) < 2 or self._messages[-1].get("more_body", False):
            return None
        start, *parts = self._messages
        headers = Headers(raw=start["headers"])
        kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
        return Reply(start["status"], kept, b"".join(part.get("body", b"") for part in parts))

    async def send(self, send: Send) -> None:
        for message in self._messages:
            await send(message)


class Idempotency:
    """Does a write with a key once. A retry waits for the first request, ``wait_s`` seconds at most."""

    def __init__(self, app: ASGIApp, requests: KeyedRequests, *, wait_s: float = 30.0) -> None:
        self._app = app
        self._requests = requests
        self._wait_s = wait_s
        self._running: dict[tuple[str, str], tuple[str, asyncio.Event]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = Headers(scope=scope).getlist("idempotency-key") if scope["type"] == "http" else []
        if not keys or scope["method"] not in WRITES or TENANT not in scope:
            await self._app(scope, receive, send)
            return
        if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_KEY_CHARS:
            message = f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} characters, and a request one of them."
            await _refuse(ApiError(400, message, "invalid_value", param="Idempotency-Key"), scope, receive, send)
            return
        messages = await _body(receive)
        receive = replayed(messages, receive)
        if messages[-1]["type"] == "http.disconnect":  # not all of it has come
            await self._app(scope, receive, send)
            return
        keyed = await _keyed(scope, messages, keys[0])
        with _named(Once(f"{keyed.tenant}\0{keyed.key}\0{keyed.request}")):
            if _path(scope) in READS:
                await self._app(scope, receive, send)
            else:
                await self._once(keyed, scope, receive, send)

    async def _once(self, keyed: _Keyed, scope: Scope, receive: Receive, send: Send) -> None:
        place = (keyed.tenant, keyed.key)
        try:
            await self._wait_for_first(keyed)
        except MemoryStoreError as error:
            await _refuse(error, scope, receive, send)
            return
        ended = asyncio.Event()
        self._running[place] = (keyed.request, ended)
        try:
            found = await asyncio.to_thread(
                self._requests.claim,
                keyed.tenant,
                keyed.key,
                keyed.request,
                quotes=keyed.quotes,
                repeatable=keyed.repeatable,
            )
            if isinstance(found, Reply):
                await _replay(found, send)
            else:
                await self._first(found, scope, receive, send)
        except MemoryStoreError as error:
            await _refuse(error, scope, receive, send)
        finally:
            del self._running[place]
            ended.set()

    async def _wait_for_first(self, keyed: _Keyed) -> None:
        """Return when no request with the key is worked on. Raises ``KeyReused``, ``StillRunning``."""
        try:
            async with asyncio.timeout(self._wait_s):
                while (running := self._running.get((keyed.tenant, keyed.key))) is not None:
                    if running[0] != keyed.request:
                        raise KeyReused
                    await running[1].wait()
        except TimeoutError as error:
            raise StillRunning from error

    async def _first(self, own: Ticket, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the request. Its reply is kept before it is sent: who has it can count on it."""
        recorder = _Recorder()
        token = ticket.set(own)
        try:
            await self._app(scope, receive, recorder.take)
        except Exception:
            await self._keep(own, None)
            raise
        finally:
            ticket.reset(token)
        # A cancelled request (the server ends) stays open: a thread of it may go on to write.
        await self._keep(own, recorder.reply)
        await recorder.send(send)

    async def _keep(self, own: Ticket, reply: Reply | None) -> None:
        try:
            if reply is None:
                await asyncio.to_thread(self._requests.fail, own)
            else:
                await asyncio.to_thread(self._requests.finish, own, reply)
        except MemoryStoreError as error:  # what was done stays done: a retry hears that it was cut off
            log.error("the reply to a request with a key cannot be kept: %s", error)


@contextmanager
def _named(name: Once) -> Iterator[None]:
    token = once.set(name)
    try:
        yield
    finally:
        once.reset(token)


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.rstrip("/")


async def _body(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


async def _keyed(scope: Scope, messages: list[Message], key: str) -> _Keyed:
    digest = hashlib.blake2b(digest_size=32)
    for part in (scope["method"], scope["path"], scope.get("query_string", b"").decode("latin-1")):
        digest.update(f"{len(part)}:{part}".encode())
    for message in messages:
        digest.update(message.get("body", b""))
    if BODY_FILE in scope:
        await asyncio.to_thread(_read_file, scope[BODY_FILE], digest)
    return _Keyed(
        scope[TENANT],
        hashlib.blake2b(key.encode(), digest_size=32).hexdigest(),
        digest.hexdigest(),
        # What is said of something that is deleted quotes nothing of it.
        quotes=scope["method"] != "DELETE",
        repeatable=_path(scope) in REPEATABLE,
    )


def _read_file(file: BinaryIO, digest: Any) -> None:
    while part := file.read(_PART):
        digest.update(part)
    file.seek(0)


async def _replay(reply: Reply, send: Send) -> None:
    headers = MutableHeaders({**reply.headers, "content-length": str(len(reply.body)), "idempotency-replayed": "true"})
    await send({"type": "http.response.start", "status": reply.status, "headers": headers.raw})
    await send({"type": "http.response.body", "body": reply.body})


async def _refuse(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    status, body = describe(error)
    headers = {"Retry-After": "1"} if isinstance(error, StillRunning) or status == 503 else None
    await JSONResponse(body, status, headers)(scope, receive, send)
