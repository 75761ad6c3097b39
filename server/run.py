"""From settings to a serving process."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
import time

import uvicorn
from transformers.utils import logging as transformers_logging

from server import logs
from server.app import create_app, keys_required
from server.config import Resolved
from server.http.deps import Services
from server.wiring import open_services

log = logging.getLogger(__name__)

# For what was answered last to leave, and for all connections to be closed.
_FLUSH_S, _CLOSE_S = 1.0, 3
_MAX_FILES = 1 << 16


class PortTaken(Exception):
    """The address is in use, or may not be bound to."""


def run(resolved: Resolved) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return 0. Raises the named errors of what cannot be started."""
    begin = time.monotonic()
    config = resolved.config
    logs.set_up(config.server.log_level, config.server.log_format)
    transformers_logging.disable_progress_bar()
    listening = _bind(config.server.host, config.server.port)
    with listening:
        # A stop while the engine is starting must unwind, so that processes it has started end with it.
        signal.signal(signal.SIGTERM, _unwind)
        services = open_services(config)
        offer_first_key(services)
        _allow_connections()
        server = Server(services)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info(
            "serving %s on http://%s:%d after %.1f s", services.chat.served_name, shown, port, time.monotonic() - begin
        )
        server.run([listening])
    return 0


def _unwind(sig: int, frame: object) -> None:
    raise SystemExit(128 + sig)


class Server(uvicorn.Server):
    """uvicorn, which drains while it still listens, and ends with status 0 when it was told to stop."""

    def __init__(self, services: Services) -> None:
        settings = services.config.server
        super().__init__(
            uvicorn.Config(
                create_app(services),
                log_config=None,
                lifespan="on",
                timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # any number of seconds will do
                timeout_graceful_shutdown=_CLOSE_S,
                server_header=False,
            )
        )
        self._services = services
        self._hurry = False

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to drain. A second SIGINT ends that at once, a third one the process."""
        # uvicorn would raise the signal again when it is done; a drained server ends with status 0 instead.
        if self.should_exit and sig == signal.SIGINT:
            self._hurry = True
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._services.draining = True
        self.should_exit = True

    async def main_loop(self) -> None:
        """Serve until told to stop, then drain."""
        await super().main_loop()
        self._services.draining = True
        settings, requests = self._services.config.server, self._services.requests
        ticking = asyncio.create_task(self._tick())
        try:
            await requests.drain(settings.drain_s, settings.drain_min_s, lambda: self._hurry)
        finally:
            ticking.cancel()
        if requests.broken or len(requests):
            log.warning("%d requests were broken off", requests.broken + len(requests))

    async def _tick(self) -> None:
        """Keep the date of the answers right."""
        while True:
            await self.on_tick(0)
            await asyncio.sleep(1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections and the services, and see to it that the process ends."""
        asyncio.get_running_loop().call_later(_FLUSH_S, self._abort)
        await super().shutdown(sockets)

    def _abort(self) -> None:
        """Close the connections whose clients do not read what they are sent."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _allow_connections() -> None:
    """Raise the number of open files as far as it may be: an idle connection is one, and many systems begin at 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


def offer_first_key(services: Services) -> None:
    """Make a key and show it, this once, if keys are needed and there is none."""
    if keys_required(services) and not services.keys.all():
        key = services.keys.create("default", "first")
        print(f"API key (shown only now): {key}", file=sys.stderr, flush=True)
