"""A real server process to measure."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

_START_S = 600.0


class ServerNotStarted(Exception):
    """The server ended, or was not there in time."""


@contextmanager
def started(model: str, folder: Path) -> Iterator[str]:
    """The URL of a server of ``model`` on loopback that is ready, with its data in ``folder``; it ends with the block.
    Raises ``ServerNotStarted``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "serve", model, "--port", str(port), "--log-level", "warning"],
        env={**os.environ, "RECALLKV_DATA_DIR": str(folder)},
    )
    try:
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    begin = time.monotonic()
    while process.poll() is None and time.monotonic() - begin < _START_S:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise ServerNotStarted(f"the server did not start (status {process.poll()})")
