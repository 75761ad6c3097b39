"""Signals from what is known of a cube when its next turns are predicted.

A *scene* is one turn: which memories were in its prompt, when, and what it was about. From the scenes of a cube follow
signals for each memory (by id, so that an edit does not lose its history):

    recency      turns since it was last used
    frequency    decayed count of its uses
    transition   how often it followed what the last turn used
    drift        how near it is to what was said last, and to where the conversation is heading
    neighbour    whether it shares a name with what the last turn used
    hint         how near it is to what an application said is coming
    typed        how well it answers what is being typed

What is predicted is a *segment*, which holds several memories: it has the strongest of their signals.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scheduler.prediction.learning import Matrix

# The columns of a row of features.
SIGNALS = (
    "bias",
    "seen",
    "recency",
    "age",
    "frequency",
    "transition",
    "drift",
    "heading",
    "neighbour",
    "hint",
    "typed",
    "members",
    "gap",
    "turn",
)
_DECAY = 0.9
_HEADING = 0.6  # how much of where the conversation was heading is left after a turn
_MAX_FOLLOWERS = 32
_MAX_MEMORIES = 2048
_SESSION_GAP_S = 1800.0
_HINT_S = 600.0
_TYPED_S = 60.0


@dataclass
class Use:
    """A memory's uses in its cube: in which turn last, and the decayed count of them then."""

    turn: int
    count: float


@dataclass
class _Passing:
    """A signal that holds for a while: scores by memory until a time."""

    scores: Mapping[str, float] = field(default_factory=dict)
    until: float = 0.0

    def at(self, now: float) -> Mapping[str, float]:
        return self.scores if now < self.until else {}


