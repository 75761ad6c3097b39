"""Continuous batching: tokens per second of one stream and of eight, and a ninth request's first token.

The two are measured in turn, round by round, and medians are compared.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.data.text import tokens_of_text
from benchmarks.support.machine import measured_on
from benchmarks.support.stats import summary
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling
from engine.transformers import TransformersEngine


@dataclass(frozen=True)
class _Stream:
    ttft_s: float
    ended_at: float


async def _stream(engine: TransformersEngine, seed: int, n_tokens: int) -> _Stream:
    tokens = tokens_of_text(lambda text: engine.prompts.tokenize(text, add_special_tokens=False), 64, seed)
    sampling = Sampling(max_tokens=n_tokens, temperature=0.0, ignore_eos=True)
    request = GenerateRequest(f"stream-{seed}", Prompt((Piece("turns", tokens),)), sampling, use_segments=False)
    begin, first = time.perf_counter(), 0.0
    async for event in engine.generate(request):
        if isinstance(event, Delta) and not first:
            first = time.perf_counter()
    return _Stream(first - begin, time.perf_counter())


async def _tokens_per_second(engine: TransformersEngine, n_streams: int, n_tokens: int, seed: int) -> float:
    begin = time.perf_counter()
    await asyncio.gather(*[_stream(engine, seed + i, n_tokens) for i in range(n_streams)])
    return n_streams * n_tokens / (time.perf_counter() - begin)


async def _ninth(engine: TransformersEngine, n_streams: int, n_tokens: int, seed: int) -> dict[str, float | bool]:
    """A request that arrives while ``n_streams`` are decoding."""
    streams = [asyncio.create_task(_stream(engine, seed + i, n_tokens)) for i in range(n_streams)]
    while engine.capacity().running < n_streams and not any(stream.done() for stream in streams):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    arrived = time.perf_counter()
    ninth = await _stream(engine, seed + n_streams, 1)
    others = await asyncio.gather(*streams)
    first_end_s = min(stream.ended_at for stream in others) - arrived
    return {
        "ttft_s": round(ninth.ttft_s, 6),
        "first_other_ended_after_s": round(first_end_s, 6),
        "before_any_ended": ninth.ttft_s < first_end_s,
    }


async def measure(engine: TransformersEngine, n_streams: int, n_tokens: int, repeat: int) -> dict[str, Any]:
    """The result as JSON-able data."""
    one: list[float] = []
    many: list[float] = []
    await _tokens_per_second(engine, n_streams, 8, seed=1)  # warm-up
    for round_ in range(repeat):
        one.append(await _tokens_per_second(engine, 1, n_tokens, seed=1000 * round_))
        many.append(await _tokens_per_second(engine, n_streams, n_tokens, seed=1000 * round_ + 1))
    return {
        **measured_on(engine),
        "streams": n_streams,
        "tokens_each": n_tokens,
        "tokens_per_s": {"1": summary(one).p50, str(n_streams): summary(many).p50},
        "ratio": round(summary(many).p50 / summary(one).p50, 3),
        "next_request": await _ninth(engine, n_streams, n_tokens, seed=999_000),
    }
