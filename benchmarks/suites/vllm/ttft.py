"""Time to first token under vLLM: its own prefill and prefix cache beside segments from host memory and from disk.

Three parts of one run. vLLM without a connector: prefill, and a prefix hit in its memory. With the connector, taking
turns in every round: prefill of the same prompt, a prefix hit, the host tier, and the disk with the page cache dropped.
Then restarts: a new process each time, one unrelated request to have it warm, and then the first request over each of
two contexts, one whose file is in the page cache (as after a restart of the server) and one whose file is not (as after
a restart of the machine). The raw read is what plain sequential reads give in the same run: beside ``disk`` of the same
file, after restarts of another one in the same state, because drives have caches of their own. Rented drives also
have budgets: before whatever is read from the drive, there is a rest.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.data.text import tokens_of_text
from benchmarks.suites.ttft import drop_page_cache, read_raw
from benchmarks.support.machine import manifest
from benchmarks.support.stats import Summary, summary
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling, Started
from engine.config import EngineConfig, VllmConfig
from engine.vllm.engine import VllmEngine
from engine.vllm.loading import load_vllm_engine
from kvcache import StoreConfig, chain_key, root_key
from kvcache.files.folder import SegmentFolder

_TOKENS = 16
_BUFFER = 16 << 20
_REST_S = 3.0
MODES = ("text", "resident", "host", "disk")


@dataclass(frozen=True)
class Row:
    """One mode. ``ratio_to_text`` and ``ratio_to_resident`` are to the same engine's own prefill and to its prefix hit
    (of the rows without a connector: to those without one). Times in seconds."""

    mode: str
    context_tokens: int
    query_tokens: int
    ttft_s: Summary
    ratio_to_text: float
    ratio_to_resident: float
    load_s: float
    outputs_equal: bool


@dataclass
class _Samples:
    ttft: dict[str, list[float]] = field(default_factory=dict)
    load: dict[str, list[float]] = field(default_factory=dict)
    equal: dict[str, list[bool]] = field(default_factory=dict)
    raw: dict[str, list[float]] = field(default_factory=dict)
    resident: dict[str, list[float]] = field(default_factory=dict)
    """The prefix hits that were measured beside a mode, in the same process."""

    def add(self, mode: str, answer: _Answer, expected: tuple[int, ...]) -> None:
        self.ttft.setdefault(mode, []).append(answer.ttft_s)
        self.load.setdefault(mode, []).append(answer.load_s)
        self.equal.setdefault(mode, []).append(answer.token_ids == expected)


@dataclass(frozen=True)
class _Answer:
    ttft_s: float
    load_s: float
    source: str
    token_ids: tuple[int, ...]


@dataclass
class _Bench:
    model: str | Path
    folder: Path
    n_context: int
    n_query: int
    report: Callable[[str], None]
    samples: _Samples = field(default_factory=_Samples)
    queries: int = 0
    encode: Callable[[str], list[int]] = field(default=lambda text: [])

    def start(self, *, plain: bool) -> VllmEngine:
        engine = load_vllm_engine(
            EngineConfig(self.model, "demo", vllm=VllmConfig(composes=False, plain=plain)),
            StoreConfig(self.folder, host_bytes=10**9),
        )
        self.encode = lambda text: engine.prompts.tokenize(text, add_special_tokens=False)
        return engine

    def context(self, which: int) -> Piece:
        return Piece("header", tokens_of_text(self.encode, self.n_context, seed=1000 + which), storable=True)

    def query(self) -> Piece:
        self.queries += 1
        return Piece("turns", tokens_of_text(self.encode, self.n_query, seed=-self.queries))

    async def warm(self, engine: VllmEngine) -> None:
        """One request that has nothing to do with what is measured."""
        await _ask(engine, Prompt((Piece("turns", tokens_of_text(self.encode, 200, seed=7)),)), segments=False)

    async def plain(self, rounds: int) -> None:
        engine = self.start(plain=True)
        try:
            await self.warm(engine)
            for round_ in range(rounds):
                self.report(f"vLLM without a connector, round {round_ + 1}")
                context, query = self.context(10 + round_), self.query()
                first = await _ask(engine, Prompt((context, query)), segments=True)
                again = await _ask(engine, Prompt((context, self.query())), segments=True)
                self.samples.add("vllm: prefill", first, first.token_ids)
                self.samples.add("vllm: prefix cache", again, again.token_ids)
        finally:
            await engine.close()

    async def connected(self, rounds: int) -> None:
        engine = self.start(plain=False)
        try:
            contexts = [self.context(which) for which in range(3)]
            for context in contexts:
                await engine.build(Prompt((context,)))
            await self.warm(engine)
            for round_ in range(rounds + 1):
                self.report(f"with the connector, round {round_}")
                await self._round(engine, contexts[0], keep=round_ > 0)
        finally:
            await engine.close()

    async def _round(self, engine: VllmEngine, context: Piece, *, keep: bool) -> None:
        prompt = Prompt((context, self.query()))
        samples = self.samples if keep else _Samples()  # the first round warms up
        expected: tuple[int, ...] = ()
        for mode in MODES:
            await self._prepare(engine, context, mode)
            answer = await _ask(engine, prompt, segments=mode != "text")
            assert answer.source == {"text": "computed"}.get(mode, mode), f"{mode} was served from {answer.source}"
            expected = expected or answer.token_ids
            samples.add(mode, answer, expected)
        await self._rest()
        samples.raw.setdefault("disk", []).append(self._raw(engine, context))

    async def _prepare(self, engine: VllmEngine, context: Piece, mode: str) -> None:
        await engine.llm.reset_prefix_cache()
        if mode == "resident":  # another question brings the context into vLLM's cache
            await _ask(engine, Prompt((context, self.query())), segments=True)
        if mode == "disk":
            await engine.llm.collective_rpc("recallkv_drop_host_tier")
            await self._rest()

    async def _rest(self) -> None:
        drop_page_cache(self.folder)
        await asyncio.sleep(_REST_S)

    async def restarts(self, times: int) -> None:
        for round_ in range(times):
            self.report(f"restart {round_ + 1}")
            engine = self.start(plain=False)
            try:
                await self.warm(engine)
                for which, mode in enumerate(("restart", "restart, page cache dropped")):
                    context = self.context(which)
                    if which:
                        await self._rest()
                    else:
                        _read_files(self.folder)
                    self.samples.raw.setdefault(mode, []).append(self._raw(engine, self.context(2)))
                    if which:
                        await self._rest()
                    answer = await _ask(engine, Prompt((context, self.query())), segments=True)
                    assert answer.source == "disk", f"after a restart served from {answer.source}"
                    self.samples.add(mode, answer, answer.token_ids)
                    hit = await _ask(engine, Prompt((context, self.query())), segments=True)
                    assert hit.source == "resident", f"a prefix hit was served from {hit.source}"
                    self.samples.resident.setdefault(mode, []).append(hit.ttft_s)
            finally:
                await engine.close()

    def _raw(self, engine: VllmEngine, context: Piece) -> float:
        """Seconds to read one context's file."""
        key = chain_key(root_key(engine.fingerprint), context.token_ids)
        return read_raw(SegmentFolder(self.folder).path_of(key), bytearray(_BUFFER))


