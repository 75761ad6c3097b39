"""Full-text search (SQLite FTS5, bm25), bounded in time however common the words are."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from itertools import combinations

from memory.language.words import begins_words, searchable, telling_words
from memory.types import Memory

# Rows that one search may score. bm25 takes about a microsecond a row, so this is the time a search may take.
BUDGET = 2_000
# Cubes with a larger share of all memories than one in this many are not worth being told apart by a word.
_MOST = 4
# A word in more rows than this tells little: its rows are not all looked at, only the latest.
_COMMON = 1_000
# What was said just before counts for a third of what the memory itself says.
_WEIGHTS = "0.0, 1.0, 0.3"
_PAIRED = 3


def _any(words: Sequence[str]) -> str:
    """Return an FTS5 expression for any of the words. Each is quoted, so that nothing in a query is read as syntax."""
    return " OR ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    return f'"{word}"*' if begins_words(word) else f'"{word}"'


def cube_word(cube_id: str) -> str:
    """Return a cube's id as the one word that its rows hold in the column ``cube``."""
    return cube_id.removeprefix("cube_")


def past_of(cube_id: str) -> str:
    """Return the word that rows of a cube hold once they have expired: nobody finds them who asks for today."""
    return f"past{cube_word(cube_id)}"


class SqliteTexts:
    """See ``memory.storage.candidates.Texts``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, number: int, memory: Memory, context: str) -> None:
        self._db.execute(
            "INSERT INTO memory_text (rowid, cube, text, context) VALUES (?, ?, ?, ?)",
            (number, cube_word(memory.cube_id), searchable(memory.text), searchable(context)),
        )

    def remove(self, number: int) -> None:
        self._db.execute("DELETE FROM memory_text WHERE rowid = ?", (number,))

    def retire(self, number: int, cube_id: str) -> None:
        self._db.execute("UPDATE memory_text SET cube = ? WHERE rowid = ?", (past_of(cube_id), number))

    def scores(
        self, query: str, cube_ids: Sequence[str], depth: int, *, in_cubes: int | None = None, past: bool = False
    ) -> dict[int, float]:
        """Return the best ``depth`` memories with their bm25.

        Where the words are in more than ``BUDGET`` rows, the commonest ones, which tell least, are left out; where that
        leaves fewer than two, the latest rows that hold two of the rarest words, or the only one, count by the words'
        idf. Where ``in_cubes`` is a large share of all memories, rows come from all cubes, more of them, and the caller
        tells them apart (bm25 counts every row that holds a word, and all of a cube's hold the cube's).
        """
        words = telling_words(query)
        if not words or not cube_ids:
            return {}
        cubes = [cube_word(cube) for cube in cube_ids] + [past_of(cube) for cube in cube_ids if past]
        n_rows = int(self._db.execute("SELECT coalesce(max(rowid), 0) FROM memories").fetchone()[0])
        few = in_cubes is None or in_cubes < n_rows / _MOST
        depth = depth if few or in_cubes is None else depth * n_rows // max(1, in_cubes)
        found = _found(self._db, words, f"cube : ({_any(cubes)}) AND " if few else "", depth, n_rows)
        best = sorted(found, key=lambda row: (-found[row], -row))[:depth]
        return {row: found[row] for row in best}


def _found(db: sqlite3.Connection, words: Sequence[str], within: str, depth: int, n_rows: int) -> dict[int, float]:
    counts = sorted((n, word) for word in words if (n := _count(db, within, word, n_rows)))
    rare = _rare(counts)
    found = _scored(db, within, rare, depth) if rare else {}
    if len(rare) < min(2, len(counts)):
        found = _latest(db, within, counts, n_rows) | found
    return found


def _rare(counts: Sequence[tuple[int, str]]) -> list[str]:
    """Return the rarest words whose rows fit the budget together."""
    rare: list[str] = []
    used = 0
    for n, word in counts:
        used += n
        if used > BUDGET or n > _COMMON:
            break
        rare.append(word)
    return rare


def _latest(db: sqlite3.Connection, within: str, counts: Sequence[tuple[int, str]], n_rows: int) -> dict[int, float]:
    """Return the latest rows that hold two of the rarest words (or the only one), with the sum of the words' idf: bm25
    of a row of average length that holds each once."""
    rarest = counts[:_PAIRED]
    idf = [max(1e-6, math.log((n_rows - n + 0.5) / (n + 0.5))) if n < n_rows else 1e-6 for n, _ in rarest]
    held: dict[int, int] = {}  # a bit for each word
    for group in combinations(range(len(rarest)), min(2, len(rarest))):
        bits = sum(1 << i for i in group)
        expression = " AND ".join(_quoted(rarest[i][1]) for i in group)
        rows = db.execute(
            "SELECT rowid FROM memory_text WHERE memory_text MATCH ? ORDER BY rowid DESC LIMIT ?",
            (f"{within}({expression})", BUDGET // 16),
        )
        for (row,) in rows:
            held[row] = held.get(row, 0) | bits
    scores = {bits: sum(value for i, value in enumerate(idf) if bits >> i & 1) for bits in set(held.values())}
    return {row: scores[bits] for row, bits in held.items()}


def _count(db: sqlite3.Connection, within: str, word: str, n_rows: int) -> int:
    """Count the rows that hold a word; estimated from the latest ones where it is common."""
    expression = f"{within}{_quoted(word)}"
    if n_rows > _COMMON:
        earliest = db.execute(
            "SELECT rowid FROM memory_text WHERE memory_text MATCH ? ORDER BY rowid DESC LIMIT 1 OFFSET ?",
            (expression, _COMMON),
        ).fetchone()
        if earliest is not None:
            return max(_COMMON + 1, int(_COMMON * n_rows / max(1, n_rows - earliest[0])))
    (n,) = db.execute("SELECT count(*) FROM memory_text WHERE memory_text MATCH ?", (expression,)).fetchone()
    return int(n)


def _scored(db: sqlite3.Connection, within: str, words: Sequence[str], depth: int) -> dict[int, float]:
    rows = db.execute(
        f"SELECT rowid, bm25(memory_text, {_WEIGHTS}) AS score FROM memory_text"
        " WHERE memory_text MATCH ? ORDER BY score LIMIT ?",
        (f"{within}({_any(words)})", depth),
    )
    return {row: max(1e-9, -score) for row, score in rows}
