"""``recallkv serve`` as a process, and clients of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.process import ServerProcess
from tests.tiny import tiny_network, tiny_tokenizer

# What makes a tiny model start in a few seconds.
QUICK = ("--embedder", "hash", "--engine.native", "false", "--cache.weigh_loading", "false")


def saved_tiny_model(folder: Path) -> str:
    """The tiny model in a folder, with a context of 65,536 tokens: long enough to be broken off in."""
    tiny_network(max_position_embeddings=1 << 16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


class Process(ServerProcess):
    """A server process and clients of it."""

    def __init__(self, data_dir: Path, *flags: str, model: str = "demo", port: int | None = None) -> None:
        super().__init__(data_dir, *flags, model=model, port=port)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def add(self, text: str) -> str:
        return str(httpx.post(f"{self.url}/v1/memories", json={"text": text}).raise_for_status().json()["id"])

    def ask(self, question: str, *, max_tokens: int = 24, **memory: Any) -> Any:
        return self.openai.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=max_tokens,
            extra_body={"memory": memory},
        )


@contextmanager
def serving(data_dir: Path, *flags: str, model: str = "demo") -> Iterator[Process]:
    """A server process with these flags, which is killed if it is still there at the end."""
    server = Process(data_dir, *flags, model=model)
    try:
        yield server
    finally:
        server.openai.close()
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)
