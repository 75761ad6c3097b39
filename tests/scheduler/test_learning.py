from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from scheduler.prediction.learning import Calibration, OnlineLogistic


def planted(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of [1, x, noise] whose outcome is 1 with probability sigmoid(3x - 1)."""
    rows = np.stack([np.ones(n), rng.normal(size=n), rng.normal(size=n)], 1).astype(np.float32)
    outcomes = (rng.random(n) < 1 / (1 + np.exp(-(3 * rows[:, 1] - 1)))).astype(np.float32)
    return rows, outcomes


def test_learns_planted_probabilities() -> None:
    rng = np.random.default_rng(0)
    model = OnlineLogistic([0.0, 0.0, 0.0], rate=0.5)
    calibration = Calibration()
    for step in range(1500):
        rows, outcomes = planted(rng, 16)
        if step > 1000:
            calibration.observe(model.predict(rows), outcomes)
        model.learn(rows, outcomes)
    bias, slope, noise = model.weights
    assert bias == pytest.approx(-1, abs=0.35)
    assert slope == pytest.approx(3, abs=0.6)
    assert abs(noise) < 0.3
    assert calibration.error() < 0.05
    assert all(0 <= row["came"] <= 1 for row in calibration.table())


def test_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(1)
    model = OnlineLogistic([0.0, 0.0, 0.0])
    for _ in range(20):
        model.learn(*planted(rng, 8))
    other = OnlineLogistic([9.0, 9.0, 9.0])
    other.restore(model.state())
    rows, outcomes = planted(rng, 8)
    model.learn(rows, outcomes)
    other.learn(rows, outcomes)
    assert np.array_equal(model.weights, other.weights)
    other.restore({"weights": [1.0], "squares": [1.0]})  # of another number of features
    assert np.array_equal(model.weights, other.weights)


@settings(deadline=None)
@given(npst.arrays(np.float32, (5, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_always_a_probability(rows: np.ndarray) -> None:
    model = OnlineLogistic([1.0, -2.0, 0.5])
    model.learn(rows, np.array([1, 0, 1, 0, 1], np.float32))
    predicted = model.predict(rows)
    assert np.isfinite(predicted).all()
    assert ((predicted >= 0) & (predicted <= 1)).all()


def test_nothing_to_learn_from() -> None:
    model = OnlineLogistic([1.0, 2.0])
    model.learn(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    assert model.weights.tolist() == [1.0, 2.0]
    assert Calibration().error() == 0.0
    assert Calibration().table() == []
