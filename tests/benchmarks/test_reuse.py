from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.support.reuse import FEATURES, HORIZONS_S, Column, ReuseModel, dense, encode
from scheduler.prediction.density import density
from scheduler.prediction.learning import Matrix


def history(age: float, **columns: float) -> Matrix:
    row = np.zeros((1, len(Column)), np.float32)
    row[0, [Column.AGE, Column.PARENT_AGE, Column.USES]] = age, age, 1
    for name, value in columns.items():
        row[0, Column[name.upper()]] = value
    return row


def planted(model: ReuseModel, steps: int, step: float = 5.0) -> float:
    """Even keys come back every 50 s and are long; odd ones come once and are short. Returns the last time."""
    now = 0.0
    born: dict[int, float] = {}
    for i in range(steps):
        now = i * step
        model.learn(now)
        key = 2 * (i % 10)
        model.used([key], now)
        for new in (key, 2 * i + 1):
            born[new] = now
        watched = [*range(0, 2 * min(i + 1, 10), 2), *range(max(1, 2 * i - 59), 2 * i + 2, 2)]
        rows = [history(now - born[k], length=4096 if k % 2 == 0 else 512) for k in watched]
        model.watch(watched, np.concatenate(rows), now)
    return now


def test_learns_what_comes_back() -> None:
    model = ReuseModel()
    planted(model, 400)
    rows = np.concatenate([history(20, length=4096), history(20, length=512)])
    back, once = model.probabilities(rows)
    assert back[1] > 0.7  # due within 60 s
    assert once[1] < 0.1
    assert model.trusted
    ranks = model.rank(rows)
    assert ranks[0] > 3 * ranks[1]
    assert all(calibration.error() < 0.1 for calibration in model.calibrations().values())


def test_knows_nothing_yet_and_keeps_what_was_used_last() -> None:
    model = ReuseModel()
    assert not model.trusted
    ages = np.concatenate([history(age) for age in (0, 3, 3.5, 100, 9000)])
    assert (np.diff(model.rank(ages)) < 0).all()


def test_is_not_trusted_where_age_tells_as_much() -> None:
    """Outcomes are by chance alone: what the model finds in the other columns is noise."""
    model, rng = ReuseModel(horizons=(10.0,)), np.random.default_rng(0)
    for i in range(300):
        model.learn(float(i))
        rows = np.concatenate(
            [history(5, length=int(rng.integers(1, 65536)), uses=int(rng.integers(1, 9))) for _ in range(30)]
        )
        keys = [(i, k) for k in range(30)]
        model.watch(keys, rows, float(i))
        model.used([key for key in keys if rng.random() < 0.3], i + 0.5)
    assert not model.trusted


def test_stops_trusting_when_the_pattern_turns() -> None:
    model = ReuseModel(horizons=(10.0,))
    trusted = []
    for i in range(400):
        model.learn(float(i))
        rows = np.concatenate([history(5, uses=1 + 5 * (k % 2)) for k in range(30)])
        model.watch([(i, k) for k in range(30)], rows, float(i))
        coming = 0 if i < 350 else 1
        model.used([(i, k) for k in range(30) if k % 2 == coming], i + 0.5)
        trusted.append(model.trusted)
    assert trusted[340]
    assert not all(trusted[355:])


def test_what_waits_is_bounded() -> None:
    model = ReuseModel(capacity=100)
    for i in range(200):
        model.learn(float(i))
        model.watch([(i, k) for k in range(7)], np.repeat(history(1), 7, axis=0), float(i))
        assert model.pending <= 100
        assert len(model._waiting) <= model.pending
    model.learn(10_000.0)
    assert model.pending == 0
    assert not model._waiting


def test_a_use_after_the_horizon_does_not_count() -> None:
    model = ReuseModel(horizons=(10.0, 100.0))
    for i in range(200):
        now = i * 300.0
        model.learn(now)
        model.watch(["a"], history(7), now)
        model.used(["a"], now + 50)
    near, far = model.probabilities(history(7))[0]
    assert near < 0.1
    assert far > 0.9


def test_state_is_json_and_comes_back() -> None:
    model, other = ReuseModel(), ReuseModel()
    planted(model, 200)
    other.restore(json.loads(json.dumps(model.state())))
    rows = np.concatenate([history(age, length=4096) for age in (0, 20, 200)])
    np.testing.assert_allclose(other.probabilities(rows), model.probabilities(rows), rtol=1e-5)


numbers = st.floats(0, 2**24, width=32)
histories = st.integers(1, 20).flatmap(lambda n: arrays(np.float32, (n, len(Column)), elements=numbers))


@given(histories)
@settings(deadline=None)
def test_any_history_has_a_probability(rows: Matrix) -> None:
    model = ReuseModel()
    probabilities = model.probabilities(rows)
    assert probabilities.shape == (len(rows), len(HORIZONS_S))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (np.diff(probabilities, axis=1) >= 0).all()
    assert np.isfinite(model.rank(rows)).all()


@given(histories)
@settings(deadline=None)
def test_one_feature_of_each_group(rows: Matrix) -> None:
    cells = encode(rows)
    assert ((cells >= 0) & (cells < FEATURES)).all()
    assert (np.diff(cells, axis=1) > 0).all()
    assert (dense(cells).sum(axis=1) == cells.shape[1]).all()


def test_density_of_a_constant_hazard_is_the_hazard() -> None:
    """P(T <= H) / E[min(T, H)] of an exponential T is its rate, at any horizon."""
    horizons = np.arange(1.0, 200.0)
    for rate in (0.001, 0.02):
        probabilities = (1 - np.exp(-rate * horizons))[None].astype(np.float32)
        assert density(probabilities, horizons.tolist())[0] == pytest.approx(rate, rel=0.01)


def test_density_waits_for_what_is_due_later() -> None:
    """A segment that surely comes after 50 s is worth 1 / 50 a second, though nothing comes in the first 10."""
    soon, later = density(np.array([[0.1, 0.1], [0.0, 1.0]], np.float32), (10.0, 50.0))
    assert soon == pytest.approx(0.1 / 9.5, rel=1e-3)
    assert later == pytest.approx(1 / 30, rel=1e-3)  # the trapezoid spreads the use over 10 to 50 s
