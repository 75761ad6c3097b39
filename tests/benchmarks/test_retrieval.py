from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.suites.retrieval import load, ndcg_at, recall_at
from benchmarks.suites.search import SeededEmbedder

ids = st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=12)


@given(ids, st.frozensets(st.sampled_from("abcdefghijkl"), min_size=1))
def test_metrics_are_between_none_and_all(ranked: list[str], relevant: frozenset[str]) -> None:
    recalls = [recall_at(ranked, relevant, k) for k in (1, 5, 12)]
    assert recalls == sorted(recalls)
    assert 0.0 <= ndcg_at(ranked, relevant, 10) <= 1.0 + 1e-9
    assert (recalls[-1] == 1.0) == (relevant <= set(ranked))
    best = sorted(relevant) + [id for id in ranked if id not in relevant]
    assert ndcg_at(best, relevant, 10) == pytest.approx(1.0)


def test_gain_falls_with_rank() -> None:
    assert ndcg_at(["x", "a"], frozenset("a"), 10) == pytest.approx(1 / math.log2(3))
    assert recall_at(["a", "x", "b"], frozenset("ab"), 2) == 0.5


def _locomo(folder: Path) -> Path:
    """Two sessions in LoCoMo's format, with an id that dangles and two that are joined."""
    turns = [
        [("D1:1", "Ana", "Hi Sam! How are you?"), ("D1:2", "Ana", "I adopted a parrot called Quill last week.")],
        [("D2:1", "Sam", "I sold my canoe yesterday."), ("D2:2", "Ana", "The lighthouse was closed.")],
    ]
    conversation: dict[str, object] = {"speaker_a": "Ana", "speaker_b": "Sam"}
    for number, session in enumerate(turns, start=1):
        conversation[f"session_{number}_date_time"] = f"1:56 pm on {number + 7} May, 2023"
        conversation[f"session_{number}"] = [{"dia_id": d, "speaker": who, "text": text} for d, who, text in session]
    qa = [
        {"question": "What is Ana's parrot called?", "evidence": ["D1:2"], "category": 4},
        {"question": "What did Sam sell in May 2023?", "evidence": ["D2:1; D1:2"], "category": 1},
        {"question": "Whose is this?", "evidence": ["D9:9"], "category": 2},
        {"question": "No evidence at all?", "category": 5},
    ]
    path = folder / "locomo.json"
    path.write_text(json.dumps([{"conversation": conversation, "qa": qa}]))
    return path


def test_loading_splits_joined_ids_and_drops_dangling_ones(tmp_path: Path) -> None:
    (conversation,) = load(_locomo(tmp_path))
    assert [sorted(question.evidence) for question in conversation.asked] == [["D1:2"], ["D1:2", "D2:1"]]
    assert conversation.dropped == 2
    other = tmp_path / "other.json"
    other.write_text("[]")
    with pytest.raises(ValueError, match="LoCoMo"):
        load(other)


def test_locomo_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = CliRunner().invoke(
        app, ["locomo", "--data", str(_locomo(tmp_path)), "--embedder", "hash", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert (result["questions"], result["questions_without_evidence"], result["messages"]) == (2, 2, 4)
    assert result["overall"]["recall@10"] == 1.0
    assert set(result["by_category"]) == {"single-hop", "multi-hop"}
    assert 0 < result["by_category"]["multi-hop"]["ndcg@10"] <= 1
    assert result["memories"]["overall"]["questions"] == 2
    assert result["context_share"] > 0
    assert set(result["search_ms"]) == {"p50", "p99"}


def test_search_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ["search", "--n", "50,100", "--embedder", "hash", "--add", "40", "--json", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert [row["n"] for row in result["rows"]] == [50, 100]
    assert all(row["vector_recall@10"] == 1.0 and row["search_ms"]["p50"] > 0 for row in result["rows"])
    assert result["adding"]["messages"] == 40
    assert result["adding"]["conversations_of_20_per_s"] > 0


def test_seeded_vectors_depend_on_the_text_alone() -> None:
    one, two = SeededEmbedder(16), SeededEmbedder(16)
    assert (one.embed(["a", "b"]) == two.embed(["a", "b"])).all()
    assert abs((one.embed(["a"]) ** 2).sum() - 1) < 1e-5
