"""Small benchmarks under pytest-benchmark, to compare a change with the last saved run: ``make bench``."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.support.engines import open_engine
from engine.base import GenerateRequest, Piece, Prompt, Sampling
from kvcache import Fingerprint, Layout, Segment, TieredStore, read_segment, root_key, write_segment

LAYOUT = Layout(layers=30, kv_heads=3, head_dim=64, dtype="float32")
FINGERPRINT = Fingerprint("weights", "config", "tokenizer", "template", "full-causal", LAYOUT)
TINY = Fingerprint("weights", "config", "tokenizer", "template", "full-causal", Layout(1, 1, 1, "float32"))


def _segment(fingerprint: Fingerprint, tokens: range, after: Segment | None = None) -> Segment:
    shape = fingerprint.layout.shape(len(tokens))
    parent = root_key(fingerprint) if after is None else after.key
    start = 0 if after is None else after.end
    return Segment.chained(parent, fingerprint, start, tokens, torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("n_tokens", [64, 1024])
def test_write(benchmark: BenchmarkFixture, tmp_path: Path, n_tokens: int) -> None:
    segment = _segment(FINGERPRINT, range(n_tokens))
    benchmark(write_segment, tmp_path / "segment.safetensors", segment)


@pytest.mark.parametrize("n_tokens", [64, 1024])
def test_read(benchmark: BenchmarkFixture, tmp_path: Path, n_tokens: int) -> None:
    write_segment(tmp_path / "segment.safetensors", _segment(FINGERPRINT, range(n_tokens)))
    segment = benchmark(read_segment, tmp_path / "segment.safetensors", FINGERPRINT)
    assert segment.n_tokens == n_tokens


def test_match_among_ten_thousand(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """A chain of ten memories behind a header that ten thousand others stand behind as well."""
    store = TieredStore(tmp_path, fsync=False)
    header = _segment(TINY, range(20))
    store.put(header)
    for i in range(10_000):
        store.put(_segment(TINY, range(1000 + i, 1000 + i + 20 + i % 40), header))
    last = header
    for i in range(10):
        last = _segment(TINY, range(50_000 + 40 * i, 50_000 + 40 * i + 40), last)
        store.put(last)
    tokens = [*range(20), *range(50_000, 50_400), 7, 8, 9]
    matched = benchmark(store.catalogue.match, root_key(TINY), tokens)
    assert len(matched) == 11
    store.close()


# -- the engine, on the demo model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Prompt, bool], None]]:
    """Runs a prompt to its first token, with what is stored or without."""
    engine = open_engine("demo", tmp_path_factory.mktemp("segments"))
    loop = asyncio.new_event_loop()

    async def first_token(prompt: Prompt, use_segments: bool) -> None:
        sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
        async for _ in engine.generate(GenerateRequest("bench", prompt, sampling, use_segments=use_segments)):
            pass

    yield lambda prompt, use_segments: loop.run_until_complete(first_token(prompt, use_segments))
    loop.run_until_complete(engine.close())
    loop.close()


CONTEXT = Piece("header", tuple(100 + i % 30_000 for i in range(512)), storable=True)


def _asked(number: int) -> Prompt:
    return Prompt((CONTEXT, Piece("turns", tuple(200 + (64 * number + i) % 30_000 for i in range(64)))))


def test_direct_prefill(benchmark: BenchmarkFixture, ask: Callable[[Prompt, bool], None]) -> None:
    numbers = itertools.count()
    benchmark(lambda: ask(_asked(next(numbers)), False))


def test_resident(benchmark: BenchmarkFixture, ask: Callable[[Prompt, bool], None]) -> None:
    ask(_asked(9999), True)
    numbers = itertools.count()
    benchmark(lambda: ask(_asked(next(numbers)), True))
