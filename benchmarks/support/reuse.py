"""Will a stored chained segment be used again, how soon, and is it worth its place until then?

A segment here is a node of a radix tree: a run of tokens behind a prefix, all of them last used together. Its *history*
is a row of numbers (:class:`Column`), so that this serves a live store and the replay of a trace alike. Logistic
regressions, one a horizon, learn from delayed labels: samples of segments are remembered with their histories, and
learned from when the horizon has passed. Nothing is known of the future, and memory is bounded.

What eviction wants is not a probability but uses per second of being kept. Segments compete for space over time, so a
use that comes soon is worth more than one that comes late; how late still pays follows from the horizons, and no cache
size needs a horizon of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.prediction.density import density
from scheduler.prediction.learning import Calibration, Matrix, OnlineLogistic

Cells = NDArray[np.intp]

HORIZONS_S = (15.0, 60.0, 240.0)
_RATE = 0.3
_BATCH = 64
# What was learned from at once counts so much less with each time that something is learned.
_FADE = 0.98
# Before this many samples the model is not asked: what was used last is kept.
_MIN_SAMPLES = 1000.0


class Column(IntEnum):
    """A history, float32 [segments, len(Column)]. Times are seconds before now or between uses, lengths are tokens."""

    AGE = 0  # since the last use
    USES = 1  # so far, the first included
    GAP = 2  # between the last two uses; 0 when there was one
    START = 3  # tokens before the segment
    LENGTH = 4
    CHILDREN = 5  # different continuations
    DEPTH = 6  # segments up to it, itself included, at the last use: in a chat, about the number of turns
    AFTER = 7  # segments that the last use read behind it
    NEW = 8  # share of the last use's prompt that had not been seen before
    PARTIAL = 9  # 1: ends inside a block, so that nothing can continue it
    OUTPUT = 10  # tokens of the last use's answer
    PARENT_AGE = 11  # of the segment before it (AGE where there is none): below AGE when another way was taken since
    PARENT_GAP = 12
    PARENT_CHILDREN = 13


_AGES = np.array([2, 4, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1000, 1400, 2000, 2800.0])
_RATIOS = np.array([0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10])
_GAPS = np.array([10.0, 20, 40, 80, 160, 320])
_COARSE = np.array([20.0, 60, 180])
_SINCE = np.array([4.0, 10, 30, 100, 300])
_USES = np.array([2.0, 3, 6])
_DEPTHS = np.array([2.0, 3, 5, 9])
_AFTER = np.array([1.0, 2, 4])
_LENGTHS = np.array([1024.0, 2048, 4096, 8192, 16384, 32768, 65536])
_STARTS = np.array([1.0, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072])
_NEW = np.array([0.01, 0.1, 0.3, 0.6, 0.99])
_OUTPUTS = np.array([20.0, 50, 100, 200, 400, 800])
_PARENT_CHILDREN = np.array([2.0, 3, 6])
_MAX_CHILDREN = 4

_AGE_BINS = len(_AGES) + 1
_RATIO_BINS = len(_RATIOS) + 2
# One-hot groups, in the order of :func:`encode`.
_SIZES = (
    _AGE_BINS * 4,
    _AGE_BINS * 5,
    _AGE_BINS * 4,
    _RATIO_BINS * 4,
    _RATIO_BINS,
    (len(_GAPS) + 2) * 4,
    len(_LENGTHS) + 1,
    len(_STARTS) + 1,
    (_MAX_CHILDREN + 1) * 2,
    len(_NEW) + 1,
    len(_OUTPUTS) + 1,
    16,
    (len(_SINCE) + 1) * 4,
)
_OFFSETS = np.concatenate([[0], np.cumsum(_SIZES[:-1])])
FEATURES = sum(_SIZES)


def _bins(values: Matrix, edges: NDArray[np.float64]) -> Cells:
    return np.searchsorted(edges, values, side="right")


def _ratio(age: Matrix, gap: Matrix) -> Cells:
    """Bins of age / gap, 0 where there is no gap. Around 1, what is used at intervals is due."""
    return np.where(gap > 0, _bins((age + 1) / (gap + 1), _RATIOS) + 1, 0)


def encode(histories: Matrix) -> Cells:
    """Return the features that are 1, intp [segments, groups], of ``histories`` float32 [segments, len(Column)].

    Age is crossed with what changes the shape of the hazard over age; the rest shifts its level.
    """
    column = histories.T
    age, uses, gap = column[Column.AGE], _bins(column[Column.USES], _USES), column[Column.GAP]
    parent_gap, partial = column[Column.PARENT_GAP], column[Column.PARTIAL] > 0
    aged = _bins(age, _AGES)
    spacing = np.where(parent_gap > 0, _bins(parent_gap, _GAPS) + 1, 0)
    left = column[Column.PARENT_AGE] < age
    cells = (
        aged * 4 + uses,
        aged * 5 + _bins(column[Column.DEPTH], _DEPTHS),
        aged * 4 + _bins(column[Column.AFTER], _AFTER),
        _ratio(age, gap) * 4 + uses,
        _ratio(age, parent_gap),
        spacing * 4 + _bins(age, _COARSE),
        _bins(column[Column.LENGTH], _LENGTHS),
        _bins(column[Column.START], _STARTS),
        np.minimum(column[Column.CHILDREN], _MAX_CHILDREN).astype(np.intp) * 2 + partial,
        _bins(column[Column.NEW], _NEW),
        _bins(column[Column.OUTPUT], _OUTPUTS),
        left * 8 + _bins(column[Column.PARENT_CHILDREN], _PARENT_CHILDREN) * 2 + partial,
        _bins(age, _SINCE) * 4 + left * 2 + partial,
    )
    return np.asarray(np.stack(cells, axis=1) + _OFFSETS, np.intp)


def dense(cells: Cells) -> Matrix:
    """Rows for :class:`~scheduler.prediction.learning.OnlineLogistic`, float32 [segments, FEATURES]."""
    rows = np.zeros((len(cells), FEATURES), np.float32)
    rows[np.arange(len(cells))[:, None], cells] = 1.0
    return rows


def _prior(horizon: float) -> Matrix:
    """Weights to start from: the older, the less likely, as under a hazard that falls with 1 / age."""
    middle = np.concatenate([[1.0], np.sqrt(_AGES[1:] * _AGES[:-1]), [_AGES[-1]]])
    weights = np.zeros(FEATURES, np.float32)
    weights[: _SIZES[0]] = np.repeat(np.log(horizon / (5 * middle + 4 * horizon)), 4)
    return weights


def _log_loss(predicted: Matrix, outcomes: Matrix) -> float:
    """Sum over examples, in nats."""
    sure = np.clip(predicted, 1e-6, 1 - 1e-6)
    return float(-np.log(np.where(outcomes > 0, sure, 1 - sure)).sum())


class _Head:
    """The model of one horizon, and a table by age alone that it is measured against."""

    def __init__(self, horizon: float) -> None:
        self.horizon = horizon
        self.model = OnlineLogistic(_prior(horizon).tolist(), _RATE)
        self.calibration = Calibration()
        self.learned = 0  # batches, since the oldest that is remembered
        self.loss = self.age_loss = self.samples = 0.0
        self._seen = np.full(_AGE_BINS, 0.1)
        self._came = np.full(_AGE_BINS, 0.01)

    def learn(self, cells: Cells, outcomes: Matrix) -> None:
        """From samples float32 [samples] whose horizon has passed; they are predicted first, which measures."""
        rows = dense(cells)
        predicted = self.model.predict(rows)
        age = cells[:, 0] // 4
        by_age = np.asarray(self._came[age] / self._seen[age], np.float32)
        self.calibration.observe(predicted, outcomes)
        self.loss = _FADE * self.loss + _log_loss(predicted, outcomes)
        self.age_loss = _FADE * self.age_loss + _log_loss(by_age, outcomes)
        self.samples = _FADE * self.samples + len(outcomes)
        self._seen = _FADE * self._seen + np.bincount(age, minlength=_AGE_BINS)
        self._came = _FADE * self._came + np.bincount(age, outcomes, _AGE_BINS)
        for i in range(0, len(rows), _BATCH):
            self.model.learn(rows[i : i + _BATCH], outcomes[i : i + _BATCH])


@dataclass
class _Batch:
    """Samples that wait for their labels. ``used``: seconds, float64 [samples], of the first use since; inf: none."""

    at: float
    keys: list[Hashable]
    cells: NDArray[np.int16]
    used: NDArray[np.float64]


class ReuseModel:
    """Learns which segments come back, from samples that the caller gives and uses that it reports.

    The caller says :meth:`watch` for some segments now and then, :meth:`used` whenever segments are used, and
    :meth:`learn` before it ranks by :meth:`rank`. Times are seconds of any clock that does not go back.

    Parameters
    ----------
    horizons: seconds, ascending.
    capacity: samples that may wait for their labels at once; further ones are left out.
    """

    def __init__(self, horizons: Sequence[float] = HORIZONS_S, capacity: int = 1 << 16) -> None:
        self.horizons = tuple(horizons)
        self._heads = [_Head(horizon) for horizon in self.horizons]
        self._capacity = capacity
        self._batches: deque[_Batch] = deque()
        self._waiting: dict[Hashable, list[tuple[_Batch, int]]] = {}
        self.pending = 0

    def watch(self, keys: Sequence[Hashable], histories: Matrix, now: float) -> None:
        """Remember segments, ``histories`` float32 [keys, len(Column)], to learn from once the horizons have passed."""
        keys = keys[: self._capacity - self.pending]
        if not keys:
            return
        cells = encode(histories[: len(keys)]).astype(np.int16)
        batch = _Batch(now, list(keys), cells, np.full(len(keys), np.inf))
        for row, key in enumerate(keys):
            self._waiting.setdefault(key, []).append((batch, row))
        self._batches.append(batch)
        self.pending += len(keys)

    def used(self, keys: Iterable[Hashable], now: float) -> None:
        """The segments of these keys were used."""
        for key in keys:
            for batch, row in self._waiting.pop(key, ()):
                batch.used[row] = now

    def learn(self, now: float) -> None:
        """From the samples whose horizons have passed."""
        for head in self._heads:
            ripe = []
            for i in range(head.learned, len(self._batches)):
                if self._batches[i].at + head.horizon >= now:
                    break
                ripe.append(self._batches[i])
            if ripe:
                head.learned += len(ripe)
                came = np.concatenate([batch.used - batch.at <= head.horizon for batch in ripe])
                head.learn(np.concatenate([batch.cells for batch in ripe]).astype(np.intp), came.astype(np.float32))
        for _ in range(min(head.learned for head in self._heads)):
            self._forget()

    def _forget(self) -> None:
        batch = self._batches.popleft()
        self.pending -= len(batch.keys)
        for head in self._heads:
            head.learned -= 1
        for key in set(batch.keys):
            rest = [entry for entry in self._waiting.pop(key, ()) if entry[0] is not batch]
            if rest:
                self._waiting[key] = rest

    def probabilities(self, histories: Matrix) -> Matrix:
        """Of a use within each horizon, float32 [segments, horizons], never falling along the horizons."""
        cells = encode(histories)
        logits = np.stack([head.model.weights[cells].sum(axis=1) for head in self._heads], axis=1)
        each = 1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))
        return np.asarray(np.maximum.accumulate(each, axis=1), np.float32)

    def rank(self, histories: Matrix) -> Matrix:
        """Rank what to keep, highest first: uses per second, float32 [segments]; times what a use saves, by bytes.

        While the model is not :attr:`trusted` this is 1 / (1 + age), the order of least recent use.
        """
        if self.trusted:
            return density(self.probabilities(histories), self.horizons)
        return np.asarray(1.0 / (1.0 + histories[:, Column.AGE]), np.float32)

    @property
    def trusted(self) -> bool:
        """True if the model lately told more than the age alone does: a lower log loss, summed over the horizons."""
        enough = self._heads[-1].samples >= _MIN_SAMPLES
        return enough and sum(head.loss for head in self._heads) < sum(head.age_loss for head in self._heads)

    def calibrations(self) -> dict[float, Calibration]:
        """By horizon; each sample was predicted before it was learned from."""
        return {head.horizon: head.calibration for head in self._heads}

    def state(self) -> list[dict[str, Any]]:
        """Return what was learned, as JSON, one entry per horizon. Samples that wait are not in it."""
        return [head.model.state() for head in self._heads]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on from :meth:`state`. The model is trusted only once it has been measured again."""
        for head, learned in zip(self._heads, state, strict=True):
            head.model.restore(learned)
