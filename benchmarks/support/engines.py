"""An engine to measure on, opened and closed with the measurement."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import torch

from engine.config import CompositionConfig, EngineConfig, TransformersConfig
from engine.transformers import TransformersEngine, load_engine, use_one_thread
from kvcache import StoreConfig
from server.assets import demo_model_folder


def source_of(model: str) -> str | Path:
    """Find the folder of the demo model; any other name is an id or a folder itself."""
    return demo_model_folder() if model == "demo" else model


def open_engine(
    model: str,
    folder: Path,
    composing: CompositionConfig = EngineConfig.composing,
    *,
    adapt_threads: bool = True,
    dtype: str = EngineConfig.dtype,
) -> TransformersEngine:
    """Open an engine with its segments in ``folder`` and budgets that hold everything a benchmark stores."""
    budget = 64 << 30
    own = TransformersConfig(adapt_threads=adapt_threads, weigh_loading=False)
    return load_engine(
        EngineConfig(source_of(model), model, dtype=dtype, composing=composing, transformers=own),
        StoreConfig(folder, device_bytes=budget, host_bytes=budget, disk_bytes=budget),
    )


def on_engine(
    model: str,
    measure: Callable[[TransformersEngine, Path], Awaitable[dict[str, Any]]],
    composing: CompositionConfig = EngineConfig.composing,
    *,
    adapt_threads: bool = True,
    dtype: str = EngineConfig.dtype,
) -> dict[str, Any]:
    """Measure with an engine of its own, whose segments lie in a folder that goes with it."""

    async def run(folder: Path) -> dict[str, Any]:
        threads = torch.get_num_threads()
        engine = open_engine(model, folder, composing, adapt_threads=adapt_threads, dtype=dtype)
        use_one_thread()  # as in the server
        try:
            result = await measure(engine, folder)
        finally:
            torch.set_num_threads(threads)
            await engine.close()
        result["machine"]["threads"] = threads
        return result

    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        return asyncio.run(run(Path(folder)))
