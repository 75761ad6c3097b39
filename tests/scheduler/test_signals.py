from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.prediction.signals import SIGNALS, CubeHistory

COLUMN = {name: i for i, name in enumerate(SIGNALS)}


def signal(history: CubeHistory, name: str, *members: str, now: float = 0.0) -> float:
    return float(history.rows([members], now)[0, COLUMN[name]])


def test_recency_and_frequency() -> None:
    history = CubeHistory()
    for turn, used in enumerate([["a", "b"], ["a"], ["a"]]):
        history.observe(used, turn)
    assert signal(history, "recency", "a") == pytest.approx(1.0)
    assert 0 < signal(history, "recency", "b") < 0.6
    assert signal(history, "frequency", "a") > signal(history, "frequency", "b") > 0
    assert signal(history, "seen", "c") == signal(history, "recency", "c") == signal(history, "age", "c") == 0
    # A segment has the strongest of its members' signals.
    assert signal(history, "recency", "b", "c", "a") == pytest.approx(1.0)


def test_what_followed_before_is_expected_again() -> None:
    history = CubeHistory()
    for turn in range(12):
        history.observe([["a"], ["b"], ["c"]][turn % 3], turn)
    history.observe(["a"], 12)
    assert signal(history, "transition", "b") > 0.5
    assert signal(history, "transition", "c") == 0.0
    history.observe(["b"], 13)
    assert signal(history, "transition", "c") > 0.5


def test_drift_heading_and_neighbours() -> None:
    history = CubeHistory()
    history.observe([], 0)
    history.drifted({"a": 0.8, "b": 0.1}, ["n"])
    assert signal(history, "drift", "a", "b") == pytest.approx(0.8)
    assert signal(history, "neighbour", "n") == 1.0
    history.observe([], 1)
    history.drifted({"b": 0.9})
    assert signal(history, "drift", "a") == 0.0
    assert (
        0 < signal(history, "heading", "a") < signal(history, "heading", "b")
    )  # where it was is not forgotten at once
    assert signal(history, "neighbour", "n") == 0.0


def test_hints_and_typing_pass() -> None:
    history = CubeHistory()
    history.hinted({"a": 0.7}, now=100.0)
    history.typed(["b", "c"], now=100.0)
    assert signal(history, "hint", "a", now=101.0) == pytest.approx(0.7)
    assert signal(history, "typed", "b", now=101.0) == 1.0 > signal(history, "typed", "c", now=101.0) > 0
    assert signal(history, "hint", "a", now=100_000.0) == signal(history, "typed", "b", now=100_000.0) == 0.0
    history.typed(["b"], now=200.0)
    history.observe(["b"], 201.0)  # it was sent
    assert signal(history, "typed", "b", now=202.0) == 0.0


def test_a_pause_begins_a_session() -> None:
    history = CubeHistory()
    for at in (0, 20, 40):
        history.observe(["a"], at)
    assert history.turn_in_session == 3
    history.observe(["a"], 40 + 86_400)
    assert history.turn_in_session == 0
    assert signal(history, "gap", "a") > 1


def test_bounded() -> None:
    history = CubeHistory()
    for turn in range(3000):
        history.observe([f"m{turn}", f"m{turn // 2}"], turn)
    assert len(history.known) == 2048
    assert len(json.dumps(history.state())) < 500_000


memories = st.lists(st.sampled_from("abcdefgh"), max_size=4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(memories, st.floats(0, 1e6)), max_size=20), st.lists(memories, max_size=5))
def test_a_restored_history_gives_the_same_rows(turns: list[tuple[list[str], float]], groups: list[list[str]]) -> None:
    history = CubeHistory()
    now = 0.0
    for used, pause in turns:
        now += pause
        history.observe(used, now)
    rows = history.rows(groups, now)
    assert rows.shape == (len(groups), len(SIGNALS))
    assert np.isfinite(rows).all()
    again = CubeHistory.restored(json.loads(json.dumps(history.state()))).rows(groups, now)
    kept = [i for name, i in COLUMN.items() if name not in ("gap", "turn")]  # of the session, which ended
    assert np.allclose(rows[:, kept], again[:, kept], atol=1e-2)
