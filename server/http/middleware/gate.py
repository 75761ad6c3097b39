"""The gate: the host check, and the key that says whose tenant a request is."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from memory.keys import PREFIX as KEY_PREFIX
from server.http.middleware.answers import header, refuse

OPEN_PATHS = ("/health", "/health/live", "/health/ready")
DEFAULT_TENANT = "default"
TENANT = "recallkv.tenant"


def is_loopback(host: str) -> bool:
    """Tell if an address to bind to, or a Host header, names this machine only."""
    name = host.rpartition(":")[0] if re.fullmatch(r"[^:]+:\d+|\[.*\]:\d+", host) else host
    name = name.strip("[]")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _key(scope: Scope) -> str:
    """Return the key that a request carries: ``Authorization: Bearer KEY`` (or ``Token KEY``, as other memory servers'
    clients say), else ``X-API-Key: KEY``. Empty when there is none."""
    scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return key.strip()
    return (header(scope, b"x-api-key") or "").strip()


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
