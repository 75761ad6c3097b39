"""Cubes whose text is not in Latin script, with an English embedder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from memory import HashEmbedder, MemoryStore
from memory.search.scripts import other_share
from tests.memory.squeezed import SqueezedEmbedder

T = "tenant"
LANGUAGES = json.loads((Path(__file__).parent / "data" / "languages.json").read_text())
ENGLISH = [f"Memory number {i}: the gate of garden {i} squeaks when the wind blows." for i in range(40)]


@pytest.mark.parametrize("language", ["zh", "ja", "ko", "ru", "ar"])
def test_other_scripts_are_told_from_latin(language: str) -> None:
    assert other_share(LANGUAGES[language]["memories"] * 3) > 0.95


@pytest.mark.parametrize("language", ["de", "fr", "es", "pt"])
def test_accents_are_latin(language: str) -> None:
    assert other_share(LANGUAGES[language]["memories"]) == 0


def test_digits_signs_and_a_few_letters_tell_nothing() -> None:
    assert other_share([]) == other_share(["你好"]) == other_share(["12:30 !? 👍 " * 400]) == 0
    assert other_share(["a" * 80 + "你" * 120]) == pytest.approx(0.6)


def remarks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "not Latin" in record.getMessage()]


def test_another_embedder_is_proposed_once_for_a_cube(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "m.sqlite"
    store = MemoryStore(path, HashEmbedder())
    english = store.cubes.create(T, "english").id
    chinese = store.cubes.create(T, "chinese").id
    store.add_many(T, english, ENGLISH)
    for cube in (english, chinese):
        store.search(T, "gate", cube_ids=[cube])  # both are in use
    assert not remarks(caplog)
    texts = [f"{text}{i}" for i in range(3) for text in LANGUAGES["zh"]["memories"]]
    for text in texts:
        store.add(T, chinese, text)
    store.add_many(T, english, ENGLISH)
    (remark,) = remarks(caplog)
    assert chinese in remark
    assert "--embedder multilingual" in remark
    assert not any(text in caplog.text for text in texts)
    store.close()
    caplog.clear()
    store = MemoryStore(path, HashEmbedder())  # after a restart it is told at first use
    store.search(T, "gate", cube_ids=[english, chinese])
    store.index.forget(chinese)
    store.search(T, "gate", cube_ids=[english, chinese])
    assert len(remarks(caplog)) == 1
    store.close()
    caplog.clear()
    store = MemoryStore(path, SqueezedEmbedder())  # measured: not the English one
    store.search(T, "gate", cube_ids=[english, chinese])
    assert not remarks(caplog)
    store.close()
