"""The benchmarks run, on a tiny model, and write what they say they write."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from benchmarks.data.text import tokens_of_text
from benchmarks.report.plot import plot_ttft
from benchmarks.suites import streams, ttft
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import TieredStore


def test_ttft(model: LoadedModel, tmp_path: Path) -> None:
    async def run() -> dict[str, object]:
        engine = TransformersEngine(model, TieredStore(tmp_path / "segments"), model_id="tiny")
        try:
            return await ttft.measure(engine, tmp_path / "segments", [300, 600], 16, 2)
        finally:
            await engine.close()

    result = json.loads(json.dumps(asyncio.run(run())))
    assert [(row["context_tokens"], row["mode"]) for row in result["rows"]] == [
        (context, mode) for context in (300, 600) for mode in ttft.MODES
    ]
    for row in result["rows"]:
        assert row["outputs_equal"]
        assert row["query_tokens"] == 16
        assert 0 < row["ttft_s"]["min"] <= row["ttft_s"]["p50"] <= row["ttft_s"]["max"]
        assert row["floor_s"] > 0
    assert result["fingerprint"] == model.fingerprint.digest
    assert result["machine"]["cores"]
    picture = tmp_path / "ttft.png"
    plot_ttft(result, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_streams(model: LoadedModel, tmp_path: Path) -> None:
    async def run() -> dict[str, object]:
        engine = TransformersEngine(model, TieredStore(tmp_path / "segments"), model_id="tiny")
        try:
            return await streams.measure(engine, 3, 1900, 1)
        finally:
            await engine.close()

    result = json.loads(json.dumps(asyncio.run(run())))
    assert set(result["tokens_per_s"]) == {"1", "3"}
    assert result["next_request"]["before_any_ended"]


def test_text_is_seeded_and_exact() -> None:
    def encode(text: str) -> list[int]:
        return list(text.encode())

    assert len(tokens_of_text(encode, 1000, 1)) == 1000
    assert tokens_of_text(encode, 50, 1) == tokens_of_text(encode, 50, 1) != tokens_of_text(encode, 50, 2)
