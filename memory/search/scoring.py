"""One search: candidates from several sources, scored together, told apart, explained.

A memory's score is the sum of its parts: bm25 over the best bm25 of this search (text), the cosine (vector), who said
it (author), the time it is about (time), names it shares with the question or with what else was found (graph), how
lately and how often it was said (recency, weight). Weights of fusion were chosen on half of LoCoMo's conversations;
``recallkv bench locomo`` measures them.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memory.language.dates import clue_of
from memory.language.names import linked, mentioned_by, named_in
from memory.search.filters import compile_filter
from memory.search.vectors import MIN_COSINE, CubeIndex, Vector
from memory.storage.sqlite.fulltext import past_of, text_scores, words_of
from memory.storage.sqlite.rows import memory_of, vector_of
from memory.types import Hit, Memory

VECTOR, AUTHOR, TIME, GRAPH, RECENCY, WEIGHT, FORMER = 0.75, 0.1, 0.2, 0.05, 0.02, 0.02, 1.0
_RECENCY_S = 30 * 86_400.0
# At most so many rows are scored one by one where a filter leaves no more than that.
_SCAN = 2_000
_SAME = 0.97
_SEEDS = 5
_DEPTH = 60
_SCORED_BY = "m.rowid AS row, " + ", ".join(
    f"m.{name}" for name in "id author created_at event_at event_until importance uses slot replaced_by".split()
)
_FIRST_PERSON = frozenset("i my me mine we our us".split())


@dataclass(frozen=True)
class SearchQuery:
    """What is asked. ``at`` (Unix seconds) is when, for "last week" and for what has expired; default: now.

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
class _Candidate:
    row: int
    data: sqlite3.Row
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return sum(self.parts.values())


