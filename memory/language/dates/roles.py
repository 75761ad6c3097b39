"""What a date is to the clause that names it."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from memory.language.dates import clauses
from memory.language.dates.calendar import Stretch
from memory.language.dates.types import Bound, Role, Span
from memory.language.dates.words.base import NOTHING, Words

_ARTICLE = r"(?:\W+(?:the|dem|den|der|le|la|les|el|los|o|a|as))?"
_BOUNDS: tuple[Bound, ...] = ("since", "until", "before", "after")
_REACH = 32


def said_as_value(span: Span) -> bool:
    """Tell if a date is what its clause says, or only when that happened: not when a state began to hold or held.

    Such a date says nothing about which of two statements is the newer one; that is the one that was said later.
    """
    return span.role in ("value", "when")


def role_of(
    words: Words, text: str, match: re.Match[str], stretch: Stretch, base: datetime, bound: Bound | None
) -> Role:
    """Return what a date is to its clause."""
    said = clauses.around(text, match.start(), match.end())
    if bound == "since" and stretch.start <= base:
        return "since"
    over = stretch.end <= base
    if bound == "until":
        return "past" if over or clauses.direction(words, said) == "past" else "value"
    if stretch.start > base or has_before(words.towards, words, text[: match.start()]):
        return "value"
    if clauses.has(words.values, words, said):
        return "value"
    if clauses.has(words.over, words, f"{said} {match.group()}"):
        return "past"
    if clauses.has(words.changes, words, said):
        return "since"
    return "past" if over and clauses.has(words.lasting, words, said) else "when"


def bound_of(words: Words, text: str, match: re.Match[str]) -> Bound | None:
    """Return how the words right before a date, or where a language puts them there behind it, make an end of it."""
    lead, tail = text[max(0, match.start() - _REACH) : match.start()], text[match.end() : match.end() + _REACH]
    # "The day after tomorrow" begins with such a word of its own.
    relative = any(match.groupdict().get(name) for name in ("near", "ago", "ahead"))
    for bound in _BOUNDS:
        pattern: str = getattr(words, bound)
        if pattern == NOTHING:
            continue
        beside = _beside(pattern, words.spaced)
        if words.behind:
            if beside.search(tail):
                return bound
        elif has_before(pattern, words, lead) or (not relative and beside.search(match.group())):
            return bound
    return None


def has_before(pattern: str, words: Words, lead: str) -> bool:
    """Tell if a pattern stands at the end of what is before a date, an article between them or not."""
    return pattern != NOTHING and _ending(pattern, words.spaced).search(lead[-_REACH:]) is not None


@lru_cache(maxsize=64)
def _ending(pattern: str, spaced: bool) -> re.Pattern[str]:
    edge = r"(?<!\w)" if spaced else ""
    return re.compile(rf"{edge}(?:{pattern}){_ARTICLE}[\W_]*$", re.IGNORECASE)


@lru_cache(maxsize=64)
def _beside(pattern: str, spaced: bool) -> re.Pattern[str]:
    edge = r"(?!\w)" if spaced else ""
    return re.compile(rf"^\s*(?:{pattern}){edge}", re.IGNORECASE)
