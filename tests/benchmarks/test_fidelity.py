"""The benchmarks of composition, codecs and the store, on a tiny model and small files."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from benchmarks.data.locomo import Question, load_questions
from benchmarks.data.recall import Fact, answered, planted
from benchmarks.report.plot import plot_fidelity
from benchmarks.suites import codec, fidelity, store
from benchmarks.support import composing
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import STRATEGIES, Repair, TieredStore


def encode(text: str) -> list[int]:
    return list(text.encode())


LOCOMO = [
    {
        "conversation": {
            "session_1": [
                {"speaker": "Ann", "dia_id": f"D1:{i}", "text": f"I saw {i} birds on the roof today"} for i in range(20)
            ],
            "session_1_date_time": "now",
        },
        "qa": [
            {"question": "What did Ann see?", "answer": "birds", "evidence": ["D1:3"], "category": 4},
            {"question": "Adversarial?", "answer": "", "evidence": ["D1:3"], "category": 5},
            {"question": "Dangling?", "answer": "", "evidence": ["D9:9"], "category": 4},
        ],
    }
]
MUSIQUE = [{"ctxs": [{"title": "a", "text": "word " * 60}] * 3, "question": "Which word?", "answers": ["word"]}]


def test_questions_come_with_their_evidence(tmp_path: Path) -> None:
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps(LOCOMO))
    (question,) = load_questions(path, 4, 40, 5, encode, seed=0)
    assert question.text == "What did Ann see?"
    assert len(question.chosen) == 4
    assert list(question.chosen) == sorted(question.chosen)
    assert any("I saw 3 birds" in question.cube[i] for i in question.chosen)
    assert all(len(encode(text)) <= 40 for text in question.cube)
    path.write_text(json.dumps(MUSIQUE))
    (question,) = load_questions(path, 2, 40, 1, encode, seed=0)
    assert question.text == "Which word?"
    path.write_text("[{}]")
    with pytest.raises(ValueError, match="neither"):
        load_questions(path, 2, 40, 1, encode, seed=0)


def test_planted_facts_are_in_their_memories() -> None:
    memories, facts = planted(40, random.Random(1))
    for memory, fact in zip(memories, facts, strict=True):
        assert fact.answer in memory
    assert answered(Fact("?", "Oslo"), "She moved to oslo.")
    assert not answered(Fact("?", "Oslo"), "She moved.")


def test_the_frontier(model: LoadedModel, tmp_path: Path) -> None:
    cube = tuple(f"Person {i} has {i} coats in room {i * 7}" for i in range(12))
    questions = [Question("Who has coats?", cube, (1, 4, 5, 9))]
    strategies = [
        fidelity.Strategy("naive", Repair("none", 0.0)),
        fidelity.Strategy("single", Repair("none", 0.0)),
        *(fidelity.Strategy("pages", Repair(name, 1.0)) for name in ("first", "deviation", "attention", "lines")),
        fidelity.Strategy("pages", Repair("attention", 0.3), "high"),
    ]

    async def run() -> dict[str, object]:
        engine = TransformersEngine(model, TieredStore(tmp_path / "s"), model_id="tiny", composing=composing.ALWAYS)
        try:
            rows = await fidelity.measure_divergence(engine, questions, strategies, 30, lambda _: None)
            rows += await fidelity.measure_recall(engine, strategies[1:2], 3, lambda _: None, 4, 6)
            return fidelity.result(engine, rows, "test")
        finally:
            await engine.close()

    result = json.loads(json.dumps(asyncio.run(run())))
    naive, single, *whole, high, text, recall = result["rows"]
    assert naive["kl_mean"] > 0
    assert naive["ttft_ratio_to_text"] is None
    assert single["share_recomputed"] == 0
    for row in whole:
        assert row["kl_mean"] == pytest.approx(0, abs=1e-4)
        assert (row["top1"], row["share_recomputed"]) == (1.0, 1.0)
    assert high["strategy"] == "high"
    assert 0.25 < high["share_recomputed"] <= 0.3
    assert high["ttft_ratio_to_text"] > 0
    assert (text["strategy"], recall["strategy"]) == ("text", "single+none")
    assert 0 <= recall["answer_accuracy"] <= 1
    picture = tmp_path / "fidelity.png"
    plot_fidelity(result, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_codecs(model: LoadedModel, tmp_path: Path) -> None:
    async def run() -> dict[str, object]:
        engine = TransformersEngine(model, TieredStore(tmp_path / "s"), model_id="tiny")
        try:
            return await codec.measure(engine, [("Who?", ["Ann has a red coat", "Bob has none"])], lambda _: None)
        finally:
            await engine.close()

    rows = {(row["codec"], row["before_rotation"]): row for row in asyncio.run(run())["rows"]}  # type: ignore[attr-defined]
    for name in ("none", "zstd"):
        assert rows[name, False]["kl_added"] == pytest.approx(0, abs=1e-6)
    assert rows["int8", False]["kl_added"] < rows["int4", False]["kl_added"]
    assert set(rows) >= {("int8", True), ("int4", True)}


def test_the_store(tmp_path: Path) -> None:
    found = store.measure_finding(tmp_path / "finding", 200, 20)
    assert found.segments == 200
    assert 0 < found.match_ms <= found.lookup_max_ms
    assert found.bytes_read_at_open < 5_000_000
    row = store._read_row(tmp_path / "reads", "standalone", "int8", 2, 64, 1)
    assert row.ratio > 0
    assert row.file_mb < 2 * 64 * 46_080 / 1e6


def test_every_strategy_is_compared() -> None:
    compared = {strategy.repair.strategy for strategy in fidelity.frontier(Repair("none", 0.0), Repair("none", 0.0))}
    assert compared == set(STRATEGIES)
