"""Proof that a memory is forgotten: a scan of every place that its text, or anything derived from it, could be in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memory.storage.sqlite.fulltext import cube_word
from memory.storage.sqlite.rows import digest_of
from memory.types import Memory

_REPLIES = (
    "SELECT count(*) FROM keyed_requests WHERE seq IN (SELECT request FROM keyed_request_cubes WHERE cube_id = ?)"
    " AND instr(body, CAST(? AS BLOB)) > 0"
)
COVERS = "the memory, its history, what was merged into it, and the messages that it is from"
"""What a proof speaks of. A word that somebody used in another message as well is that message's."""


@dataclass(frozen=True)
class Scan:
    """Rows found, by place. ``text`` counts any table of text that still holds a sentence of the memory's."""

    text: int
    history: int
    full_text: int
    vectors: int
    graph: int
    messages: int
    feedback: int
    replies: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Proof:
    """What was forgotten (as it was), what a scan found afterwards, and when (Unix seconds)."""

    memory: Memory
    scan: Scan
    at: float

    def as_json(self) -> dict[str, Any]:
        """Without the text: the digest says which one it was."""
        return {
            "memory": self.memory.id,
            "digest": digest_of(self.memory.text),
            "found": asdict(self.scan),
            "clean": self.scan.total == 0,
            "covers": COVERS,
            "at": self.at,
        }


def scan(db: sqlite3.Connection, memory: Memory, texts: Sequence[str]) -> Scan:
    """Look for a forgotten memory. ``texts`` are others that went with it: earlier versions, messages."""
    wanted = sorted({text for text in (memory.text, *texts) if len(text) >= 3})

    def count(sql: str, *values: Any) -> int:
        return int(db.execute(sql, values).fetchone()[0])

    def holding(table: str, column: str, where: str = "1") -> int:
        sql = f"SELECT count(*) FROM {table} WHERE {where} AND instr({column}, ?) > 0"
        return sum(count(sql, text) for text in wanted)

    row = count("SELECT rowid FROM memories WHERE id = ?", memory.id)
    cube = f"cube_id = '{memory.cube_id}'"
    return Scan(
        text=count("SELECT count(*) FROM memories WHERE id = ? AND text != ''", memory.id)
        + count(f"SELECT count(*) FROM memories WHERE {cube} AND status = 'merged' AND replaced_by = ?", memory.id),
        history=count("SELECT count(*) FROM memory_changes WHERE memory_id = ? AND text IS NOT NULL", memory.id),
        full_text=count("SELECT count(*) FROM memory_text WHERE rowid = ?", row)
        + holding("memory_text", "context", f"cube = '{cube_word(memory.cube_id)}'"),
        vectors=count("SELECT count(*) FROM vectors WHERE memory = ?", row),
        graph=count("SELECT count(*) FROM mentions WHERE memory = ?", row),
        messages=count("SELECT count(*) FROM provenance WHERE memory_id = ?", memory.id)
        + sum(count(f"SELECT count(*) FROM messages WHERE {cube} AND text = ?", text) for text in wanted),
        feedback=count("SELECT count(*) FROM feedback WHERE instr(actions, ?) > 0", memory.id),
        replies=sum(count(_REPLIES, memory.cube_id, json.dumps(text, ensure_ascii=False)[1:-1]) for text in wanted),
    )
