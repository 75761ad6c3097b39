"""Sixteen requests at once under vLLM, half of them mostly stored: throughput and waits, with and without connector.

Both engines get the same requests in the same order, a miss before each hit, after a warm-up; the stored halves lie on
disk, and nothing is in vLLM's own cache. Rounds use fresh prompts.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.data.text import tokens_of_text
from benchmarks.support.machine import manifest
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling, Started
from engine.config import EngineConfig, VllmConfig
from engine.vllm.engine import VllmEngine
from engine.vllm.loading import load_vllm_engine
from kvcache import StoreConfig

HITS = MISSES = 8
_STORED, _NEW, _QUERY, _TOKENS = 512, 512, 32, 32


async def measure(model: str | Path, folder: Path, rounds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """The result as JSON-able data; segments are written below ``folder``."""
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    found = {}
    for name in ("vllm", "connector"):
        report(name)
        engine = load_vllm_engine(
            EngineConfig(model, "demo", vllm=VllmConfig(composes=False, plain=name == "vllm")),
            StoreConfig(folder, host_bytes=10**9),
        )
        try:
            samples = [await _round(engine, i, stored=name == "connector") for i in range(rounds + 1)][1:]
        finally:
            await engine.close()
        found[name] = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
    ratio = found["connector"]["tokens_per_s"] / found["vllm"]["tokens_per_s"]
    return {
        "machine": manifest(torch.device("cpu"), "float32"),
        "model": "demo",
        "hits": HITS,
        "misses": MISSES,
        "stored_tokens": _STORED,
        "new_tokens": _NEW,
        "rounds": rounds,
        "throughput_ratio": round(ratio, 3),
        **{name: {key: round(value, 4) for key, value in values.items()} for name, values in found.items()},
    }


async def _round(engine: VllmEngine, round_: int, *, stored: bool) -> dict[str, float]:
    def text(n: int, seed: int) -> tuple[int, ...]:
        return tokens_of_text(lambda t: engine.prompts.tokenize(t, add_special_tokens=False), n, seed)

    contexts = [Piece("header", text(_STORED, 100 * round_ + i), storable=True) for i in range(HITS)]
    if stored:
        for context in contexts:
            await engine.build(Prompt((context,)))
        await engine.llm.collective_rpc("recallkv_drop_host_tier")
    await engine.llm.reset_prefix_cache()
    hits = [Prompt((c, Piece("turns", text(_QUERY, 100 * round_ + 50 + i)))) for i, c in enumerate(contexts)]
    misses = [Prompt((Piece("turns", text(_NEW + _QUERY, 100 * round_ + 70 + i)),)) for i in range(MISSES)]
    begin = time.perf_counter()
    asked = [_ask(engine, prompt) for pair in zip(misses, hits, strict=True) for prompt in pair]
    waits = await asyncio.gather(*asked)
    elapsed = time.perf_counter() - begin
    return {
        "tokens_per_s": len(asked) * _TOKENS / elapsed,
        "hit_ttft_p50_s": statistics.median(waits[1::2]),
        "hit_ttft_max_s": max(waits[1::2]),
        "miss_ttft_p50_s": statistics.median(waits[0::2]),
        "miss_ttft_max_s": max(waits[0::2]),
    }


async def _ask(engine: VllmEngine, prompt: Prompt) -> float:
    """Seconds to the first token."""
    sampling = Sampling(max_tokens=_TOKENS, temperature=0.0, ignore_eos=True)
    begin, ttft_s = time.perf_counter(), 0.0
    async for event in engine.generate(GenerateRequest("bench", prompt, sampling)):
        if isinstance(event, Delta | Started) and not ttft_s:
            ttft_s = time.perf_counter() - begin
    return ttft_s
