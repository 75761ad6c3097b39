"""One search: candidates from several sources, scored together, told apart, explained.

A memory's score is the sum of its parts: the score of its words over the best one of this search (text), the cosine
(vector), who said it (author), the time it is about (time), names it shares with the question or with what else was
found (graph), how lately and how often it was said (recency, weight), and what was found around it (near, session,
length; see ``memory.search.spreading``). Weights of fusion were chosen on half of LoCoMo's conversations; ``recallkv
bench locomo`` measures them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memory.language.dates import clue_of
from memory.language.names import names_asked
from memory.language.words import words_of
from memory.search.apart import Apart
from memory.search.filters import parse_filter
from memory.search.former import former_of
from memory.search.relevance import Chance, phatic, relevant
from memory.search.scored import VECTOR, Scored
from memory.search.spreading import spread
from memory.search.vectors import MIN_COSINE
from memory.storage.base import Transaction
from memory.storage.candidates import NearestVectors
from memory.types import Hit, Vector

AUTHOR, TIME, GRAPH, RECENCY, WEIGHT = 0.1, 0.2, 0.05, 0.02, 0.02
_RECENCY_S = 30 * 86_400.0
# Where a filter leaves at most this many memories, they are scored one by one.
_SCAN = 2_000
_SEEDS = 5
# The latest of what no longer holds, where that is asked for.
_FORMERS = 300
_DEPTH = 60
# A name that more memories mention tells little, and following it costs much.
_COMMON = 200
_FIRST_PERSON = frozenset("i my me mine we our us".split())


@dataclass(frozen=True)
class SearchQuery:
    """A search's question. ``at`` (Unix seconds) is when, for "last week" and for what has expired; default: now.

    ``hops``: 0 no names, 1 memories that share a name with the question, 2 also those that share one with the best.
    ``diversity`` from 0 to 1 trades score for difference among the results (MMR, Carbonell and Goldstein 1998); near
    duplicates of a better result are left out in any case. ``floor`` is the least score. With ``relevant`` there are no
    results that have nothing to do with the question, and none at all for a greeting (see ``memory.search.relevance``);
    without, a greeting finds only what holds its words.
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
    relevant: bool = False


class Search:
    """One search in a transaction. ``index_of`` gives a cube's vectors."""

    def __init__(
        self,
        tx: Transaction,
        query: SearchQuery,
        vector: Vector,
        index_of: Callable[[str], NearestVectors],
        chance: Chance,
    ) -> None:
        """Prepare a search. ``chance``: the cosines of unrelated texts. Raises ``InvalidMemory`` for a bad filter."""
        self._tx = tx
        self._query = query
        self._condition = parse_filter(query.filter or {})
        self._chance = chance
        self._phatic = phatic(query.text)
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
        if query.relevant and self._phatic:
            return []
        depth = _DEPTH if query.top_k <= _DEPTH else 5 * query.top_k
        text, vector = self._candidates(depth)
        if self._phatic:  # whatever is a little like it is so by chance
            vector = {row: cosine for row, cosine in vector.items() if row in text}
        found = self._load({*text, *vector})
        missing = [row for row in found if row not in vector]
        cosines = {**vector, **self._cosines(missing)}
        top_text = max(text.values(), default=1.0)
        for row, candidate in found.items():
            candidate.add("text", text.get(row, 0.0) / top_text)
            candidate.add("vector", VECTOR * max(0.0, cosines.get(row, 0.0)))
        self._add_author(found)
        self._add_time(found)
        self._add_graph(found)
        spread(found.values())
        self._add_former(found)
        ranked = sorted(found.values(), key=lambda c: (-c.score, -c.data.created_at, c.data.id))
        if query.floor > 0:
            ranked = [candidate for candidate in ranked if candidate.score >= query.floor]
        text_rank = _ranks({row: score for row, score in text.items() if row in found})
        vector_rank = _ranks({row: score for row, score in vector.items() if row in found})
        apart = Apart(self._tx, self._among, query.diversity)
        chosen = apart.choose(ranked, query.top_k, depth)
        memories = self._tx.candidates.memories([c.number for c in chosen])
        hits = [
            Hit(memories[c.number], c.score, text_rank.get(c.number), vector_rank.get(c.number), dict(c.parts))
            for c in chosen
        ]
        return relevant(query.text, hits, self._chance) if query.relevant else hits

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

    def _load(self, numbers: set[int]) -> dict[int, Scored]:
        """Return candidates that may be shown: active, not expired, in these cubes, and let through by the filter."""
        cubes = self._query.cube_ids
        found = self._tx.candidates.of(numbers, cubes, self._at, self._condition, past=self._past)
        return {data.number: Scored(data) for data in found}

    def _add_author(self, found: dict[int, Scored]) -> None:
        """Count what somebody said for more, where the question names them."""
        asked = set(words_of(self._query.text))
        named = [name for name in self._authors() if asked.intersection(words_of(name))]
        if not named and asked & _FIRST_PERSON:
            named = ["User"]
        if len(named) != 1:
            return
        for candidate in found.values():
            if candidate.data.author == named[0]:
                candidate.add("author", AUTHOR)

    def _authors(self) -> set[str]:
        """Return everybody who said something in these cubes."""
        return {name for cube in self._query.cube_ids for name in self._tx.candidates.authors(cube)}

    def _add_time(self, found: dict[int, Scored]) -> None:
        for candidate in found.values():
            data = candidate.data
            begin = data.created_at if data.event_at is None else data.event_at
            if self._clue.start is not None and self._clue.end is not None:
                end = begin + 1 if data.event_until is None else data.event_until
                if begin < self._clue.end and self._clue.start < end:
                    candidate.add("time", TIME)
            age = max(0.0, self._at - begin)
            candidate.add("recency", RECENCY * _RECENCY_S / (_RECENCY_S + age))
            candidate.add("weight", WEIGHT * data.importance * min(2.0, 1 + math.log10(data.uses)))

    def _add_graph(self, found: dict[int, Scored]) -> None:
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
            candidate.add("text", 0.0)
            candidate.add("vector", VECTOR * max(0.0, cosines.get(row, 0.0)))
            found[row] = candidate
        for row, score in near.items():
            if row in found:
                found[row].add("graph", GRAPH * score)

    def _add_former(self, found: dict[int, Scored]) -> None:
        """Add what was before, where the question is about that."""
        if self._clue.tense != "before":
            return
        formers = self._tx.candidates.former(self._query.cube_ids, self._at, self._condition, _FORMERS)
        for candidate in former_of(list(found.values()), formers, self._query.text):
            found[candidate.number] = candidate

    def _among(self, numbers: Sequence[int]) -> Vector:
        """Return the cosines of memories to each other, float32 [memories, memories]; 0 where one has no vector."""
        vectors = {row: v for index in self._indexes for row, v in index.vectors_of(numbers).items()}
        table = np.zeros((len(numbers), len(self._vector)), dtype=np.float32)
        for i, number in enumerate(numbers):
            if number in vectors:
                table[i] = vectors[number]
        return self._indexes[0].between(table)


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
