from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest

from scheduler import ForesightConfig
from scheduler.prediction.outcomes import Expected, Outcomes
from scheduler.prediction.predictors import PREDICTORS, PredictorName, SignalPredictor
from scheduler.prediction.signals import CubeHistory


def replay(name: PredictorName, scenes: list[list[str]], groups: list[frozenset[str]], *, turns: int = 1) -> Outcomes:
    """Predict, turn after turn, whether each group is used in the next ``turns`` turns."""
    history, waiting = CubeHistory(), deque[Expected]()
    outcomes = Outcomes(SignalPredictor(name, (turns,)), horizon_s=ForesightConfig.horizon_s, threshold=0.5)
    for turn, used in enumerate(scenes):
        history.observe(used, 10.0 * turn)
        outcomes.observe(waiting, frozenset(used), history.turn, 10.0 * turn)
        outcomes.expect(
            waiting, groups, history.rows([tuple(g) for g in groups], 10.0 * turn), history.turn, 10.0 * turn
        )
    return outcomes


GROUPS = [frozenset({name}) for name in "abcdef"]


@pytest.mark.parametrize("name", PREDICTORS)
def test_what_is_predicted_is_a_calibrated_probability(name: PredictorName) -> None:
    rng = random.Random(3)
    scenes = [[name for name in "abcdef" if rng.random() < 0.3] for _ in range(600)]  # no pattern but the rate
    outcomes = replay(name, scenes, GROUPS)
    assert outcomes.calibration.error() < 0.08
    assert outcomes.card.scenes == 599


def test_a_cycle_is_learned_by_transitions_and_by_the_blend() -> None:
    scenes = [[name] for name in "abcdef" * 60]
    for name in ("transition", "blend"):
        card = replay(name, scenes, GROUPS).card
        assert card.precision > 0.9
        assert card.recall > 0.8
    card = replay("recency", scenes, GROUPS).card  # just used is what never comes next, and that is all it says
    assert card.recall < 0.9


def test_the_blend_is_no_worse_than_its_best_part() -> None:
    rng = random.Random(5)
    scenes = []
    for _session in range(300):  # a session stays with two memories, then others have their turn
        favourites = rng.sample("abcdef", 2)
        scenes += [[rng.choice(favourites)] for _ in range(6)]
    f1 = {}
    for name in PREDICTORS:
        card = replay(name, scenes, GROUPS, turns=3).card
        f1[name] = 2 * card.precision * card.recall / max(1e-9, card.precision + card.recall)
    assert f1["blend"] >= max(f1.values()) - 0.05


def test_an_outcome_is_known_when_its_horizon_has_passed() -> None:
    waiting = deque[Expected]()
    outcomes = Outcomes(SignalPredictor("blend", horizons=(1, 2)), horizon_s=100.0, threshold=0.0)
    rows = np.zeros((2, 14), np.float32)
    outcomes.expect(waiting, GROUPS[:2], rows, 1, 0.0)
    outcomes.observe(waiting, frozenset("a"), 2, 10.0)
    assert outcomes.card.scenes == 0
    outcomes.observe(waiting, frozenset("b"), 3, 20.0)
    assert (outcomes.card.scenes, outcomes.card.used, outcomes.card.right) == (1, 2.0, 2.0)
    outcomes.expect(waiting, GROUPS[:2], rows, 3, 20.0)
    outcomes.observe(waiting, frozenset("ab"), 4, 500.0)  # too late to count
    assert (outcomes.card.scenes, outcomes.card.used) == (2, 2.0)
    assert outcomes.card.precision == 0.5


def test_state_of_another_predictor_is_left_aside() -> None:
    blend, recency = SignalPredictor("blend"), SignalPredictor("recency")
    before = recency.weights()
    recency.restore(blend.state())
    assert recency.weights() == before
