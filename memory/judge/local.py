"""The judge without a language model: features of words and vectors, and a trained forest over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from memory.judge.base import Judge, Older, Relation, Statement, Verdict
from memory.judge.cues import VERBS
from memory.judge.forest import Floats, Weights, read_weights
from memory.judge.pairs import NAMES, Setting, features
from memory.judge.traits import Traits, stem, traits_of
from memory.types import Vector

_WEIGHTS = Path(__file__).with_name("weights.safetensors")
_DAY_S = 86_400.0
# The probability of what patterns of words make plain.
_SURE = 0.9
_LIKELY = 0.12
_UNSURE = frozenset({"unsure", "past", "brief", "also"})
_NOTHING = frozenset(["", "it", "this", "that", "them", "him", "her", "when", "how", "what"])
_CONFIRMING = frozenset("yes yeah yep right correct exactly indeed sure ok okay true".split())
ANCHOR = "User: I live in Oslo and work as a nurse."
"""The sentence by whose vector an embedder is known."""
# Rounding (bfloat16) leaves the cosine of the same text above this.
_SAME_EMBEDDER = 0.995


class LocalJudge(Judge):
    """Compares a statement with older ones. ``reads_vectors``: the statements' vectors are of the embedder that the
    weights were trained with; with another one, words alone decide."""

    def __init__(self, *, reads_vectors: bool, weights: Weights | None = None) -> None:
        self._weights = weights or _weights()
        self.reads_vectors = reads_vectors

    @classmethod
    def for_embedder(cls, embed: Callable[[str], Vector]) -> LocalJudge:
        """Make a judge for whatever ``embed`` is: known when it gives the vector of a sentence that the weights' own
        embedder gives."""
        weights = _weights()
        vector = embed(ANCHOR)
        known = vector.shape == weights.anchor.shape and float(vector @ weights.anchor) > _SAME_EMBEDDER
        return cls(reads_vectors=known, weights=weights)

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
            self._verdict(_Two(item.statement, old, new, traits), float(p))
            for item, old, p in zip(older, olds, found, strict=True)
        ]

    def _rows(self, new: Statement, traits: Traits, older: Sequence[Older], olds: Sequence[Traits]) -> Floats:
        vectors = [item.statement.vector for item in older]
        known = [v for v in vectors if v is not None]
        read = np.full((len(older), 2), np.nan, dtype=np.float32)
        cosines = np.full(len(older), np.nan, dtype=np.float32)
        if self.reads_vectors and new.vector is not None and len(known) == len(older):
            table = np.stack(known)
            cosines = table @ new.vector
            read = self._weights.probes.read(table, new.vector)
        of_each = cosines.tolist()
        near = sorted(of_each)
        rows = features(
            (old, traits, _setting(new, item, cosine, near))
            for item, old, cosine in zip(older, olds, of_each, strict=True)
        )
        return np.concatenate([rows, read], axis=1)

    def _verdict(self, two: _Two, probability: float) -> Verdict:
        new = two.new
        threshold = self._weights.threshold_other if new.foreign or not new.spaced else self._weights.threshold
        if _takes_its_slot(two):
            probability = max(probability, _SURE)
        elif _has_moved(two):  # without vectors nothing tells a city from a text editor
            threshold = min(threshold, _LIKELY if self.reads_vectors else 0.0)
        if probability < threshold or _vetoed(two):
            return Verdict("unrelated", 1 - probability, self.name)
        ends = bool(new.cues & {"no_more", "ended"}) and "changed" not in new.cues
        relation: Relation = "end" if ends else "update"
        return Verdict(relation, probability, self.name)


@dataclass(frozen=True)
class _Two:
    """An older and a new statement with their traits."""

    older: Statement
    old: Traits
    newer: Statement
    new: Traits

    @property
    def corrects(self) -> bool:
        return bool(self.new.cues & {"correct", "no_more"})

    @property
    def subjects(self) -> tuple[str | None, str | None]:
        """Whom each is about, the speakers by name."""
        return _whose(self.old, self.older), _whose(self.new, self.newer)


def _whose(traits: Traits, statement: Statement) -> str | None:
    return (statement.author or "User").lower() if traits.subject == "" else traits.subject


def _takes_its_slot(two: _Two) -> bool:
    """Tell if both say how the same thing of the same subject stands, with another value of the same shape: "I live in
    Oslo", "I live in Lima"."""
    old, new = two.old, two.new
    whose = two.subjects
    if old.slot is None or new.slot is None or whose[0] is None or whose[0] != whose[1]:
        return False
    slot = new.slot.partition("|")[2]
    if slot != old.slot.partition("|")[2] or new.cues & _UNSURE:
        return False
    if new.ends:
        return new.first_person and not _ends_another(old, new)
    if old.value == new.value:
        return False
    if new.tokens.count("i") > 1 or not (new.first_person or slot.startswith(("own", "favourite", "birthday"))):
        return False  # somebody thinks so, or "I never said that I do"
    if slot.partition(":")[0] == "liking":
        return slot.partition(":")[2] not in _NOTHING
    if slot in ("age", "diet", "relation", "birthday") or slot.startswith("favourite"):
        return True
    return old.shape == new.shape and not new.shape.endswith("words")


