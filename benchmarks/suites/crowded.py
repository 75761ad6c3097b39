"""Decode beside another process that computes on all cores, and alone, taking turns."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from benchmarks.data.text import tokens_of_text
from benchmarks.support.machine import measured_on
from benchmarks.support.stats import summary
from engine.base import GenerateRequest, Piece, Prompt, Sampling
from engine.transformers import TransformersEngine

_PROMPT_TOKENS = 64
# Another user of PyTorch, with as many threads as there are cores.
_OTHER = "import torch\na = torch.randn(512, 512)\nprint(flush=True)\nwhile True: a = torch.tanh(a @ a)"


async def measure(engine: TransformersEngine, n_tokens: int, repeat: int) -> dict[str, Any]:
    """Time ``repeat`` greedy answers of ``n_tokens`` tokens alone and as many beside the other process, in seconds."""
    prompt = tokens_of_text(lambda text: engine.prompts.tokenize(text, add_special_tokens=False), _PROMPT_TOKENS, 0)
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}
    await _answer(engine, prompt, n_tokens)  # the first pass through a model is slower than those after it
    for _ in range(repeat):
        seconds["alone"].append(await _answer(engine, prompt, n_tokens))
        with another_process():
            seconds["beside"].append(await _answer(engine, prompt, n_tokens))
    found = {kind: asdict(summary(times)) for kind, times in seconds.items()}
    return {
        **measured_on(engine),
        "tokens": n_tokens,
        "repeat": repeat,
        **{f"{kind}_s": times for kind, times in found.items()},
        "ratio": round(found["beside"]["p50"] / found["alone"]["p50"], 3),
        "worst_ratio": round(found["beside"]["max"] / found["alone"]["p50"], 3),
        "steps_down": engine.governor.steps_down,
    }


@contextmanager
def another_process() -> Iterator[None]:
    """Have a process compute on all cores meanwhile."""
    with subprocess.Popen([sys.executable, "-c", _OTHER], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()  # it computes from now on
        try:
            yield
        finally:
            other.kill()


async def _answer(engine: TransformersEngine, prompt: tuple[int, ...], n_tokens: int) -> float:
    sampling = Sampling(max_tokens=n_tokens, temperature=0.0, ignore_eos=True)
    request = GenerateRequest("crowded", Prompt((Piece("turns", prompt),)), sampling, use_segments=False)
    begin = time.perf_counter()
    async for _ in engine.generate(request):
        pass
    return time.perf_counter() - begin
