"""Time to first token with the context's KV computed, resident, in host memory and on disk, in one run.

Each round measures every mode once, one after the other, with the same fresh query, so that whatever else the
machine does hits all modes alike; medians over the rounds are compared. The floor is the bare forward pass of
the query over an already resident cache: no engine, no queue, no sampling.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.data.text import tokens_of_text
from benchmarks.support.machine import measured_on
from benchmarks.support.stats import Summary, summary
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling, Started
from engine.transformers import ModelRunner, SequenceKV, TransformersEngine, Work
from kvcache import root_key
from kvcache.files.folder import SegmentFolder

Mode = Literal["text", "resident", "host", "disk"]
MODES: tuple[Mode, ...] = ("text", "resident", "host", "disk")
_COMPARED_TOKENS = 16


@dataclass(frozen=True)
class Row:
    """One mode at one context length. Times are in seconds."""

    mode: Mode
    context_tokens: int
    query_tokens: int
    ttft_s: Summary
    ratio_to_text: float
    floor_s: float
    ratio_to_floor: float
    outputs_equal: bool
    load_s: float


@dataclass
class _Samples:
    ttft: dict[Mode, list[float]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    load: dict[Mode, list[float]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    equal: dict[Mode, list[bool]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    floor: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Answer:
    ttft_s: float
    load_s: float
    token_ids: tuple[int, ...]


async def measure(
    engine: TransformersEngine, folder: Path, contexts: Sequence[int], query_tokens: int, repeat: int
) -> dict[str, Any]:
    """The result as JSON-able data. ``folder`` is the engine's segment folder, whose files are dropped from the
    page cache before each read from disk."""
    rows: list[Row] = []
    for n_context in contexts:
        samples = await _measure_context(engine, folder, n_context, query_tokens, repeat)
        rows.extend(_rows(samples, n_context, query_tokens))
    return {
        **measured_on(engine),
        "repeat": repeat,
        "rows": [asdict(row) for row in rows],
    }


async def _measure_context(
    engine: TransformersEngine, folder: Path, n_context: int, n_query: int, repeat: int
) -> _Samples:
    def encode(text: str) -> list[int]:
        return engine.prompts.tokenize(text, add_special_tokens=False)

    context = Piece("header", tokens_of_text(encode, n_context, seed=n_context), storable=True)
    await engine.build(Prompt((context,)))
    engine.store.flush()
    samples = _Samples()
    for round_ in range(repeat + 1):
        query = Piece("turns", tokens_of_text(encode, n_query, seed=-1 - round_))
        measured = _Samples() if round_ == 0 else samples  # the first round warms up
        await _measure_round(engine, folder, Prompt((context, query)), measured)
        measured.floor.append(await _floor(engine, context, query))
    return samples


async def _measure_round(engine: TransformersEngine, folder: Path, prompt: Prompt, samples: _Samples) -> None:
    expected: tuple[int, ...] = ()
    for mode in MODES:
        if mode in ("host", "disk"):
            engine.store.demote("host" if mode == "host" else "disk")
        if mode == "disk":
            drop_page_cache(folder)
        answer = await _ask(engine, prompt, mode)
        expected = answer.token_ids if mode == "text" else expected
        samples.ttft[mode].append(answer.ttft_s)
        samples.load[mode].append(answer.load_s)
        samples.equal[mode].append(answer.token_ids == expected)


async def _ask(engine: TransformersEngine, prompt: Prompt, mode: Mode) -> _Answer:
    sampling = Sampling(max_tokens=_COMPARED_TOKENS, temperature=0.0, ignore_eos=True)
    request = GenerateRequest(f"bench-{mode}", prompt, sampling, use_segments=mode != "text")
    begin = time.perf_counter()
    ttft_s = load_s = 0.0
    tokens: list[int] = []
    async for event in engine.generate(request):
        if isinstance(event, Started):
            load_s = event.load_s
            source = event.pieces[0].source
            assert source == ("computed" if mode == "text" else mode), f"{mode} was served from {source}"
        elif isinstance(event, Delta):
            ttft_s = ttft_s or time.perf_counter() - begin
            tokens.extend(event.token_ids)
    return _Answer(ttft_s, load_s, tuple(tokens))


async def _floor(engine: TransformersEngine, context: Piece, query: Piece) -> float:
    """Seconds of one forward pass of the query over the resident context, on the engine's own thread."""
    model = engine.model
    (entry,) = engine.catalogue.match(root_key(model.fingerprint), context.token_ids)
    kv = SequenceKV(model.fingerprint.layout, model.device, len(query.token_ids))
    kv.inject(engine.store.load(entry.key, model.fingerprint).segment, min_span=1)

    def forward(runner: ModelRunner) -> float:
        begin = time.perf_counter()
        runner.forward([Work(kv, query.token_ids)])
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter() - begin

    return await engine.on_model(forward)


def drop_page_cache(folder: Path) -> None:
    """Make the next read of every segment file come from the drive."""
    for path in SegmentFolder(folder).files():
        drop_cached(path)


def drop_cached(path: Path) -> None:
    """Make the next read of a file come from the drive. Needs no privilege; the file is clean afterwards."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read_raw(path: Path, buffer: bytearray) -> float:
    """Seconds that plain sequential reads of a file take."""
    begin = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while os.readv(descriptor, [buffer]):
            pass
    finally:
        os.close(descriptor)
    return time.perf_counter() - begin


def _rows(samples: _Samples, n_context: int, n_query: int) -> list[Row]:
    floor_s = summary(samples.floor).p50
    text_s = summary(samples.ttft["text"]).p50
    rows = []
    for mode in MODES:
        ttft_s = summary(samples.ttft[mode])
        rows.append(
            Row(
                mode=mode,
                context_tokens=n_context,
                query_tokens=n_query,
                ttft_s=ttft_s,
                ratio_to_text=round(ttft_s.p50 / text_s, 4),
                floor_s=floor_s,
                ratio_to_floor=round(ttft_s.p50 / floor_s, 4),
                outputs_equal=all(samples.equal[mode]),
                load_s=summary(samples.load[mode]).p50,
            )
        )
    return rows
