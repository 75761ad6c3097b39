"""The judge without a language model: features of words and vectors, and a trained forest over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from memory.judge.base import Judge, Older, Relation, Statement, Verdict
from memory.judge.forest import Floats, Weights, read_weights
from memory.judge.pairs import NAMES, Setting, features
from memory.judge.traits import Traits, traits_of
from memory.types import Vector

_WEIGHTS = Path(__file__).with_name("weights.safetensors")
_DAY_S = 86_400.0
ANCHOR = "User: I live in Oslo and work as a nurse."
"""The sentence by whose vector an embedder is known."""
# Rounding (bfloat16) leaves the cosine of the same text above this.
_SAME_EMBEDDER = 0.995


class LocalJudge(Judge):
    """Compares a statement with older ones. ``knows_vectors``: the statements' vectors are of the embedder that the
    weights were trained with; with another one, words alone decide."""

    def __init__(self, *, knows_vectors: bool, weights: Weights | None = None) -> None:
        self._weights = weights or _weights()
        self._knows_vectors = knows_vectors

    @classmethod
    def for_embedder(cls, embed: Callable[[str], Vector]) -> LocalJudge:
        """Make a judge for whatever ``embed`` is: known when it gives the vector of a sentence that the weights' own
        embedder gives."""
        weights = _weights()
        vector = embed(ANCHOR)
        known = vector.shape == weights.anchor.shape and float(vector @ weights.anchor) > _SAME_EMBEDDER
        return cls(knows_vectors=known, weights=weights)

    @property
    def name(self) -> str:
        return "local"

    def judge(self, new: Statement, older: Sequence[Older]) -> list[Verdict]:
        before = [item for item in older if item.statement.said_at <= new.said_at]
        verdicts = iter(self._judged(new, before))
        return [
            next(verdicts) if item.statement.said_at <= new.said_at else self._judged(item.statement, [Older(new)])[0]
            for item in older
        ]

    def _judged(self, new: Statement, older: Sequence[Older]) -> list[Verdict]:
        if not older:
            return []
        traits = traits_of(new.text)
        olds = [traits_of(item.statement.text) for item in older]
        found = self._weights.forest.probabilities(self._rows(new, traits, older, olds))
        return [
            self._verdict(traits, old, item.statement.happened, float(p))
            for item, old, p in zip(older, olds, found, strict=True)
        ]

    def _rows(self, new: Statement, traits: Traits, older: Sequence[Older], olds: Sequence[Traits]) -> Floats:
        vectors = [item.statement.vector for item in older]
        known = [v for v in vectors if v is not None]
        read = np.full((len(older), 2), np.nan, dtype=np.float32)
        cosines = np.full(len(older), np.nan, dtype=np.float32)
        if self._knows_vectors and new.vector is not None and len(known) == len(older):
            table = np.stack(known)
            cosines = table @ new.vector
            read = self._weights.probes.read(table, new.vector)
        near = cosines.tolist()
        rows = [
            features(old, traits, _setting(new, item, cosine, near))
            for item, old, cosine in zip(older, olds, near, strict=True)
        ]
        return np.concatenate([np.stack(rows), read], axis=1)

    def _verdict(self, new: Traits, old: Traits, happened: bool, probability: float) -> Verdict:
        threshold = self._weights.threshold_other if new.foreign or not new.spaced else self._weights.threshold
        if probability < threshold or _vetoed(old, new, happened):
            return Verdict("unrelated", 1 - probability, self.name)
        ends = bool(new.cues & {"no_more", "ended"}) and "changed" not in new.cues
        relation: Relation = "end" if ends else "update"
        return Verdict(relation, probability, self.name)


def _vetoed(old: Traits, new: Traits, happened: bool) -> bool:
    """Tell if words alone forbid that the new statement takes the place of the old one: they are of different people or
    days, or the old one is of something that has happened."""
    corrects = bool(new.cues & {"correct", "no_more"})
    if happened and not corrects:
        return True
    if old.people and new.people and not old.people & new.people:
        return True
    changes = corrects or bool(new.cues & {"now", "ended", "changed"})
    other_days = bool(old.weekdays and new.weekdays and not old.weekdays & new.weekdays)
    return other_days and not changes


def _setting(new: Statement, older: Older, cosine: float, near: Sequence[float]) -> Setting:
    days = (new.said_at - older.statement.said_at) / _DAY_S
    return Setting(cosine, near, days, older.previous, older.statement.author == new.author)


@lru_cache(maxsize=1)
def _weights() -> Weights:
    weights = read_weights(_WEIGHTS)
    if weights.features != NAMES:
        raise RuntimeError("The judge's weights were trained with other features; run tools.train_judge.")
    return weights
