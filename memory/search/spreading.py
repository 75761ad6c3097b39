"""A hit's score spreads to what was said around it: candidates near a good one in its conversation, and in its session.

Who asks often uses words of the question that was asked then, or of the remark behind the answer, rather than the
answer's own. So a candidate is lifted a part of the way to its best neighbour, and to the best of its session. It
never comes to stand above all of those that lift it, and nothing changes for what stands alone: memories without a
session, facts that were told days apart. Among what was said in one go, longer statements tell more than "Wow, me
too!", so length counts a little there.

The weights were chosen on LoCoMo's development half by leaving out one conversation at a time; all of LATER 0.3 to
0.6, EARLIER 0 to 0.2, SESSION 0.2 to 0.4 and LENGTH 0.06 to 0.14 lie within one point of each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import attrgetter

from memory.search.scored import Scored
from memory.storage.records import Candidate

# What was said just before is in a candidate's own score already (its context): what came later counts for more.
LATER, EARLIER, SESSION, LENGTH = 0.45, 0.1, 0.3, 0.09
_TURNS = 2
_BEST = 3
# What was said in one go: later on in the same session, people speak of something else.
_SITTING_S = 3 * 3_600.0
# A statement of this many characters counts neither for more nor for less; one more word is some six of them.
_USUAL_CHARS, _WORD_CHARS = 90, 6
_USUAL_LOG = math.log1p(_USUAL_CHARS / _WORD_CHARS)


def spread(found: Iterable[Scored]) -> None:
    """Lift candidates toward the better ones around them: parts ``near``, ``session`` and ``length``."""
    sessions: dict[str, list[Scored]] = {}
    for candidate in found:
        session = candidate.data.session
        if session is not None:
            sessions.setdefault(session, []).append(candidate)
    for members in sessions.values():
        if len(members) > 1:
            members.sort(key=_number)
            _spread(members)


def _spread(members: Sequence[Scored]) -> None:
    """Lift the candidates of a session, which are given in order."""
    scores = [candidate.score for candidate in members]
    best = sum(sorted(scores)[-_BEST:]) / _BEST
    neighbours = _neighbours(members, scores)
    for candidate, own in zip(members, scores, strict=True):
        if candidate.number in neighbours:
            later, earlier = neighbours[candidate.number]
            near = LATER * max(0.0, later - own) + EARLIER * max(0.0, earlier - own)
            if near:
                candidate.add("near", near)
            candidate.add("length", LENGTH * (math.log1p(candidate.data.length / _WORD_CHARS) - _USUAL_LOG))
        if best > own:
            candidate.add("session", SESSION * (best - own))


def _neighbours(members: Sequence[Scored], scores: Sequence[float]) -> dict[int, list[float]]:
    """Return for each candidate that has neighbours the best score of those up to two turns later, and of those up to
    two turns earlier."""
    best: dict[int, list[float]] = {}
    turns = [_turns(a.data, b.data) for a, b in pairwise(members)]
    for i, away in enumerate(turns):
        j = i + 1
        while away <= _TURNS:
            a, b = members[i], members[j]
            if _together(a.data, b.data):
                ahead, behind = best.setdefault(a.number, [0.0, 0.0]), best.setdefault(b.number, [0.0, 0.0])
                ahead[0] = max(ahead[0], scores[j])
                behind[1] = max(behind[1], scores[i])
            if j == len(turns):
                break
            away += turns[j]
            j += 1
    return best


def _turns(earlier: Candidate, later: Candidate) -> int:
    """Return how many turns lie between two memories of a session. Others may be added at the same time, so that the
    numbers say at most how many; what follows directly says so itself."""
    return 1 if later.follows == earlier.id else later.number - earlier.number


def _together(a: Candidate, b: Candidate) -> bool:
    """Tell if two memories were said in one go, as far as is known: of one that names a date, that is kept only."""
    if a.event_until is not None or b.event_until is not None:
        return True
    return abs(_time(a) - _time(b)) < _SITTING_S


_number = attrgetter("number")


def _time(candidate: Candidate) -> float:
    return candidate.created_at if candidate.event_at is None else candidate.event_at
