"""What held before: memories whose place others have taken, for a question that asks about that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from memory.language.words import telling_words
from memory.search.scored import Scored
from memory.search.sharing import shared_words
from memory.storage.records import Former

FORMER = 1.0
# What was before that is meant less often.
_STEP = 0.05
_MAX_STEPS = 16
# Only what took the place of something and is itself found well leads to it.
_NEWER = 30
_ASKING = frozenset(
    "before previous previously prior former formerly used earlier originally past longer back old".split()
)
_BEFORE_WHAT = re.compile(r"\bbefore\b(?P<what>[^?.!]*)", re.IGNORECASE)


def former_of(found: Sequence[Scored], formers: Sequence[Former], query: str) -> list[Scored]:
    """Return the former memories that a question may mean, scored: those that gave way to what was found, directly or
    in several steps, and those that hold words of the question themselves."""
    best = sorted(found, key=lambda c: -c.score)[:_NEWER]
    newer = {candidate.data.id: candidate for candidate in best}
    known = {former.data.id: former for former in formers}
    words = [word for word in telling_words(query) if word not in _ASKING]
    told = _BEFORE_WHAT.search(query)
    reference = telling_words(told["what"]) if told else []
    scored: list[Scored] = []
    for former in formers:
        share = len(shared_words(words, former.text)) / max(1, len(words))
        parts = _parts(former, newer, known, share)
        if parts is not None:
            # "before Luca": what says Luca is not what was before.
            weight = 0.5 if shared_words(reference, former.text) else 1.0
            scored.append(Scored(former.data, **{**parts, "former": weight * parts["former"]}))
    return scored


def _parts(
    former: Former, newer: Mapping[str, Scored], known: Mapping[str, Former], share: float
) -> dict[str, float] | None:
    """Return the parts of a former memory's score, or None where nothing leads to it. ``share``: of the question's
    words, that it holds."""
    by = former.data.replaced_by or ""
    for step in range(_MAX_STEPS):
        if by in newer:
            parts = newer[by].parts
            return {**parts, "former": FORMER - _STEP * step, "text": max(parts.get("text", 0.0), share)}
        if by not in known:
            break
        by = known[by].data.replaced_by or ""
    return {"former": FORMER * share, "text": share} if share else None
