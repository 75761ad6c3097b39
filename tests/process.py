"""A server as a process of its own: ``recallkv serve`` on a free port, in float32 whatever the machine would choose."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

# Bfloat16 is the default on CPUs with matrix units for it, and answers differ in its last bits by how a prompt is cut.
FLOAT32 = ("--engine.dtype", "float32")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """A server process with its data in ``data_dir``, and its log beside that."""

    def __init__(self, data_dir: Path, *flags: str, model: str = "demo", port: int | None = None) -> None:
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        environment = {**os.environ, "RECALLKV_DATA_DIR": str(data_dir)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve", model, "--port", str(port), *FLOAT32, *flags],
                env=environment,
                stderr=log,
            )
        while self._health() != 200:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def _health(self) -> int:
        try:
            return httpx.get(f"{self.url}/health").status_code
        except httpx.TransportError:
            return 0

    def stop(self, kind: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end; the exit status."""
        self.process.send_signal(kind)
        return self.process.wait(timeout=60)
