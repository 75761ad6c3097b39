"""Full-text search (SQLite FTS5, bm25), bounded in time however common the words are."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from itertools import combinations

# Rows that one search may score. bm25 takes about a microsecond a row, so this is the time a search may take.
BUDGET = 2_500
# What was said just before counts for a third of what the memory itself says.
_WEIGHTS = "0.0, 1.0, 0.3"
_MAX_TERMS = 64
_PAIRED = 4
_STOP_WORDS = frozenset(
    "a about am an and are as at be been being but by can could did do does for from had has have he her hers him "
    "his how i if in into is it its me mine my of on or our ours she should so than that the their theirs them then "
    "there these they this those to up us was we were what when where which who whom whose why will with would you "
    "your yours".split()
)


def words_of(text: str) -> list[str]:
    """Lower-case words in order, each once."""
    return list(dict.fromkeys(re.findall(r"\w+", text.lower())))


def telling_words(query: str) -> list[str]:
    """The words of a query that are worth searching for."""
    return [word for word in words_of(query) if word not in _STOP_WORDS][:_MAX_TERMS]


def _any(words: Sequence[str]) -> str:
    """An FTS5 expression. Each word is quoted, so that nothing in a query is read as syntax."""
    return " OR ".join(f'"{word}"' for word in words)


def _all(words: Sequence[str]) -> str:
    return " AND ".join(f'"{word}"' for word in words)


def cube_word(cube_id: str) -> str:
    """A cube's id as the one word that its rows hold in the column ``cube``."""
    return cube_id.removeprefix("cube_")


def text_scores(db: sqlite3.Connection, query: str, cubes: Sequence[str], depth: int) -> dict[int, float]:
    """The best ``depth`` memories (row ids) of these cubes that hold words of the query, with their bm25, above 0.

    Where the words match more than ``BUDGET`` rows, only these are scored: all rows of the rarest words that fit the
    budget, the latest rows that hold every word or pairs of the rarest ones, and the latest rows that hold any.
    """
    words = telling_words(query)
    if not words or not cubes:
        return {}
    within = "cube : (" + _any([cube_word(cube) for cube in cubes]) + ")"
    if _count(db, within, _any(words)) <= BUDGET:
        return _scored(db, within, _any(words), "score", depth)
    by_rarity = sorted((_count(db, within, f'"{word}"'), word) for word in words)
    found: dict[int, float] = {}
    for expression, limit in _bounded(by_rarity):
        for row, score in _scored(db, within, expression, "rowid DESC", limit).items():
            found[row] = max(score, found.get(row, 0.0))
    best = sorted(found, key=lambda row: (-found[row], -row))[:depth]
    return {row: found[row] for row in best}


def _bounded(by_rarity: list[tuple[int, str]]) -> list[tuple[str, int]]:
    """Expressions that together hold the likely best rows, each with the number of its latest rows to score."""
    rare: list[str] = []
    used = 0
    for count, word in by_rarity:
        used += count
        if used > BUDGET:
            break
        rare.append(word)
    words = [word for count, word in by_rarity if count]
    asked = [(_any(rare), BUDGET)] if rare else []
    if len(words) > 1:
        asked.append((_all(words), BUDGET // 4))
    if len(words) > 2:
        asked += [(_all(pair), BUDGET // 16) for pair in combinations(words[:_PAIRED], 2)]
    return [*asked, (_any(words), BUDGET // 4)]


def _count(db: sqlite3.Connection, within: str, expression: str) -> int:
    """Number of matching rows, counted up to just over the budget."""
    (n,) = db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM memory_text WHERE memory_text MATCH ? LIMIT ?)",
        (f"{within} AND ({expression})", BUDGET + 1),
    ).fetchone()
    return int(n)


def _scored(db: sqlite3.Connection, within: str, expression: str, order: str, limit: int) -> dict[int, float]:
    rows = db.execute(
        f"SELECT rowid, bm25(memory_text, {_WEIGHTS}) AS score FROM memory_text"
        f" WHERE memory_text MATCH ? ORDER BY {order} LIMIT ?",
        (f"{within} AND ({expression})", limit),
    ).fetchall()
    return {int(row["rowid"]): max(1e-9, -float(row["score"])) for row in rows}