def _has_moved(two: _Two) -> bool:
    """Tell if the speaker, alone, has gone to live somewhere else: "I live in Oslo", "I moved to Lima"."""
    old, new = two.old, two.new
    homes = old.slot == new.slot == "|home" and old.value != new.value and not new.ends
    return homes and new.tokens[0] == "i" and new.shape.endswith("name") and not new.cues & _UNSURE


def _ends_another(old: Traits, new: Traits) -> bool:
    """Tell if the new statement ends something else of the kind: who no longer lives in Rome may well live in Oslo."""
    if not new.ends or new.slot != old.slot or not new.value or not old.value:
        return False
    return not {stem(word) for word in new.value.split()} & old.stems


def _vetoed(two: _Two) -> bool:
    """Tell if words alone forbid that the new statement takes the place of the old one: they are of different people or
    days, the old one is of something that has happened, or the new one says nothing that the old one does not."""
    old, new = two.old, two.new
    if two.older.happened and not two.corrects:
        return True
    if old.letters == new.letters:  # the same words in another order: somebody else did it to the first
        return True
    if new.stems - _CONFIRMING <= old.stems and new.numbers <= old.numbers and not new.cues & {"no_more", "ended"}:
        return not _takes_its_slot(two)
    if _ends_another(old, new) or (old.people and new.people and not old.people & new.people):
        return True
    whose = two.subjects
    if None not in whose and whose[0] != whose[1] and whose[0] not in new.tokens and whose[1] not in old.tokens:
        return True
    if two.corrects or new.cues & {"now", "ended", "changed"}:
        return False
    other_days = bool(old.weekdays and new.weekdays and not old.weekdays & new.weekdays)
    return other_days or (_of_another(old, new) and not _takes_its_slot(two))


def _of_another(old: Traits, new: Traits) -> bool:
    """Tell if two statements of one wording differ before their verb: the same is said of something else."""
    shared = len(old.stems & new.stems)
    if 2 * shared < max(len(old.stems), len(new.stems)):
        return False
    if new.subject is None and len(old.numbers - new.numbers) > 1 and len(new.numbers - old.numbers) > 1:
        return True  # "parcel 5 lies in room 7", "parcel 6 lies in room 8"
    pairs = zip(old.tokens, new.tokens, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), len(old.tokens))
    verb = next((i for i, token in enumerate(old.tokens) if token in VERBS), 0)
    return first < verb


def _setting(new: Statement, older: Older, cosine: float, near: Sequence[float]) -> Setting:
    days = (new.said_at - older.statement.said_at) / _DAY_S
    return Setting(cosine, near, days, older.previous, older.statement.author == new.author)


@lru_cache(maxsize=1)
def _weights() -> Weights:
    weights = read_weights(_WEIGHTS)
    if weights.features != NAMES:
        raise RuntimeError("The judge's weights were trained with other features; run tools.train_judge.")
    return weights