async def measure(
    model: str | Path,
    folder: Path,
    n_context: int,
    n_query: int,
    rounds: int,
    restarts: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """The result as JSON-able data; segments are written below ``folder``."""
    # Without a connector vLLM gives one core less to the model; both get all.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    bench = _Bench(model, folder, n_context, n_query, report)
    await bench.plain(rounds)
    await bench.connected(rounds)
    await bench.restarts(restarts)
    (path, *_) = SegmentFolder(folder).files()
    nbytes = path.stat().st_size
    return {
        "machine": manifest(torch.device("cpu"), "float32") | {"vllm": _vllm_version()},
        "model": "demo",
        "rounds": rounds,
        "restarts": restarts,
        "file_mb": round(nbytes / 1e6, 1),
        "raw_read_s": {mode: asdict(summary(seconds)) for mode, seconds in bench.samples.raw.items()},
        "resident_beside_s": {mode: asdict(summary(found)) for mode, found in bench.samples.resident.items()},
        "rows": [asdict(row) for row in _rows(bench)],
    }


def _vllm_version() -> str:
    import vllm

    version: str = vllm.__version__
    return version


def _read_files(folder: Path) -> None:
    """Have the files in the page cache."""
    for path in SegmentFolder(folder).files():
        read_raw(path, bytearray(_BUFFER))


async def _ask(engine: VllmEngine, prompt: Prompt, *, segments: bool) -> _Answer:
    sampling = Sampling(max_tokens=_TOKENS, temperature=0.0, ignore_eos=True)
    request = GenerateRequest("bench", prompt, sampling, use_segments=segments)
    begin = time.perf_counter()
    ttft_s, load_s, source = 0.0, 0.0, ""
    tokens: list[int] = []
    async for event in engine.generate(request):
        if isinstance(event, Started):
            load_s, source = event.load_s, event.pieces[0].source
        elif isinstance(event, Delta):
            ttft_s = ttft_s or time.perf_counter() - begin
            tokens.extend(event.token_ids)
    return _Answer(ttft_s, load_s, source, tuple(tokens))


def _rows(bench: _Bench) -> list[Row]:
    samples = bench.samples
    rows = []
    for mode, seconds in samples.ttft.items():
        plain = mode.startswith("vllm:")
        text = summary(samples.ttft["vllm: prefill" if plain else "text"]).p50
        beside = samples.resident.get(mode) or samples.ttft["vllm: prefix cache" if plain else "resident"]
        ttft_s = summary(seconds)
        rows.append(
            Row(
                mode=mode,
                context_tokens=bench.n_context,
                query_tokens=bench.n_query,
                ttft_s=ttft_s,
                ratio_to_text=round(ttft_s.p50 / text, 4),
                ratio_to_resident=round(ttft_s.p50 / summary(beside).p50, 4),
                load_s=summary(samples.load[mode]).p50,
                outputs_equal=all(samples.equal[mode]),
            )
        )
    return rows
