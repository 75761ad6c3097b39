from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import STRATEGIES, Composed, Repair, StrategyName


@st.composite
def compositions(draw: st.DrawFn) -> Composed:
    parts, starts, position = [], [], draw(st.integers(0, 20))
    for i in range(draw(st.integers(1, 6))):
        gap = draw(st.integers(0, 3))
        n = draw(st.integers(1, 30))
        parts.append(range(position + gap, position + gap + n))
        starts.append(i == 0 or gap > 0 or draw(st.booleans()))
        position += gap + n
    return Composed(tuple(parts), tuple(starts))


names = st.sampled_from(sorted(STRATEGIES))


@given(compositions(), names, st.floats(0, 1))
def test_choices_are_composed_positions_within_the_budget(composed: Composed, name: StrategyName, share: float) -> None:
    repair = Repair(name, share)
    signal = torch.rand(composed.n_tokens) if repair.signal else None
    chosen = repair.choose(composed, signal)
    assert all(a < b for a, b in pairwise(chosen))
    assert set(chosen) <= set(composed.positions)
    assert len(chosen) <= share * composed.n_tokens
    if name != "none":
        assert len(chosen) == int(share * composed.n_tokens)


@given(compositions(), st.integers(1, 10))
def test_runs_join_what_was_built_together(composed: Composed, k: int) -> None:
    runs = composed.runs()
    assert [p for run in runs for p in run] == composed.positions
    chosen = Repair("first", min(1.0, k * len(runs) / composed.n_tokens)).choose(composed, None)
    first = min(k, min(len(run) for run in runs))
    assert all(position in chosen for run in runs for position in run[: first - 1])


def test_attention_takes_the_strongest_and_lines_whole_parts() -> None:
    composed = Composed((range(10, 14), range(14, 18)), (True, True))
    signal = torch.tensor([0.0, 9.0, 0.0, 0.0, 2.0, 3.0, 2.0, 3.0])
    assert Repair("attention", 0.5).choose(composed, signal) == [11, 14, 15, 17] or Repair("attention", 0.5).choose(
        composed, signal
    ) == [11, 15, 16, 17]
    assert Repair("lines", 0.5).choose(composed, signal) == [14, 15, 16, 17]
    assert Repair("none", 0.5).choose(composed, None) == []


@pytest.mark.parametrize(("name", "share"), [("some", 0.5), ("first", -0.1), ("first", 1.5)])
def test_what_is_no_repair_is_refused(name: StrategyName, share: float) -> None:
    with pytest.raises(ValueError, match=r"strategy|share"):
        Repair(name, share)
