"""Cosines of all embedders on one scale, and texts in their roles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory import AS_IT_IS, Calibration, EmbedderError, FolderEmbedder, HashEmbedder, MemoryStore, new_message
from memory.search.calibration import DEVIATION, MIDDLE, SAME_SCALE, Scale, calibrated, measured
from memory.search.vectors import CubeIndex
from memory.types import Vector
from tests.memory.squeezed import SqueezedEmbedder

T = "tenant"
GRID = np.linspace(-1, 1, 201).tolist()
TEXTS = (
    "My dentist is in the old town.",
    "The bicycle has a flat tyre.",
    "We meet for chess on Tuesday evenings.",
    "Rent is due on the third of each month.",
    "Grandma bakes the best plum cake.",
)


def test_the_bundled_embedders_scale_is_the_one_of_all(minilm: FolderEmbedder) -> None:
    vectors = minilm.embed(["The ferry to the island leaves at half past six.", "I like more salt in my soup."])
    assert abs(float(vectors[0] @ vectors[1])) < 0.3
    assert measured(minilm.embed) is AS_IT_IS
    assert AS_IT_IS.scale(vectors[0]) is SAME_SCALE
    assert all(SAME_SCALE.scaled(cosine) == cosine == SAME_SCALE.unscaled(cosine) for cosine in GRID)  # to the digit
    np.testing.assert_array_equal(AS_IT_IS.between(vectors), vectors @ vectors.T)


@pytest.mark.parametrize("middle", [-0.2, 0.0, 0.4, 0.8, 0.95])
@pytest.mark.parametrize("slope", [0.25, 0.6, 1.0, 1.4, 1.75])
def test_a_scale_rises_from_unrelated_to_the_same_and_can_be_undone(middle: float, slope: float) -> None:
    scale = Scale(middle, slope)
    scaled = [scale.scaled(cosine) for cosine in GRID]
    assert all(low < high for low, high in pairwise(scaled))
    assert scale.scaled(1.0) == pytest.approx(1.0)
    assert scale.scaled(middle) == pytest.approx(MIDDLE)
    np.testing.assert_allclose([scale.unscaled(value) for value in scaled], GRID, atol=1e-9)


def test_a_deviation_above_unrelated_is_one_with_any_embedder() -> None:
    centre = np.array([0.8, 0.6], np.float32)
    query = np.array([1.0, 0.0], np.float32)
    scale = Calibration(centre, 0.02).scale(query)
    assert scale.scaled(0.8) == pytest.approx(MIDDLE, abs=1e-6)
    assert scale.scaled(0.8 + 0.002) - MIDDLE == pytest.approx(0.1 * DEVIATION, rel=0.01)
    assert Calibration(centre, 0.02).scale(np.ones(3, np.float32)) is SAME_SCALE  # vectors of another embedder


def test_an_index_tells_scaled_cosines_and_takes_scaled_floors() -> None:
    embedder = SqueezedEmbedder()
    calibration = measured(embedder.embed)
    vectors = embedder.embed(TEXTS)
    for limit in (100, 1):  # scanned, and by the graph
        index = CubeIndex(exact_limit=limit, calibration=calibration)
        index.put(enumerate(vectors))
        near = index.nearest(vectors[0], 5, floor=0.9)
        assert [row for row, _ in near] == [0]
        assert near[0][1] == pytest.approx(1.0, abs=0.02)
        assert [[row for row, _ in pairs] for pairs in index.nearest_to_each(list(vectors), 5, 0.9)] == [
            [i] for i in range(5)
        ]
        cosines = index.cosines(vectors[0], range(5))
        assert cosines[0] == pytest.approx(near[0][1], abs=0.02)
        assert all(cosines[row] < 0.35 for row in range(1, 5))
        assert index.scaled(vectors[0], 1.0) == pytest.approx(1.0)
        np.testing.assert_allclose(index.between(vectors)[0], [cosines[row] for row in range(5)], atol=0.02)


def add(store: MemoryStore, cube: str, text: str) -> str:
    (outcome,) = store.add_messages(T, cube, [new_message(text)])
    return outcome.action


def test_thresholds_hold_where_unrelated_texts_have_high_cosines(tmp_path: Path) -> None:
    plain = MemoryStore(tmp_path / "plain.sqlite", HashEmbedder(252))
    squeezed = MemoryStore(tmp_path / "squeezed.sqlite", SqueezedEmbedder())
    found: list[list[Any]] = []
    for store in (plain, squeezed):
        cube = store.default_cube(T).id
        store.add_many(T, cube, TEXTS)
        assert add(store, cube, "The blue kettle in the kitchen is broken again") == "added"
        assert add(store, cube, "The blue kettle in the kitchen is broken again!") == "reinforced"
        assert add(store, cube, "The red scooter behind the shed was stolen") == "added"
        found.append(store.search(T, "flat tyre of the bicycle", cube_ids=[cube], top_k=8))
        assert not store.search(T, "xylophone", cube_ids=[cube])  # nothing is near: the floor is one of the scale
        store.close()
    assert found[0][0].memory.text == found[1][0].memory.text == TEXTS[1]
    assert found[1][0].parts["vector"] == pytest.approx(found[0][0].parts["vector"], abs=0.15)
    assert len(found[1]) < 7  # not everything, though every cosine is above 0.7


class Slow(SqueezedEmbedder):
    def embed(self, texts: Sequence[str], role: Any = "passage") -> Vector:
        time.sleep(0.06)
        return super().embed(texts, role)


def test_a_calibration_that_took_its_time_is_kept_by_the_embedders_name(tmp_path: Path) -> None:
    path, slow = tmp_path / "new" / "calibration.json", Slow()
    first = calibrated(path, "slow", slow.embed)
    n = len(slow.asked)
    again = calibrated(path, "slow", slow.embed)
    assert len(slow.asked) == n
    np.testing.assert_allclose(again.centre, first.centre)
    assert again.deviation == pytest.approx(first.deviation)
    calibrated(path, "another", slow.embed)
    assert len(slow.asked) == 2 * n
    path.write_bytes(path.read_bytes()[:50])
    calibrated(path, "another", slow.embed)
    assert len(slow.asked) == 3 * n
    quick = tmp_path / "quick.json"
    calibrated(quick, "quick", HashEmbedder().embed)
    assert not quick.exists()


def test_an_embedder_that_tells_nothing_apart_is_taken_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    assert measured(lambda texts: np.ones((len(texts), 3), np.float32) / np.float32(3**0.5)) is AS_IT_IS
    assert "equally alike" in caplog.text


def test_an_embedder_that_fails_is_asked_again(tmp_path: Path) -> None:
    class Failing(SqueezedEmbedder):
        fails = True

        def embed(self, texts: Sequence[str], role: Any = "passage") -> Vector:
            if self.fails:
                raise EmbedderError("down")
            return super().embed(texts, role)

    embedder = Failing()
    store = MemoryStore(tmp_path / "m.sqlite", embedder)
    cube = store.default_cube(T).id
    with pytest.raises(EmbedderError):
        store.add(T, cube, TEXTS[0])
    embedder.fails = False
    store.add(T, cube, TEXTS[0])
    assert store.search(T, "dentist", cube_ids=[cube])
    store.close()


def test_what_is_stored_is_a_passage_and_what_is_asked_a_query(tmp_path: Path) -> None:
    embedder = SqueezedEmbedder()
    store = MemoryStore(tmp_path / "m.sqlite", embedder)
    cube = store.default_cube(T).id
    store.add(T, cube, TEXTS[0])
    embedder.asked.clear()
    store.add(T, cube, TEXTS[1])
    assert embedder.asked == [("passage", TEXTS[1])]
    store.search(T, TEXTS[1], cube_ids=[cube])
    store.around(T, cube, TEXTS[1], [])
    store.embed([TEXTS[1]])
    assert embedder.asked == [("passage", TEXTS[1]), ("query", TEXTS[1])]  # once in each role
    store.close()


def test_what_is_read_alike_in_both_roles_is_embedded_once(tmp_path: Path) -> None:
    embedder = SqueezedEmbedder(roles=False)
    store = MemoryStore(tmp_path / "m.sqlite", embedder)
    cube = store.default_cube(T).id
    store.add(T, cube, TEXTS[1])
    n = len(embedder.asked)
    store.search(T, TEXTS[1], cube_ids=[cube])
    assert len(embedder.asked) == n
    store.close()


def test_switching_the_embedder_and_back_re_embeds_and_measures_anew(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    store = MemoryStore(path, HashEmbedder())
    cube = store.default_cube(T).id
    store.add_many(T, cube, TEXTS)
    before = [
        (hit.memory.id, hit.score) for hit in store.search(T, "chess on Tuesday evenings", cube_ids=[cube], at=2e9)
    ]
    store.close()
    embedder = SqueezedEmbedder()
    store = MemoryStore(path, embedder)
    hits = store.search(T, "chess on Tuesday evenings", cube_ids=[cube])
    assert hits[0].memory.text == TEXTS[2]
    assert hits[0].vector_rank == 1
    assert {text for role, text in embedder.asked if role == "passage"} >= set(TEXTS)
    embedder.asked.clear()
    assert store.index.rebuild(T, cube) == len(TEXTS)
    assert store.search(T, "chess on Tuesday evenings", cube_ids=[cube])[0].memory.text == TEXTS[2]
    store.close()
    store = MemoryStore(path, HashEmbedder())
    assert [
        (hit.memory.id, hit.score) for hit in store.search(T, "chess on Tuesday evenings", cube_ids=[cube], at=2e9)
    ] == before
    store.close()
