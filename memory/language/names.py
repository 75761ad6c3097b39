"""Names in texts, and the graph they make: memories that mention the same one are neighbours."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import pairwise

from memory.language.dates import DAYS, MONTHS
from memory.storage.sqlite.fulltext import words_of

_MAX_NAMES = 16
# A name that so many memories mention tells little, and following it costs much.
_COMMON = 200
_NAME = re.compile(r"[A-Z][\w'’&-]*(?:\s+(?:(?:of|the|de|la|van|von|and)\s+)?[A-Z][\w'’&-]*)*")
_QUOTED = re.compile(r"[\"“]([^\"”]{2,60})[\"”]")
_NO_NAMES = frozenset(
    "i i'm i've i'd i'll a an the and but or so if it it's its he she they we you your my his her our their this that "
    "these those there here what when where who why how which yes no not oh ok okay hi hey hello wow thanks thank yeah "
    "is are was were do does did have has had can could will would should may might let let's just well also "
    "some any all one on in at to from for with by of as up out after before then now today yesterday tomorrow user "
    "assistant please great good nice cool sorry glad really very sure maybe last next every since".split()
) | {*DAYS, *MONTHS}


def names_in(text: str) -> list[str]:
    """Names in a text, lower-case, each once: runs of capitalised words, and what stands in quotes."""
    found: dict[str, None] = {}
    for match in _NAME.finditer(text):
        words = match.group().split()
        while words and words[0].lower() in _NO_NAMES:  # a sentence begins with a capital too
            words = words[1:]
        name = " ".join(words).strip("'’-&").lower()
        name = name.removesuffix("'s").removesuffix("’s")
        if len(name) > 1 and name not in _NO_NAMES:
            found[name] = None
    found.update(dict.fromkeys(match.group(1).strip().lower() for match in _QUOTED.finditer(text)))
    return list(found)[:_MAX_NAMES]


def link(db: sqlite3.Connection, cube_id: str, row: int, names: Iterable[str]) -> None:
    """Say which names the memory with this row id mentions."""
    for name in names:
        db.execute("INSERT OR IGNORE INTO entities (cube_id, name) VALUES (?, ?)", (cube_id, name))
        db.execute(
            "INSERT OR IGNORE INTO mentions SELECT id, ? FROM entities WHERE cube_id = ? AND name = ?",
            (row, cube_id, name),
        )


def unlink(db: sqlite3.Connection, row: int) -> None:
    """Forget what the memory mentions, and names that nothing else mentions."""
    mentioned = [r["entity"] for r in db.execute("SELECT entity FROM mentions WHERE memory = ?", (row,))]
    db.execute("DELETE FROM mentions WHERE memory = ?", (row,))
    db.executemany(
        "DELETE FROM entities WHERE id = ? AND NOT EXISTS (SELECT 1 FROM mentions WHERE entity = entities.id)",
        [(entity,) for entity in mentioned],
    )


def named_in(db: sqlite3.Connection, query: str, cubes: Sequence[str]) -> list[int]:
    """Entities of these cubes that a query names, in whatever case."""
    words = words_of(query)
    asked = {*names_in(query), *words, *(f"{a} {b}" for a, b in pairwise(words))}
    rows = db.execute(
        "SELECT id FROM entities WHERE cube_id IN (SELECT value FROM json_each(?))"
        " AND name IN (SELECT value FROM json_each(?))",
        (json.dumps(list(cubes)), json.dumps(sorted(asked))),
    )
    return [int(row["id"]) for row in rows]


def linked(db: sqlite3.Connection, entities: Sequence[int]) -> dict[int, float]:
    """Memories (row ids) that mention these entities, the rarer the name, the closer: 1 / log2(1 + mentions), summed
    and scaled to at most 1. Names that very many memories mention are left out."""
    scores: dict[int, float] = {}
    for entity in entities:
        (n,) = db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM mentions WHERE entity = ? LIMIT ?)", (entity, _COMMON + 1)
        ).fetchone()
        if n > _COMMON:
            continue
        close = 1.0 / math.log2(1 + n + 1e-9)
        for (row,) in db.execute("SELECT memory FROM mentions WHERE entity = ?", (entity,)):
            scores[row] = scores.get(row, 0.0) + close
    top = max(scores.values(), default=0.0)
    return {row: score / top for row, score in scores.items()}


def mentioned_by(db: sqlite3.Connection, rows: Sequence[int]) -> list[int]:
    """Entities that these memories mention."""
    found = db.execute(
        "SELECT DISTINCT entity FROM mentions WHERE memory IN (SELECT value FROM json_each(?))",
        (json.dumps(list(rows)),),
    )
    return [int(row["entity"]) for row in found]
