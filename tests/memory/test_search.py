from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.search import RRF_K, VectorIndex, fuse, match_expression

rankings = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8), max_size=3)


@given(rankings)
def test_fusion_is_the_sum_of_reciprocal_ranks(ranked: list[list[str]]) -> None:
    scores = fuse(ranked)
    assert set(scores) == {id for ranking in ranked for id in ranking}
    for id, score in scores.items():
        expected = sum(1 / (RRF_K + ranking.index(id) + 1) for ranking in ranked if id in ranking)
        assert score == pytest.approx(expected)


@given(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=2))
def test_fusing_a_ranking_with_itself_keeps_its_order(ranking: list[str]) -> None:
    scores = fuse([ranking, ranking])
    assert sorted(scores, key=lambda id: -scores[id]) == ranking


def test_stop_words_are_dropped_and_the_rest_is_quoted() -> None:
    assert match_expression("What is the name of my dog?") == '"name" OR "dog"'
    assert match_expression("is it the") is None
    assert match_expression("") is None
    assert match_expression("dog DOG Dog") == '"dog"'


operations = st.lists(
    st.tuples(st.sampled_from(["put", "remove"]), st.integers(0, 12), st.integers(0, 2**31)), max_size=60
)


@settings(deadline=None)
@given(operations)
def test_the_vector_index_equals_a_plain_scan(steps: list[tuple[str, int, int]]) -> None:
    index, oracle = VectorIndex(), {}
    for action, number, seed in steps:
        id = f"m{number}"
        if action == "put":
            vector = np.random.default_rng(seed).standard_normal(6).astype(np.float32)
            vector /= np.linalg.norm(vector)
            index.put(id, vector)
            oracle[id] = vector
        else:
            index.remove(id)
            oracle.pop(id, None)
    query = np.random.default_rng(1).standard_normal(6).astype(np.float32)
    query /= np.linalg.norm(query)
    expected = sorted((float(v @ query) for v in oracle.values() if v @ query >= 0.1), reverse=True)[:4]
    assert len(index) == len(oracle)
    found = index.nearest(query, 4, 0.1)
    assert [cosine for _, cosine in found] == pytest.approx(expected, abs=1e-5)
    for id, cosine in found:
        assert float(oracle[id] @ query) == pytest.approx(cosine, abs=1e-5)
    assert len({id for id, _ in found}) == len(found)
