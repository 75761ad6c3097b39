"""Next-scene prediction: how likely each segment is to be used in the coming turns.

Every predictor is a logistic regression over some of the signals (see ``scheduler.prediction.signals``), learned online
from what was used and what was not: so each one's output is a probability, and they can be compared. ``blend`` has them
all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from scheduler.prediction.learning import Calibration, Matrix, OnlineLogistic
from scheduler.prediction.signals import SIGNALS

PredictorName = Literal["blend", "recency", "frequency", "transition", "drift"]

# What each looks at, and the weights that it starts from, before anything was seen.
_SIGNALS_OF: dict[PredictorName, dict[str, float]] = {
    "recency": {"bias": -2.0, "seen": 0.0, "recency": 2.5, "age": -1.0},
    "frequency": {"bias": -2.0, "frequency": 1.5},
    "transition": {"bias": -2.0, "transition": 4.0},
    "drift": {"bias": -3.0, "drift": 3.0, "heading": 3.0},
    "blend": {
        "bias": -3.0,
        "seen": 0.0,
        "recency": 1.5,
        "age": -0.5,
        "frequency": 0.7,
        "transition": 2.0,
        "drift": 2.0,
        "heading": 2.0,
        "neighbour": 0.3,
        "hint": 4.0,
        "typed": 5.0,
        "members": 0.3,
        "gap": 0.0,
        "turn": 0.0,
    },
}
# Of what was measured, so much is left after the next prediction: the last fifty or so count.
_FADE = 0.98
PREDICTORS: tuple[PredictorName, ...] = tuple(_SIGNALS_OF)


# How far ahead, in turns of the cube: the first says what is needed at once, the last what is worth bringing up.
HORIZONS = (1, 3, 8)


class Predictor(Protocol):
    """Probabilities from rows of features."""

    @property
    def horizons(self) -> tuple[int, ...]:
        """Turns ahead, ascending."""
        ...

    def probabilities(self, rows: Matrix) -> Matrix:
        """Float32 [rows, horizons] for ``rows`` float32 [rows, signals]: the probability that each segment is used
        within each horizon, never falling along the horizons."""
        ...

    def learn(self, rows: Matrix, outcomes: Matrix) -> None:
        """These rows' segments were (1) or were not (0) used within each horizon, float32 [rows, horizons]."""
        ...


class SignalPredictor:
    """One of the predictors by name, a regression a horizon."""

    def __init__(self, name: PredictorName = "blend", horizons: tuple[int, ...] = HORIZONS) -> None:
        wanted = _SIGNALS_OF[name]
        self.name: PredictorName = name
        self.horizons = horizons
        self._columns = [SIGNALS.index(signal) for signal in wanted]
        self._models = [OnlineLogistic(list(wanted.values())) for _ in horizons]

    def probabilities(self, rows: Matrix) -> Matrix:
        each = np.stack([model.predict(rows[:, self._columns]) for model in self._models], axis=1)
        return np.asarray(np.maximum.accumulate(each, axis=1), np.float32)

    def learn(self, rows: Matrix, outcomes: Matrix) -> None:
        for i, model in enumerate(self._models):
            model.learn(rows[:, self._columns], outcomes[:, i])

    def weights(self) -> dict[str, float]:
        """What was learned for the last horizon, by signal."""
        names = (SIGNALS[column] for column in self._columns)
        return {name: round(float(weight), 3) for name, weight in zip(names, self._models[-1].weights, strict=True)}

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "horizons": [model.state() for model in self._models]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`; that of another predictor is left aside."""
        if state["name"] == self.name and len(state["horizons"]) == len(self._models):
            for model, kept in zip(self._models, state["horizons"], strict=True):
                model.restore(kept)


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

    def __init__(self, predictor: Predictor, *, horizon_s: float = 1800.0, threshold: float) -> None:
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
        """Whether segments that were used had lately been given a higher probability than those that were not: the
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