class CubeHistory:
    """The scenes of one cube, as far as signals need them. Not thread-safe."""

    def __init__(self) -> None:
        self.turn = 0
        self.turn_in_session = 0
        self.last_at = 0.0
        self.gap_s = 0.0
        self._uses: OrderedDict[str, Use] = OrderedDict()
        self._followers: dict[str, dict[str, float]] = {}
        self._last: tuple[str, ...] = ()
        self._drift: Mapping[str, float] = {}
        self._heading: dict[str, float] = {}
        self._neighbours: frozenset[str] = frozenset()
        self._hint = _Passing()
        self._typed = _Passing()

    @property
    def known(self) -> list[str]:
        """Memories that were used, the least recent first."""
        return list(self._uses)

    @property
    def near(self) -> set[str]:
        """Memories that something other than their own use points at."""
        found = {*self._drift, *self._heading, *self._neighbours, *self._hint.scores, *self._typed.scores}
        for id in self._last:
            found.update(self._followers.get(id, ()))
        return found

    def uses_per_turn(self) -> dict[str, float]:
        """Return the uses per turn of each memory that was used, as far as the last turns tell."""
        return {id: use.count * _DECAY ** (self.turn - use.turn) * (1 - _DECAY) for id, use in self._uses.items()}

    def observe(self, used: Sequence[str], now: float) -> None:
        """Take in that a turn used these memories. ``now``: Unix seconds."""
        self.gap_s = now - self.last_at if self.turn else 0.0
        self.turn_in_session = 0 if self.gap_s > _SESSION_GAP_S else self.turn_in_session + 1
        self.turn += 1
        self.last_at = now
        ids = tuple(dict.fromkeys(used))
        for id in ids:
            old = self._uses.pop(id, None)
            count = 1.0 if old is None else 1.0 + old.count * _DECAY ** (self.turn - old.turn)
            self._uses[id] = Use(self.turn, count)
        while len(self._uses) > _MAX_MEMORIES:
            gone, _ = self._uses.popitem(last=False)
            self._followers.pop(gone, None)
        for before in self._last:
            self._note_followers(before, ids)
        self._last = ids
        self._typed = _Passing()

    def _note_followers(self, before: str, after: Iterable[str]) -> None:
        if before not in self._uses:
            return
        counts = self._followers.setdefault(before, {})
        for id in counts:
            counts[id] *= _DECAY
        for id in after:
            counts[id] = counts.get(id, 0.0) + 1.0
        if len(counts) > _MAX_FOLLOWERS:
            for id in sorted(counts, key=counts.__getitem__)[: len(counts) - _MAX_FOLLOWERS]:
                del counts[id]

    def drifted(self, cosines: Mapping[str, float], neighbours: Iterable[str] = ()) -> None:
        """Take in that what was said last is so near to these memories, and these share a name with what it used."""
        self._drift = cosines
        heading = {id: value * _HEADING for id, value in self._heading.items() if value > 0.05}
        for id, value in cosines.items():
            heading[id] = heading.get(id, 0.0) + (1 - _HEADING) * value
        self._heading = heading
        self._neighbours = frozenset(neighbours)

    def hinted(self, cosines: Mapping[str, float], now: float) -> None:
        """Take in that an application said that something so near to these memories is coming."""
        self._hint = _Passing(dict(cosines), now + _HINT_S)

    def typed(self, ranked: Sequence[str], now: float) -> None:
        """Take in that what is being typed finds these memories, best first."""
        self._typed = _Passing({id: 1.0 / math.sqrt(rank) for rank, id in enumerate(ranked, start=1)}, now + _TYPED_S)

    def rows(self, segments: Sequence[Collection[str]], now: float) -> Matrix:
        """Return features, float32 [segments, signals], of segments that hold these memories each."""
        follow = self._following()
        hint, typed = self._hint.at(now), self._typed.at(now)
        common = (math.log1p(max(0.0, self.gap_s)) / 8, math.log1p(self.turn_in_session) / 4)
        rows = np.zeros((len(segments), len(SIGNALS)), np.float32)
        for i, members in enumerate(segments):
            uses = [use for id in members if (use := self._uses.get(id)) is not None]
            age = self.turn - max((use.turn for use in uses), default=-1)
            rows[i] = (
                1.0,
                float(bool(uses)),
                math.exp(-age / 3) if uses else 0.0,
                math.log1p(age) / 4 if uses else 0.0,
                math.log1p(sum(use.count * _DECAY ** (self.turn - use.turn) for use in uses)),
                min(1.0, sum(follow.get(id, 0.0) for id in members)),
                _strongest(self._drift, members),
                _strongest(self._heading, members),
                float(any(id in self._neighbours for id in members)),
                _strongest(hint, members),
                _strongest(typed, members),
                math.log1p(len(members)) / 3,
                *common,
            )
        return rows

    def _following(self) -> dict[str, float]:
        """Return how much each memory belongs behind what the last turn used: the mean share of the turns after it."""
        found: dict[str, float] = {}
        for before in self._last:
            counts = self._followers.get(before, {})
            total = sum(counts.values()) + 2.0  # a pair seen once says little
            for id, count in counts.items():
                found[id] = found.get(id, 0.0) + count / total / len(self._last)
        return found

    def state(self) -> dict[str, Any]:
        """Return what a restart needs, as JSON: no texts, no vectors."""
        return {
            "turn": self.turn,
            "last_at": self.last_at,
            "last": list(self._last),
            "uses": {id: [use.turn, round(use.count, 3)] for id, use in self._uses.items()},
            "followers": {
                id: {other: round(count, 3) for other, count in counts.items()}
                for id, counts in self._followers.items()
            },
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> CubeHistory:
        """Make the history that :meth:`state` was asked of."""
        history = cls()
        history.turn, history.last_at = int(state["turn"]), float(state["last_at"])
        history._last = tuple(state["last"])
        history._uses = OrderedDict((id, Use(int(turn), float(count))) for id, (turn, count) in state["uses"].items())
        history._followers = {id: dict(counts) for id, counts in state["followers"].items()}
        return history


def _strongest(scores: Mapping[str, float], members: Iterable[str]) -> float:
    return max((scores.get(id, 0.0) for id in members), default=0.0)
