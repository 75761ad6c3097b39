"""One vLLM engine for many tests: it lives on an event loop of its own and outlasts the servers that use it."""

from __future__ import annotations

import asyncio
import functools
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from engine.config import BatchingConfig, CompositionConfig, EngineConfig, VllmConfig
from engine.vllm.engine import VllmEngine
from engine.vllm.loading import load_vllm_engine
from kvcache import StoreConfig
from server.assets import demo_model_folder
from tests.tiny import tiny_network, tiny_tokenizer

T = TypeVar("T")
TINY: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the smallest that vLLM's CPU attention has
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "initializer_range": 0.15,
}


class EngineThread:
    """Runs coroutines on a loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="vllm-loop", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = 300) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)


@functools.cache
def tiny_checkpoint() -> Path:
    """The tiny model as a folder of files."""
    folder = Path(tempfile.mkdtemp(prefix="recallkv-tiny-"))
    tiny_network(**TINY).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@functools.cache
def engine_thread() -> EngineThread:
    return EngineThread()


def start(model: Path, folder: Path, *flags: str, model_id: str = "tiny", **settings: Any) -> VllmEngine:
    """A running engine with its segments in ``folder``; in float32 unless told otherwise, as on most CPUs. Keyword
    arguments are ``EngineConfig`` fields."""
    config = EngineConfig(
        model,
        model_id,
        **{"dtype": "float32", **settings},
        composing=CompositionConfig(max_kl=float("inf"), min_saved_tokens=0),
        vllm=VllmConfig(flags),
    )

    async def load() -> VllmEngine:
        return load_vllm_engine(config, StoreConfig(folder, device_bytes=1 << 30, host_bytes=500_000_000))

    return engine_thread().run(load())


_open: list[VllmEngine] = []


def keep_open(engine: VllmEngine) -> VllmEngine:
    """The engine, to be closed at the end of the session."""
    _open.append(engine)
    return engine


def close_all() -> None:
    """At the end of the session: every engine has processes."""
    while _open:
        engine_thread().run(_open.pop().close())


@functools.cache
def tiny_engine() -> VllmEngine:
    """The tiny model in vLLM, started once."""
    batching = BatchingConfig(max_waiting=4)
    return keep_open(start(tiny_checkpoint(), Path(tempfile.mkdtemp(prefix="recallkv-segments-")), batching=batching))


@functools.cache
def demo_engine() -> VllmEngine:
    """The demo model in vLLM, started once."""
    return keep_open(start(demo_model_folder(), Path(tempfile.mkdtemp(prefix="recallkv-segments-")), model_id="demo"))
