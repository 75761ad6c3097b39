"""The time that a question asks for."""

from __future__ import annotations

import re
from functools import lru_cache

from memory.language.dates.finding import spans_in
from memory.language.dates.types import Clue
from memory.language.dates.words import SPACED, UNSPACED


def clue_of(query: str, at: float, utc_offset: int = 0) -> Clue:
    """Return the time that a question asks for."""
    spans = spans_in(query, at, utc_offset)
    if spans:
        first = spans[0]
        if first.bound == "before":
            return Clue(float("-inf"), first.start)
        if first.bound == "until":
            return Clue(float("-inf"), first.end)
        if first.bound == "after":
            return Clue(first.end, float("inf"))
        if first.bound == "since":
            return Clue(first.start, float("inf"))
        return Clue(min(span.start for span in spans), max(span.end for span in spans))
    before, now = _tenses()
    if before.search(query):
        return Clue(tense="before")
    return Clue(tense="now" if now.search(query) else None)


@lru_cache(maxsize=1)
def _tenses() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of how all languages ask for what was before, and for what is now."""
    before = _either([w.asks_before for w in SPACED], [w.asks_before for w in UNSPACED])
    return before, _either([w.asks_now for w in SPACED], [w.asks_now for w in UNSPACED])


def _either(spaced: list[str], unspaced: list[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(spaced)})(?!\w)|{'|'.join(unspaced)}", re.IGNORECASE)
