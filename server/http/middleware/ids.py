"""An id for each request, in its reply and in the log; requests are counted there too."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.middleware.answers import header
from server.logs import request_id

REQUEST_ID = "recallkv.request_id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

CountRequest = Callable[[str, str, int], None]


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
