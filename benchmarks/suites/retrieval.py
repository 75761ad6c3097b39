"""How well search finds the turns of a conversation that answer a question: LoCoMo, without a judge.

Recall, nDCG and all@k over *turns* (the messages that the found memories are from, best memory first) and over
*memories* (relevant is what was found in an evidence turn). Nothing is generated: the memories come from the local
extractor, the evidence from the file.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from memory import MemoryStore, Message, Said, new_message

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
KS = (5, 10, 20)
_TENANT = "bench"
TOP_K = 10
"""As many memories as a question asks for, where its user says nothing else."""


@dataclass(frozen=True)
class Asked:
    """A question, the turns that answer it, its category and its answer. ``trap``: what a question without an answer is
    answered with by those who do not look."""

    text: str
    evidence: frozenset[str]
    category: str
    answer: str = ""
    trap: str = ""


@dataclass
class Conversation:
    """A conversation's sessions of messages, the turn of each message id, and the questions over it."""

    sessions: list[list[Message]]
    turn_of: dict[str, str]
    asked: list[Asked]
    dropped: int


def load(path: Path) -> list[Conversation]:
    """Conversations of a LoCoMo file. Raises ``ValueError`` for a file of another kind."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, list) or not data or "conversation" not in data[0]:
        raise ValueError(f"{path} is no LoCoMo file")
    return [_conversation(item) for item in data]


def _conversation(item: dict[str, Any]) -> Conversation:
    sessions: list[list[Message]] = []
    turn_of: dict[str, str] = {}
    for number in range(1, 100):
        turns = item["conversation"].get(f"session_{number}")
        if not turns:
            continue
        at = _time(item["conversation"][f"session_{number}_date_time"])
        messages = []
        for i, turn in enumerate(turns):
            caption = turn.get("blip_caption")
            text = turn["text"] + (f" [photo: {caption}]" if caption else "")
            message = new_message(text, "user", at + i, turn["speaker"])
            turn_of[message.id] = turn["dia_id"]
            messages.append(message)
        sessions.append(messages)
    known = set(turn_of.values())
    asked = []
    for qa in item["qa"]:
        # Some ids are joined ("D8:6; D9:17"), a few dangle.
        evidence = frozenset(id for part in qa.get("evidence") or [] for id in re.findall(r"D\d+:\d+", part)) & known
        said = (str(qa.get(name, "")) for name in ("answer", "adversarial_answer"))
        asked.append(Asked(qa["question"], evidence, CATEGORIES[qa["category"]], *said))
    valid = [question for question in asked if question.evidence]
    return Conversation(sessions, turn_of, valid, len(asked) - len(valid))


def _time(text: str) -> float:
    return datetime.strptime(text, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC).timestamp()


def recall_at(ranked: Sequence[str], relevant: frozenset[str], k: int) -> float:
    """Share of what is relevant among the first ``k``."""
    return len(relevant.intersection(ranked[:k])) / len(relevant)


def ndcg_at(ranked: Sequence[str], relevant: frozenset[str], k: int) -> float:
    """Discounted cumulative gain over the best possible one, all relevant alike (Jarvelin and Kekalainen 2002)."""
    gain = sum(1 / math.log2(i + 2) for i, id in enumerate(ranked[:k]) if id in relevant)
    return gain / sum(1 / math.log2(i + 2) for i in range(min(k, len(relevant))))


@dataclass
class _Scores:
    """``ks``: the ranks that are scored."""

    ks: tuple[int, ...]
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, ranked: Sequence[str], relevant: frozenset[str]) -> None:
        for k in self.ks:
            recall = recall_at(ranked, relevant, k)
            self.values.setdefault(f"recall@{k}", []).append(recall)
            self.values.setdefault(f"all@{k}", []).append(float(recall == 1.0))
        self.values.setdefault("ndcg@10", []).append(ndcg_at(ranked, relevant, 10))

    def means(self) -> dict[str, Any]:
        n = len(next(iter(self.values.values()), []))
        return {"questions": n, **{name: round(float(np.mean(found)), 4) for name, found in self.values.items()}}


@dataclass
class _Table:
    """Scores over all questions and by category."""

    ks: tuple[int, ...]
    by_category: dict[str, _Scores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.overall = _Scores(self.ks)

    def add(self, category: str, ranked: Sequence[str], relevant: frozenset[str]) -> None:
        self.overall.add(ranked, relevant)
        self.by_category.setdefault(category, _Scores(self.ks)).add(ranked, relevant)

    def as_json(self) -> dict[str, Any]:
        return {
            "overall": self.overall.means(),
            "by_category": {name: self.by_category[name].means() for name in sorted(self.by_category)},
        }


@dataclass
class _Run:
    top_k: int
    turns: _Table
    memories: _Table
    shares: list[float] = field(default_factory=list)
    search_s: list[float] = field(default_factory=list)
    embed_s: list[float] = field(default_factory=list)
    add_s: float = 0.0
    messages: int = 0
    found: int = 0


def measure(store: MemoryStore, path: Path, count_tokens: Callable[[str], int], top_k: int = TOP_K) -> dict[str, Any]:
    """Add every conversation to a cube of its own, and ask its questions for ``top_k`` memories each: ranks beyond
    that are not scored."""
    conversations = load(path)
    ks = tuple(k for k in KS if k <= top_k) or (top_k,)
    run = _Run(top_k, _Table(ks), _Table(ks))
    for number, conversation in enumerate(conversations):
        cube = store.cubes.create(_TENANT, f"conversation-{number}").id
        begin = time.perf_counter()
        for i, session in enumerate(conversation.sessions):
            store.add_messages(_TENANT, cube, session, Said(session=f"session-{i}"))
        run.add_s += time.perf_counter() - begin
        _ask(run, store, cube, conversation, count_tokens)
    times = np.array(run.search_s) * 1e3
    return {
        "data": path.name,
        "top_k": top_k,
        "questions": sum(len(c.asked) for c in conversations),
        "questions_without_evidence": sum(c.dropped for c in conversations),
        **run.turns.as_json(),
        "memories": run.memories.as_json(),
        "messages": run.messages,
        "memories_found": run.found,
        "context_share": round(float(np.mean(run.shares)), 4),
        "search_ms": {"p50": round(float(np.median(times)), 3), "p99": round(float(np.percentile(times, 99)), 3)},
        "embed_query_ms": {"p50": round(float(np.median(run.embed_s)) * 1e3, 3)},
        "messages_added_per_s": round(run.messages / run.add_s, 1),
    }


def _ask(
    run: _Run, store: MemoryStore, cube: str, conversation: Conversation, count_tokens: Callable[[str], int]
) -> None:
    messages = [message for session in conversation.sessions for message in session]
    full = sum(count_tokens(f"{message.speaker}: {message.text}\n") for message in messages)
    run.messages += len(messages)
    sources = _sources(store, cube, conversation)
    run.found += len(sources)
    for question in conversation.asked:
        begin = time.perf_counter()
        store.embed([question.text])
        embedded = time.perf_counter()
        hits = store.search(_TENANT, question.text, cube_ids=[cube], top_k=run.top_k)
        run.search_s.append(time.perf_counter() - embedded)
        run.embed_s.append(embedded - begin)
        ids = [hit.memory.id for hit in hits]
        turns = list(dict.fromkeys(turn for id in ids for turn in _turns(store, conversation, id)))
        run.turns.add(question.category, turns, question.evidence)
        relevant = frozenset(id for id, turns_of in sources.items() if question.evidence.intersection(turns_of))
        if relevant:
            run.memories.add(question.category, ids, relevant)
        run.shares.append(sum(count_tokens(f"- {hit.memory.text}\n") for hit in hits[:10]) / full)


def _turns(store: MemoryStore, conversation: Conversation, memory_id: str) -> list[str]:
    return [conversation.turn_of[message.id] for message in store.sources(_TENANT, memory_id)]


def _sources(store: MemoryStore, cube: str, conversation: Conversation) -> dict[str, list[str]]:
    """The turns that each memory of the cube is from."""
    found: dict[str, list[str]] = {}
    after: str | None = None
    while True:
        page = store.list_memories(_TENANT, cube, limit=500, after=after)
        for memory in page.items:
            found[memory.id] = _turns(store, conversation, memory.id)
        after = page.next
        if after is None:
            return found
