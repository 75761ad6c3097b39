"""How true memories stay when something changes: labelled cases, each in a cube of its own, without a judge.

A case's earlier messages are added one by one, then its message. Scored is which texts are active then (what still
holds must be, what no longer holds must not, what nobody asserted must not), and whether its questions find what they
should among the best three.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from benchmarks.data.updates.cases import Case, Line
from memory import MemoryStore, Said
from server.core.checks import message_of, moment

TOP_K = 3
What = Literal["stays", "retired", "not_stored", "found"]
_TENANT = "bench"
_PAGE = 100


class Kept(Protocol):
    """The memories under test, by cube."""

    def open(self, name: str) -> str:
        """Make an empty cube, and return its id."""

    def add(self, cube: str, session: str, line: Line) -> None:
        """Remember one message."""

    def active(self, cube: str) -> list[str]:
        """Return the texts of all active memories."""

    def search(self, cube: str, query: str, at: str | None) -> list[str]:
        """Return the texts of the best ``TOP_K`` memories for a question that is asked at a time."""


@dataclass
class InProcess:
    """A memory store in this process, read and written as the server's routes do. ``add_s``: seconds spent adding."""

    store: MemoryStore
    add_s: float = 0.0
    messages: int = 0

    def open(self, name: str) -> str:
        """Make an empty cube, and return its id."""
        return self.store.cubes.create(_TENANT, name).id

    def add(self, cube: str, session: str, line: Line) -> None:
        """Remember one message."""
        message = message_of(line.content, line.role, time=line.time)
        begin = time.perf_counter()
        self.store.add_messages(_TENANT, cube, [message], Said(session=session))
        self.add_s += time.perf_counter() - begin
        self.messages += 1

    def active(self, cube: str) -> list[str]:
        """Return the texts of all active memories."""
        texts: list[str] = []
        after: str | None = None
        while True:
            page = self.store.list_memories(_TENANT, cube, limit=_PAGE, after=after)
            texts += [memory.text for memory in page.items]
            after = page.next
            if after is None:
                return texts

    def search(self, cube: str, query: str, at: str | None) -> list[str]:
        """Return the texts of the best memories."""
        seconds, offset = moment(at, "at")
        hits = self.store.search(_TENANT, query, cube_ids=[cube], top_k=TOP_K, at=seconds, utc_offset=offset)
        return [hit.memory.text for hit in hits]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: a label, or a question and the part that it must find."""

    what: What
    of: str | dict[str, str]
    good: bool


@dataclass
class Totals:
    """Counts of a group of cases: right ones and all, by what was looked at, and whole cases."""

    checks: dict[What, list[int]] = field(default_factory=dict)
    whole: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, checks: Sequence[Check]) -> None:
        """Count a case."""
        for check in checks:
            count = self.checks.setdefault(check.what, [0, 0])
            count[0] += check.good
            count[1] += 1
        self.whole[0] += all(check.good for check in checks)
        self.whole[1] += 1


def score(case: Case, kept: Kept) -> list[Check]:
    """Play a case in a cube of its own, and return what is right and wrong afterwards."""
    cube = kept.open(case.id)
    for line in (*case.earlier, case.message):
        kept.add(cube, case.id, line)
    texts = [text.lower() for text in kept.active(cube)]

    def active(part: str) -> bool:
        return any(part.lower() in text for text in texts)

    checks = [Check("stays", part, active(part)) for part in case.must_stay_active]
    checks += [Check("retired", part, not active(part)) for part in case.must_not_be_active]
    checks += [Check("not_stored", part, not active(part)) for part in case.must_not_be_stored]
    for wanted in case.must_be_found:
        hits = kept.search(cube, wanted.query, case.message.time)
        good = any(wanted.contains.lower() in hit.lower() for hit in hits)
        checks.append(Check("found", {"query": wanted.query, "contains": wanted.contains}, good))
    return checks


def _groups(case: Case) -> list[str]:
    return [case.kind, f"lang:{case.lang}", "all", *(["lang:others"] if case.lang != "en" else [])]


def measure(kept: Kept, cases: Sequence[Case]) -> dict[str, Any]:
    """Score all cases. ``totals``: [right, all] by kind of case, "lang:" and its language ("lang:others" are all but
    English), and "all", and by what was looked at; ``whole``: cases without a fault; ``failures``: each fault."""
    groups: dict[str, Totals] = {}
    failures = []
    for case in cases:
        checks = score(case, kept)
        for name in _groups(case):
            groups.setdefault(name, Totals()).add(checks)
        head = {"id": case.id, "kind": case.kind, "lang": case.lang}
        failures += [{**head, "what": check.what, "check": check.of} for check in checks if not check.good]
    return {
        "cases": len(cases),
        "top_k": TOP_K,
        "totals": {name: groups[name].checks for name in sorted(groups)},
        "whole": {name: groups[name].whole for name in sorted(groups)},
        "failures": failures,
    }
