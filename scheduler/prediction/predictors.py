"""Next-scene prediction: how likely each segment is to be used in the coming turns.

Every predictor is a logistic regression over some of the signals (see ``scheduler.prediction.signals``), learned online
from what was used and what was not: so each one's output is a probability, and they can be compared. ``blend`` has them
all.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from scheduler.prediction.learning import Matrix, OnlineLogistic
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
        """Return float32 [rows, horizons] for ``rows`` float32 [rows, signals]: the probability that each segment is
        used within each horizon, never falling along the horizons."""
        ...

    def learn(self, rows: Matrix, outcomes: Matrix) -> None:
        """Learn from rows whose segments were (1) or were not (0) used within each horizon, float32 [rows,
        horizons]."""
        ...


class SignalPredictor:
    """One of the predictors by name, a regression a horizon."""

    def __init__(self, name: PredictorName, horizons: tuple[int, ...] = HORIZONS) -> None:
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
        """Return the weights that were learned for the last horizon, by signal."""
        names = (SIGNALS[column] for column in self._columns)
        return {name: round(float(weight), 3) for name, weight in zip(names, self._models[-1].weights, strict=True)}

    def state(self) -> dict[str, Any]:
        """Return what was learned, as JSON."""
        return {"name": self.name, "horizons": [model.state() for model in self._models]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`; that of another predictor is left aside."""
        if state["name"] == self.name and len(state["horizons"]) == len(self._models):
            for model, kept in zip(self._models, state["horizons"], strict=True):
                model.restore(kept)
