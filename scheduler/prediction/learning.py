"""Online logistic regression, and how well its probabilities are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

_BINS = 10


class OnlineLogistic:
    """Logistic regression learned example by example, with AdaGrad's step sizes (Duchi, Hazan and Singer 2011).

    Parameters
    ----------
    prior: weights to start from, float32 [features]; what is predicted before anything was seen.
    rate: step size of the first example.
    """

    def __init__(self, prior: Sequence[float], rate: float = 0.2) -> None:
        self._weights = np.asarray(prior, np.float32).copy()
        self._squares = np.full(len(self._weights), 0.1, np.float32)
        self._rate = rate

    @property
    def weights(self) -> Matrix:
        """float32 [features]."""
        return self._weights

    def predict(self, rows: Matrix) -> Matrix:
        """Return probabilities, float32 [rows], of ``rows`` float32 [rows, features]."""
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(rows @ self._weights, -30.0, 30.0))), np.float32)

    def learn(self, rows: Matrix, outcomes: Matrix) -> None:
        """Take one step on examples of which ``outcomes`` float32 [rows] says 1 (it came) or 0."""
        if not len(rows):
            return
        gradient = rows.T @ (self.predict(rows) - outcomes) / len(rows)
        self._squares += gradient * gradient
        self._weights -= self._rate * gradient / np.sqrt(self._squares)

    def state(self) -> dict[str, Any]:
        """Return what was learned, as JSON."""
        return {"weights": self._weights.tolist(), "squares": self._squares.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`; one of another number of features is left aside."""
        if len(state["weights"]) == len(self._weights):
            self._weights = np.asarray(state["weights"], np.float32)
            self._squares = np.asarray(state["squares"], np.float32)


class Calibration:
    """The shares of predictions that came true, by predicted probability in tenths; old outcomes fade."""

    def __init__(self) -> None:
        self._predicted = np.zeros(_BINS)
        self._came = np.zeros(_BINS)
        self._count = np.zeros(_BINS)

    def observe(self, predicted: Matrix, outcomes: Matrix) -> None:
        """Take in predictions and what came of them, float32 [examples] each."""
        fade = 0.999
        bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
        for kept, added in ((self._predicted, predicted), (self._came, outcomes), (self._count, None)):
            kept *= fade
            kept += np.bincount(bins, added, _BINS)

    def error(self) -> float:
        """Return the expected calibration error (Naeini, Cooper and Hauskrecht 2015): mean gap between probability and
        share."""
        total = self._count.sum()
        return float(np.abs(self._predicted - self._came).sum() / total) if total else 0.0

    def table(self) -> list[dict[str, float]]:
        """Return each tenth that was predicted: mean probability, share that came, examples."""
        return [
            {
                "predicted": round(float(self._predicted[i] / self._count[i]), 3),
                "came": round(float(self._came[i] / self._count[i]), 3),
                "examples": round(float(self._count[i]), 1),
            }
            for i in range(_BINS)
            if self._count[i] >= 1
        ]
