"""From settings to a serving process."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time

import uvicorn
from transformers.utils import logging as transformers_logging

from server import logs
from server.app import create_app, keys_required
from server.config import Resolved
from server.services import Services, open_services

log = logging.getLogger(__name__)


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
        server = _Server(
            uvicorn.Config(
                create_app(services),
                log_config=None,
                lifespan="on",
                timeout_graceful_shutdown=max(1, round(config.server.drain_s)),
                server_header=False,
            ),
            services,
        )
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info(
            "serving %s on http://%s:%d after %.1f s", services.chat.served_name, shown, port, time.monotonic() - begin
        )
        server.run([listening])
    return 0


def _unwind(sig: int, frame: object) -> None:
    raise SystemExit(128 + sig)


class _Server(uvicorn.Server):
    """Says that it drains as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: object) -> None:
        # uvicorn would raise the signal again when it is done; a drained server ends with status 0 instead.
        self._services.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


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
    """Where keys are needed and there is none, make one and show it, this once."""
    if keys_required(services) and not services.memories.keys.all():
        key = services.memories.keys.create("default", "first")
        print(f"API key (shown only now): {key}", file=sys.stderr, flush=True)