class Search:
    """One search over an open database. ``index_of`` gives a cube's vectors."""

    def __init__(
        self,
        db: sqlite3.Connection,
        query: SearchQuery,
        vector: Vector,
        index_of: Callable[[str], CubeIndex],
    ) -> None:
        self._db = db
        self._query = query
        self._filter = compile_filter(query.filter or {})
        self._vector = vector
        self._indexes = [index_of(cube) for cube in query.cube_ids]
        self._at = time.time() if query.at is None else query.at
        self._clue = clue_of(query.text, self._at, query.utc_offset)
        # Asked for a time that has passed, what has expired since held then.
        self._expired = {} if query.at is None else self._expired_vectors()
        expired = " OR m.status = 'archived' AND m.expires_at IS NOT NULL" if self._expired else ""
        self._in_use = f"(m.status = 'active'{expired})"

    def hits(self) -> list[Hit]:
        """The best ``top_k``, best first."""
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
        ranked = sorted(found.values(), key=lambda c: (-c.score, -c.data["created_at"], c.data["id"]))
        ranked = [candidate for candidate in ranked if candidate.score >= query.floor]
        text_rank = _ranks({row: score for row, score in text.items() if row in found})
        vector_rank = _ranks({row: score for row, score in vector.items() if row in found})
        chosen = self._told_apart(ranked)
        memories = self._memories([c.row for c in chosen])
        return [
            Hit(memories[c.row], c.score, text_rank.get(c.row), vector_rank.get(c.row), dict(c.parts)) for c in chosen
        ]

    def _memories(self, rows: Sequence[int]) -> dict[int, Memory]:
        found = self._db.execute(
            "SELECT rowid AS row, * FROM memories WHERE rowid IN (SELECT value FROM json_each(?))", (json.dumps(rows),)
        )
        return {data["row"]: memory_of(data) for data in found}

    def _candidates(self, depth: int) -> tuple[dict[int, float], dict[int, float]]:
        """Rows with their bm25, and rows with their cosine. A filter that leaves few rows is applied first; otherwise
        the search goes deeper and the filter comes after."""
        query = self._query
        if query.filter:
            condition, values = self._filter
            rows = self._db.execute(
                f"SELECT m.rowid AS row FROM memories m WHERE {self._in_use} AND m.cube_id IN"
                f" (SELECT value FROM json_each(?)) AND {condition} LIMIT ?",
                (json.dumps(query.cube_ids), *values, _SCAN + 1),
            ).fetchall()
            allowed = {int(row["row"]) for row in rows}
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
        cubes = [*self._query.cube_ids, *(past_of(cube) for cube in self._query.cube_ids if self._expired)]
        return text_scores(self._db, self._query.text, cubes, depth, self._n_memories())

    def _cosines(self, rows: Sequence[int]) -> dict[int, float]:
        found = {row: cosine for index in self._indexes for row, cosine in index.cosines(self._vector, rows).items()}
        expired = {row: float(self._expired[row] @ self._vector) for row in rows if row in self._expired}
        return {**found, **expired}

    def _expired_vectors(self) -> dict[int, Vector]:
        """Vectors of the memories that held at the time that is asked for and have expired since, the last first."""
        rows = self._db.execute(
            "SELECT v.memory, v.vector FROM memories m JOIN vectors v ON v.memory = m.rowid WHERE m.expires_at > ?"
            " AND m.status = 'archived' AND m.cube_id IN (SELECT value FROM json_each(?)) AND length(v.vector) = ?"
            " ORDER BY m.expires_at LIMIT ?",
            (self._at, json.dumps(self._query.cube_ids), 2 * len(self._vector), _SCAN),
        )
        return {row["memory"]: vector_of(row["vector"]) for row in rows}

    def _n_memories(self) -> int:
        return sum(len(index) for index in self._indexes)

    def _load(self, rows: set[int]) -> dict[int, _Candidate]:
        """Candidates that may be shown: active, not expired, in these cubes, and let through by the filter."""
        condition, values = self._filter
        found = self._db.execute(
            f"SELECT {_SCORED_BY} FROM memories m WHERE m.rowid IN (SELECT value FROM json_each(?))"
            f" AND {self._in_use} AND m.cube_id IN (SELECT value FROM json_each(?))"
            f" AND (m.expires_at IS NULL OR m.expires_at > ?) AND {condition}",
            (json.dumps(list(rows)), json.dumps(self._query.cube_ids), self._at, *values),
        )
        return {data["row"]: _Candidate(data["row"], data) for data in found}

    def _add_author(self, found: dict[int, _Candidate]) -> None:
        """Where the question names one of those who said things, theirs count more."""
        asked = set(words_of(self._query.text))
        named = [name for name in self._authors() if asked.intersection(words_of(name))]
        if not named and asked & _FIRST_PERSON:
            named = ["User"]
        if len(named) != 1:
            return
        for candidate in found.values():
            if candidate.data["author"] == named[0]:
                candidate.parts["author"] = AUTHOR

    def _authors(self) -> set[str]:
        """Everybody who said something in these cubes; one step down the index each."""
        return {
            row["name"]
            for cube in self._query.cube_ids
            for row in self._db.execute(
                "WITH RECURSIVE a(name) AS (SELECT min(author) FROM memories WHERE cube_id = ?1 AND author IS NOT NULL"
                " UNION ALL SELECT (SELECT min(author) FROM memories WHERE cube_id = ?1 AND author > a.name) FROM a"
                " WHERE a.name IS NOT NULL) SELECT name FROM a WHERE name IS NOT NULL LIMIT 200",
                (cube,),
            )
        }

    def _add_time(self, found: dict[int, _Candidate]) -> None:
        for candidate in found.values():
            data = candidate.data
            begin = data["created_at"] if data["event_at"] is None else data["event_at"]
            if self._clue.start is not None and self._clue.end is not None:
                end = begin + 1 if data["event_until"] is None else data["event_until"]
                if begin < self._clue.end and self._clue.start < end:
                    candidate.parts["time"] = TIME
            age = max(0.0, self._at - begin)
            candidate.parts["recency"] = RECENCY * _RECENCY_S / (_RECENCY_S + age)
            candidate.parts["weight"] = WEIGHT * data["importance"] * min(2.0, 1 + math.log10(data["uses"]))

    def _add_graph(self, found: dict[int, _Candidate]) -> None:
        if not self._query.hops:
            return
        near = linked(self._db, named_in(self._db, self._query.text, self._query.cube_ids))
        if self._query.hops > 1:
            seeds = sorted(found.values(), key=lambda c: -c.score)[:_SEEDS]
            for row, score in linked(self._db, mentioned_by(self._db, [c.row for c in seeds])).items():
                near[row] = max(near.get(row, 0.0), score / 2)
        absent = {row for row, score in near.items() if row not in found and score > 0.5}
        cosines = self._cosines(list(absent))
        for row, candidate in self._load(absent).items() if absent else ():
            candidate.parts = {"text": 0.0, "vector": VECTOR * max(0.0, cosines.get(row, 0.0))}
            found[row] = candidate
        for row, score in near.items():
            if row in found:
                found[row].parts["graph"] = GRAPH * score

    def _add_former(self, found: dict[int, _Candidate]) -> None:
        """Asked for what was before, the states that what was found has replaced."""
        if self._clue.tense != "before" or not found:
            return
        by_id = {candidate.data["id"]: candidate for candidate in found.values() if candidate.data["slot"]}
        rows = self._db.execute(
            f"SELECT {_SCORED_BY} FROM memories m WHERE m.status = 'archived' AND m.slot IS NOT NULL"
            " AND m.replaced_by IN (SELECT value FROM json_each(?))",
            (json.dumps(list(by_id)),),
        )
        for data in rows:
            newer = by_id[data["replaced_by"]]
            found[data["row"]] = _Candidate(data["row"], data, {"former": FORMER, **newer.parts})

    def _told_apart(self, ranked: list[_Candidate]) -> list[_Candidate]:
        """The best ones, each different from those before it."""
        query = self._query
        pool = ranked[: max(20, 4 * query.top_k)]
        rows = [c.row for c in pool]
        vectors = {row: v for index in self._indexes for row, v in index.vectors_of(rows).items()}
        chosen: list[_Candidate] = []
        while pool and len(chosen) < query.top_k:
            best = max(pool, key=lambda c: self._gain(c, chosen, vectors)) if query.diversity else pool[0]
            pool.remove(best)
            if _likeness(best, chosen, vectors) < _SAME or not self._duplicate(best, chosen):
                chosen.append(best)
        return chosen

    def _duplicate(self, candidate: _Candidate, chosen: Sequence[_Candidate]) -> bool:
        """Whether a result with nearly the same vector as a better one has nearly the same words too."""
        texts = self._memories([candidate.row, *(c.row for c in chosen)])
        words = set(words_of(texts[candidate.row].text))
        return any(alike(words, set(words_of(texts[c.row].text))) for c in chosen)

    def _gain(self, candidate: _Candidate, chosen: Sequence[_Candidate], vectors: Mapping[int, Vector]) -> float:
        alike = _likeness(candidate, chosen, vectors)
        return (1 - self._query.diversity) * candidate.score - self._query.diversity * alike


def _ranks(scores: Mapping[int, float]) -> dict[int, int]:
    ordered = sorted(scores, key=lambda row: (-scores[row], -row))
    return {row: rank for rank, row in enumerate(ordered, start=1)}


def _likeness(candidate: _Candidate, chosen: Sequence[_Candidate], vectors: Mapping[int, Vector]) -> float:
    own = vectors.get(candidate.row)
    others = [vectors[c.row] for c in chosen if c.row in vectors]
    if own is None or not others:
        return 0.0
    return float(np.max(np.stack(others) @ own))


def alike(a: set[str], b: set[str]) -> bool:
    """Whether two texts say the same: nearly the same words, and the same numbers and negations."""
    differing = a ^ b
    if any(word.isdigit() or word in ("not", "no", "never", "t") for word in differing):
        return False
    return len(a & b) >= 0.9 * len(a | b)
