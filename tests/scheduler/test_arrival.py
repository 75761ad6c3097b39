from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.arrival import Gaps, Rhythm

DAY = 86_400.0


def test_a_conversation_that_has_paused_for_long_is_waited_for_less() -> None:
    rng = random.Random(1)
    gaps = Gaps()
    for _ in range(500):  # turns of a session, and the night between two
        gaps.observe(rng.expovariate(1 / 30) if rng.random() < 0.9 else rng.uniform(0.5 * DAY, 1.5 * DAY))
    at_once, paused = gaps.returns_within(600, 0.0), gaps.returns_within(600, 3000.0)
    assert at_once > 0.8
    assert paused < 0.2


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e9), max_size=50), st.floats(1, 1e7), st.floats(0, 1e9), st.integers(1, 100))
def test_always_a_probability(observed: list[float], horizon: float, idle: float, others: int) -> None:
    gaps = Gaps()
    for gap in observed:
        gaps.observe(gap)
    p = gaps.returns_within(horizon, idle, others)
    assert 0 <= p <= 1
    assert gaps.returns_within(horizon * 2, idle, others) >= p
    again = Gaps()
    again.restore(gaps.state())
    assert again.returns_within(horizon, idle, others) == pytest.approx(p, abs=1e-3)


def test_who_comes_every_morning_is_expected_in_the_morning() -> None:
    rhythm = Rhythm()
    for day in range(10):
        for minute in (0, 3, 9):
            rhythm.observe(day * DAY + 8 * 3600 + minute * 60)
    assert rhythm.likely(10 * DAY + 8 * 3600) > 0.5
    assert rhythm.likely(10 * DAY + 15 * 3600) == 0.0
    assert rhythm.likely(9 * DAY + 8.5 * 3600) == 0.0  # has been here in this hour
    again = Rhythm.restored(json.loads(json.dumps(rhythm.state())))
    assert again.likely(10 * DAY + 8 * 3600) == pytest.approx(rhythm.likely(10 * DAY + 8 * 3600), abs=1e-2)


def test_once_is_no_habit() -> None:
    rhythm = Rhythm()
    rhythm.observe(8 * 3600.0)
    assert rhythm.likely(DAY + 8 * 3600) < 0.5
