"""A real server in this process: uvicorn on a free port, real parts on a tiny model."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from engine.config import BatchingConfig, CompositionConfig
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import TieredStore
from memory import HashEmbedder, MemoryStore
from server.config import Config, EngineSettings, MemorySettings, ServerSettings
from server.http.deps import Services
from server.run import Server
from server.wiring import assemble


@dataclass
class Running:
    """A serving application, its parts, and a client of it. ``memories`` is the side store behind the services."""

    url: str
    services: Services
    client: httpx.Client
    app: Server
    memories: MemoryStore

    def chat(self, text: str = "hello", **body: Any) -> httpx.Response:
        """A short greedy chat request."""
        messages = [{"role": "user", "content": text}]
        defaults = {"model": "tiny", "messages": messages, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
        return self.client.post("/v1/chat/completions", json={**defaults, **body})

    def let_wait(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        """Have the engine, whichever it is, let at most ``n`` requests wait."""
        engine: Any = self.services.engine
        holder, name = (engine._intake, "max_waiting") if hasattr(engine, "_intake") else (engine, "_max_waiting")
        monkeypatch.setattr(holder, name, n)

    def add(self, text: str, **body: Any) -> dict[str, Any]:
        """Add a memory."""
        reply = self.client.post("/v1/memories", json={"text": text, **body})
        assert reply.status_code == 201, reply.text
        added: dict[str, Any] = reply.json()
        return added

    def flush(self) -> None:
        """Wait until all segments are on disk; vLLM's workers hold none back."""
        if isinstance(self.services.engine, TransformersEngine):
            self.services.engine.store.flush()


def _borrowed(engine: Any) -> Any:
    """Return an engine with the state of ``engine`` that outlasts the server: closing it is not the server's to do."""

    class Borrowed(type(engine)):  # type: ignore[misc]
        async def close(self, drain_s: float = 0.0) -> None:
            """Leave it running."""

    borrowed = Borrowed.__new__(Borrowed)
    borrowed.__dict__ = engine.__dict__
    return borrowed


ENGINE = "transformers"
"""Which engine servers are run with: the option ``--engine``."""


def _transformers(model: LoadedModel, folder: Path) -> Any:
    return TransformersEngine(
        model,
        TieredStore(folder / "segments"),
        model_id="tiny",
        batching=BatchingConfig(16, 128, 32, max_waiting=4),
        composing=CompositionConfig(max_kl=float("inf"), min_saved_tokens=0),
    )


def _vllm() -> Any:
    from tests.vllm.shared import tiny_engine

    return _borrowed(tiny_engine())


def _served(app: uvicorn.Server, listening: socket.socket) -> Callable[[], object]:
    """Serve in the background; returns what waits for the end. vLLM's engine wants to stay on its own loop."""
    if ENGINE == "vllm":
        from tests.vllm.shared import engine_thread

        return asyncio.run_coroutine_threadsafe(app.serve([listening]), engine_thread().loop).result
    thread = threading.Thread(target=app.run, kwargs={"sockets": [listening]})
    thread.start()
    return thread.join


@contextmanager
def running(model: LoadedModel, folder: Path, memory: MemorySettings | None = None, **server: Any) -> Iterator[Running]:
    """Serve ``model`` (or the shared vLLM engine) with its data in ``folder``; keyword arguments are
    ``ServerSettings`` fields."""
    config = Config(
        data_dir=folder,
        server=replace(ServerSettings(port=0, drain_s=5.0), **server),
        engine=EngineSettings(model="tiny"),
        memory=memory or MemorySettings(),
    )
    engine = _vllm() if ENGINE == "vllm" else _transformers(model, folder)
    embedder = HashEmbedder()
    memories = MemoryStore(folder / "memories.sqlite", embedder)
    services = assemble(config, engine, engine.catalogue, memories, embedder)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app = Server(services)
    wait = _served(app, listening)
    while not app.started:
        time.sleep(0.005)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Running(url, services, client, app, memories)
    finally:
        app.should_exit = True
        wait()
        listening.close()
