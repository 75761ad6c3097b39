"""What a busy preloader does to the requests beside it: time to first token with and without it, taking turns."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import numpy as np

from benchmarks.data.text import tokens_of_text
from benchmarks.support.machine import measured_on
from engine.base import GenerateRequest, Piece, Prompt, Sampling, Started
from engine.transformers import TransformersEngine
from kvcache import ModelView
from scheduler.events import EventLog
from scheduler.prediction.preloader import PreloadConfig, Preloader, Wanted

_SEGMENTS, _SEGMENT_TOKENS = 24, 512
_SAMPLING = Sampling(max_tokens=8, temperature=0.0, ignore_eos=True)


async def measure(engine: TransformersEngine, prompt_tokens: int, requests: int) -> dict[str, Any]:
    """``requests`` of each kind, one of each in a pair, first now the one, now the other. They compute their prompt in
    full and arrive at random moments of the preloader's work."""

    def encode(text: str) -> list[int]:
        return engine.prompts.tokenize(text, add_special_tokens=False)

    for i in range(_SEGMENTS):
        await engine.build(
            Prompt((Piece("header", tokens_of_text(encode, _SEGMENT_TOKENS, seed=1000 + i), storable=True),))
        )
    engine.store.demote("disk")
    keys = [entry.key for entry in engine.catalogue.entries()]
    prompts = [Prompt((Piece("turns", tokens_of_text(encode, prompt_tokens, seed=i)),)) for i in range(requests)]
    rng = random.Random(0)
    times: dict[str, list[float]] = {"alone": [], "busy": []}
    await _ask(engine, prompts[0])  # the first pass through a model is slower than those after it
    for i, prompt in enumerate(prompts):
        for kind in ("alone", "busy") if i % 2 else ("busy", "alone"):
            working = asyncio.create_task(_keep_busy(engine, keys)) if kind == "busy" else None
            await asyncio.sleep(0.05 + rng.random() * 0.1)
            times[kind].append(await _ask(engine, prompt))
            if working is not None:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
    p50 = {kind: float(np.median(found)) for kind, found in times.items()}
    ratios = np.array(times["busy"]) / np.array(times["alone"])
    return {
        **measured_on(engine),
        "prompt_tokens": prompt_tokens,
        "requests": requests,
        "ttft_s": {kind: round(value, 4) for kind, value in p50.items()},
        "p95_s": {kind: round(float(np.percentile(found, 95)), 4) for kind, found in times.items()},
        "ratio": round(p50["busy"] / p50["alone"], 4),
        "paired_ratio": round(float(np.median(ratios)), 4),
        "preloads": engine.catalogue.stats().preloads.segments,
    }


async def _keep_busy(engine: TransformersEngine, keys: list[str]) -> None:
    """Preload everything, again and again."""
    preloader = Preloader(
        engine, ModelView(engine.catalogue, engine.fingerprint), PreloadConfig(unused_bytes=1 << 62), EventLog()
    )
    try:
        while True:
            nbytes = engine.catalogue.entries()[0].nbytes
            preloader.offer("bench", [Wanted(key, 0.9, nbytes, time.monotonic() + 60) for key in keys])
            await preloader.settled()
            await asyncio.to_thread(engine.store.demote, "disk")
    finally:
        await preloader.close()


async def _ask(engine: TransformersEngine, prompt: Prompt) -> float:
    begin = time.perf_counter()
    ttft_s = 0.0
    async for event in engine.generate(GenerateRequest("busy", prompt, _SAMPLING, use_segments=False)):
        if isinstance(event, Started):
            ttft_s = time.perf_counter() - begin
    return ttft_s
