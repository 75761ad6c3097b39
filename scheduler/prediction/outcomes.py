"""The outcomes of predictions: the predictor learns from it, and is measured by it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.prediction.learning import Calibration, Matrix
from scheduler.prediction.predictors import Predictor

# Of what was measured, so much is left after the next prediction: the last fifty or so count.
_FADE = 0.98


@dataclass(eq=False)
class Expected:
    """A prediction whose outcome is not known yet."""

    turn: int
    at: float
    members: list[frozenset[str]]
    rows: Matrix
    predicted: Matrix
    used: dict[int, int] = field(default_factory=dict)
    """By segment, the number of the turn that first used it, counted from the prediction."""


@dataclass
class Card:
    """The report card: segments predicted at the threshold or above, those of them that were used within the horizon,
    and all that were used (each prediction of a segment is one)."""

    predicted: float = 0.0
    right: float = 0.0
    used: float = 0.0
    scenes: int = 0

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.used if self.used else 0.0


class Outcomes:
    """Waits for what becomes of predictions, tells the predictor, and keeps its report card.

    A prediction is right when its segment is used within the last horizon's turns and ``horizon_s`` seconds. A
    predictor that lately had it the wrong way round is not to be followed (:attr:`trusted`).
    """

    def __init__(self, predictor: Predictor, *, horizon_s: float, threshold: float) -> None:
        self._predictor = predictor
        self._turns = predictor.horizons[-1]
        self._horizon_s = horizon_s
        self._threshold = threshold
        self.card = Card()
        self.calibration = Calibration()
        self._covariance = 0.0

    def expect(
        self, waiting: deque[Expected], members: Sequence[frozenset[str]], rows: Matrix, turn: int, now: float
    ) -> Matrix:
        """Predict, and remember that; float32 [segments, horizons]."""
        predicted = self._predictor.probabilities(rows)
        waiting.append(Expected(turn, now, list(members), rows, predicted))
        return predicted

    def observe(self, waiting: deque[Expected], used: frozenset[str], turn: int, now: float) -> None:
        """Turn number ``turn`` of the cube used these memories."""
        while waiting and now - waiting[0].at > self._horizon_s:
            self._settle(waiting.popleft())
        for prediction in waiting:
            for i, members in enumerate(prediction.members):
                if not used.isdisjoint(members):
                    prediction.used.setdefault(i, turn - prediction.turn)
        while waiting and turn - waiting[0].turn >= self._turns:
            self._settle(waiting.popleft())

    @property
    def trusted(self) -> bool:
        """True where segments that were used had lately been given a higher probability than those that were not: the
        covariance of probability and outcome within each prediction, added up. (How high does not matter here: that is
        what learning puts right.)"""
        return self._covariance >= 0.0

    def _measure(self, predicted: Matrix, outcomes: Matrix) -> None:
        if len(outcomes):
            covariance = float(((predicted - predicted.mean()) * (outcomes - outcomes.mean())).mean())
            self._covariance = _FADE * self._covariance + covariance

    def _settle(self, prediction: Expected) -> None:
        outcomes = np.zeros(prediction.predicted.shape, np.float32)
        for i, after in prediction.used.items():
            outcomes[i] = [after <= horizon for horizon in self._predictor.horizons]
        predicted, came = prediction.predicted[:, -1], outcomes[:, -1]
        self._measure(predicted, came)
        self.calibration.observe(predicted, came)
        said = predicted >= self._threshold
        self.card.scenes += 1
        self.card.predicted += float(said.sum())
        self.card.right += float(came[said].sum())
        self.card.used += float(came.sum())
        self._predictor.learn(prediction.rows, outcomes)
