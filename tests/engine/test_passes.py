"""How tokens to be computed anew are divided into passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.vllm.passes import Limits, passes_of, runs_of

POSITIONS = st.sets(st.integers(0, 300), max_size=120).map(sorted)
LIMITS = st.builds(Limits, st.integers(1, 80), st.integers(1, 20), st.integers(0, 300), st.integers(0, 10))


@given(POSITIONS, LIMITS)
def test_no_pass_has_more_than_there_is_room_for_and_none_is_lost(positions: list[int], limits: Limits) -> None:
    passes = passes_of(positions, limits)
    for runs in passes:
        assert 0 < len(runs) <= limits.max_runs
        assert 0 < sum(len(run) for run in runs) <= limits.max_tokens
    computed = [position for runs in passes for run in runs for position in run]
    assert computed == sorted(set(computed)), "each once, those of one pass before those of the next"
    assert set(computed) >= set(positions)
    if positions:
        assert min(positions) <= computed[0]
        assert computed[-1] <= max(positions)


@given(POSITIONS)
def test_what_fits_is_one_pass_of_nothing_else(positions: list[int]) -> None:
    passes = passes_of(positions, Limits(1000, 200, per_pass=256, per_run=0))
    assert passes == ([runs_of(positions)] if positions else [])


def test_the_smallest_gaps_are_closed_first() -> None:
    positions = [0, 2, 10, 12, 40, 50, 53]  # gaps of 1, 7, 1, 27, 9 and 2
    assert passes_of(positions, Limits(1000, 3, per_pass=256)) == [[range(13), range(40, 41), range(50, 54)]]


@pytest.mark.parametrize(("per_pass", "n_passes"), [(256, 2), (4, 8)])
def test_passes_are_added_where_that_costs_less_than_closing_gaps(per_pass: int, n_passes: int) -> None:
    positions = range(0, 160 * 4, 4)  # 160 runs of a token each, and gaps of three between
    passes = passes_of(positions, Limits(4096, 20, per_pass, per_run=0))
    assert len(passes) <= n_passes
    assert (len(passes) == 8) == (per_pass == 4)


def test_a_gap_as_short_as_a_run_is_dear_is_closed_in_any_case() -> None:
    assert passes_of([0, 9, 18, 40], Limits(1000, 10, per_pass=0, per_run=8)) == [[range(19), range(40, 41)]]
