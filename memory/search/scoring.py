"""One search: candidates from several sources, scored together, told apart, explained.

A memory's score is the sum of its parts: the score of its words over the best one of this search (text), the cosine
(vector), who said it (author), the time it is about (time), names it shares with the question or with what else was
found (graph), how lately and how often it was said (recency, weight). Weights of fusion were chosen on half of LoCoMo's
conversations; ``recallkv bench locomo`` measures them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memory.language.dates import clue_of
from memory.language.names import names_asked
from memory.language.words import alike, words_of
from memory.search.filters import parse_filter
from memory.search.vectors import MIN_COSINE
from memory.storage.base import Transaction
from memory.storage.candidates import NearestVectors
from memory.storage.records import Candidate
from memory.types import Hit, Vector

VECTOR, AUTHOR, TIME, GRAPH, RECENCY, WEIGHT, FORMER = 0.75, 0.1, 0.2, 0.05, 0.02, 0.02, 1.0
_RECENCY_S = 30 * 86_400.0
# Where a filter leaves at most this many memories, they are scored one by one.
_SCAN = 2_000
_SAME = 0.97
_SEEDS = 5
_DEPTH = 60
# A name that more memories mention tells little, and following it costs much.
_COMMON = 200
_FIRST_PERSON = frozenset("i my me mine we our us".split())


@dataclass(frozen=True)
class SearchQuery:
    """A search's question. ``at`` (Unix seconds) is when, for "last week" and for what has expired; default: now.

    ``hops``: 0 no names, 1 memories that share a name with the question, 2 also those that share one with the best.
    ``diversity`` from 0 to 1 trades score for difference among the results (MMR, Carbonell and Goldstein 1998); near
    duplicates of a better result are left out in any case.
    """

    text: str
    cube_ids: tuple[str, ...]
    top_k: int = 5
    filter: Mapping[str, Any] | None = None
    at: float | None = None
    utc_offset: int = 0
    hops: int = 1
    diversity: float = 0.0
    floor: float = 0.0


@dataclass
class _Scored:
    data: Candidate
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return self.data.number

    @property
    def score(self) -> float:
        return sum(self.parts.values())


class Search:
    """One search in a transaction. ``index_of`` gives a cube's vectors."""

    def __init__(
        self, tx: Transaction, query: SearchQuery, vector: Vector, index_of: Callable[[str], NearestVectors]
    ) -> None:
        """Prepare a search. Raises ``InvalidMemory`` for a bad filter."""
        self._tx = tx
        self._query = query
        self._condition = parse_filter(query.filter or {})
        self._vector = vector
        self._indexes = [index_of(cube) for cube in query.cube_ids]
        self._at = time.time() if query.at is None else query.at
        self._clue = clue_of(query.text, self._at, query.utc_offset)
        # Asked for a time that has passed, what has expired since held then.
        self._expired = {} if query.at is None else self._expired_vectors()
        self._past = bool(self._expired)

    def hits(self) -> list[Hit]:
        """Return the best ``top_k``, best first."""
        query = self._query
        depth = max(_DEPTH, 5 * query.top_k)
        text, vector = self._candidates(depth)
        found = self._load({*text, *vector})
        missing = [row for row in found if row not in vector]
        cosines = {**vector, **self._cosines(missing)}
        top_text = max(text.values(), default=1.0)
        for row, candidate in found.items():
            candidate.parts = {
                "text": text.get(row, 0.0) / top_text,
                "vector": VECTOR * max(0.0, cosines.get(row, 0.0)),
            }
        self._add_author(found)
        self._add_time(found)
        self._add_graph(found)
        self._add_former(found)
        ranked = sorted(found.values(), key=lambda c: (-c.score, -c.data.created_at, c.data.id))
        ranked = [candidate for candidate in ranked if candidate.score >= query.floor]
        text_rank = _ranks({row: score for row, score in text.items() if row in found})
        vector_rank = _ranks({row: score for row, score in vector.items() if row in found})
        chosen = self._told_apart(ranked)
        memories = self._tx.candidates.memories([c.number for c in chosen])
        return [
            Hit(memories[c.number], c.score, text_rank.get(c.number), vector_rank.get(c.number), dict(c.parts))
            for c in chosen
        ]

    def _candidates(self, depth: int) -> tuple[dict[int, float], dict[int, float]]:
        """Return memories with their score by words, and memories with their cosine. A filter that leaves few is
        applied first; otherwise the search goes deeper and the filter comes after."""
        query = self._query
        if query.filter:
            found = self._tx.candidates.matching(query.cube_ids, self._condition, _SCAN + 1, past=self._past)
            allowed = set(found)
            if len(allowed) <= _SCAN:
                text = self._texts(10 * _SCAN)
                near = {row: c for row, c in self._cosines(list(allowed)).items() if c >= MIN_COSINE}
                return {row: score for row, score in text.items() if row in allowed}, near
            depth *= 10
        text = self._texts(depth)
        pairs = [pair for index in self._indexes for pair in index.nearest(self._vector, depth)]
        pairs += [(row, c) for row, c in self._cosines(list(self._expired)).items() if c >= MIN_COSINE]
        pairs.sort(key=lambda pair: -pair[1])
        return text, dict(pairs[:depth])

    def _texts(self, depth: int) -> dict[int, float]:
        query = self._query
        n_memories = sum(len(index) for index in self._indexes)
        return self._tx.texts.scores(query.text, query.cube_ids, depth, in_cubes=n_memories, past=self._past)

    def _cosines(self, rows: Sequence[int]) -> dict[int, float]:
        found = {row: cosine for index in self._indexes for row, cosine in index.cosines(self._vector, rows).items()}
        scaled = self._indexes[0].scaled
        expired = {
            row: scaled(self._vector, float(self._expired[row] @ self._vector)) for row in rows if row in self._expired
        }
        return {**found, **expired}

    def _expired_vectors(self) -> dict[int, Vector]:
        """Return vectors of the memories that held at the time that is asked for and have expired since."""
        return self._tx.vectors.expired(self._query.cube_ids, self._at, len(self._vector), _SCAN)

    def _load(self, numbers: set[int]) -> dict[int, _Scored]:
        """Return candidates that may be shown: active, not expired, in these cubes, and let through by the filter."""
        cubes = self._query.cube_ids
        found = self._tx.candidates.of(numbers, cubes, self._at, self._condition, past=self._past)
        return {data.number: _Scored(data) for data in found}

    def _add_author(self, found: dict[int, _Scored]) -> None:
        """Count what somebody said for more, where the question names them."""
        asked = set(words_of(self._query.text))
        named = [name for name in self._authors() if asked.intersection(words_of(name))]
        if not named and asked & _FIRST_PERSON:
            named = ["User"]
        if len(named) != 1:
            return
        for candidate in found.values():
            if candidate.data.author == named[0]:
                candidate.parts["author"] = AUTHOR

    def _authors(self) -> set[str]:
        """Return everybody who said something in these cubes."""
        return {name for cube in self._query.cube_ids for name in self._tx.candidates.authors(cube)}

    def _add_time(self, found: dict[int, _Scored]) -> None:
        for candidate in found.values():
            data = candidate.data
            begin = data.created_at if data.event_at is None else data.event_at
            if self._clue.start is not None and self._clue.end is not None:
                end = begin + 1 if data.event_until is None else data.event_until
                if begin < self._clue.end and self._clue.start < end:
                    candidate.parts["time"] = TIME
            age = max(0.0, self._at - begin)
            candidate.parts["recency"] = RECENCY * _RECENCY_S / (_RECENCY_S + age)
            candidate.parts["weight"] = WEIGHT * data.importance * min(2.0, 1 + math.log10(data.uses))

    def _add_graph(self, found: dict[int, _Scored]) -> None:
        if not self._query.hops:
            return
        named = self._tx.names.known(self._query.cube_ids, names_asked(self._query.text))
        near = linked(self._tx, named)
        if self._query.hops > 1:
            seeds = sorted(found.values(), key=lambda c: -c.score)[:_SEEDS]
            mentioned = self._tx.names.of_memories([c.number for c in seeds])
            for row, score in linked(self._tx, mentioned).items():
                near[row] = max(near.get(row, 0.0), score / 2)
        absent = {row for row, score in near.items() if row not in found and score > 0.5}
        cosines = self._cosines(list(absent))
        for row, candidate in self._load(absent).items() if absent else ():
            candidate.parts = {"text": 0.0, "vector": VECTOR * max(0.0, cosines.get(row, 0.0))}
            found[row] = candidate
        for row, score in near.items():
            if row in found:
                found[row].parts["graph"] = GRAPH * score

    def _add_former(self, found: dict[int, _Scored]) -> None:
        """Add the states that what was found has replaced, where the question is about what was before."""
        if self._clue.tense != "before" or not found:
            return
        by_id = {candidate.data.id: candidate for candidate in found.values() if candidate.data.slot}
        for data in self._tx.candidates.former(by_id):
            newer = by_id[data.replaced_by or ""]
            found[data.number] = _Scored(data, {"former": FORMER, **newer.parts})

    def _told_apart(self, ranked: list[_Scored]) -> list[_Scored]:
        """Return the best ones, each different from those before it."""
        query = self._query
        pool = ranked[: max(20, 4 * query.top_k)]
        cosines = self._among([c.number for c in pool])
        likest = np.zeros(len(pool), dtype=np.float32)  # of each to the chosen one that is most like it
        left = list(range(len(pool)))
        chosen: list[_Scored] = []
        while left and len(chosen) < query.top_k:
            best = max(left, key=lambda i: self._gain(pool[i], float(likest[i]))) if query.diversity else left[0]
            left.remove(best)
            if likest[best] < _SAME or not self._duplicate(pool[best], chosen):
                chosen.append(pool[best])
                np.maximum(likest, cosines[best], out=likest)
        return chosen

    def _among(self, numbers: Sequence[int]) -> Vector:
        """Return the cosines of memories to each other, float32 [memories, memories]; 0 where one has no vector."""
        vectors = {row: v for index in self._indexes for row, v in index.vectors_of(numbers).items()}
        table = np.zeros((len(numbers), len(self._vector)), dtype=np.float32)
        for i, number in enumerate(numbers):
            if number in vectors:
                table[i] = vectors[number]
        return self._indexes[0].between(table)

    def _duplicate(self, candidate: _Scored, chosen: Sequence[_Scored]) -> bool:
        """Tell if a result with nearly the same vector as a better one has nearly the same words too."""
        texts = self._tx.candidates.memories([candidate.number, *(c.number for c in chosen)])
        words = set(words_of(texts[candidate.number].text))
        return any(alike(words, set(words_of(texts[c.number].text))) for c in chosen)

    def _gain(self, candidate: _Scored, likest: float) -> float:
        return (1 - self._query.diversity) * candidate.score - self._query.diversity * likest


def linked(tx: Transaction, names: Sequence[int]) -> dict[int, float]:
    """Return the memories that mention these names; the rarer the name, the closer: 1 / log2(1 + mentions), summed and
    scaled to at most 1. Names that very many memories mention are left out."""
    scores: dict[int, float] = {}
    for memories in tx.names.mentions(names, _COMMON):
        close = 1.0 / math.log2(1 + len(memories) + 1e-9) if memories else 0.0
        for number in memories:
            scores[number] = scores.get(number, 0.0) + close
    top = max(scores.values(), default=0.0)
    return {number: score / top for number, score in scores.items()}


def _ranks(scores: Mapping[int, float]) -> dict[int, int]:
    ordered = sorted(scores, key=lambda row: (-scores[row], -row))
    return {row: rank for rank, row in enumerate(ordered, start=1)}
