"""Clauses around dates: whether they tell of what was or of what is to come."""

from __future__ import annotations

import re
from functools import lru_cache

from memory.language.dates.types import Direction
from memory.language.dates.words.base import NOTHING, Words

_LEFT = re.compile(
    r"[;!?\n。，；！？、]|[.,:](?=\s)|\s[-–—]\s|(?<!\w)(?:and|but|because|so|und|aber|weil|et|mais|car|y|pero|porque|e|mas|и|но)(?!\w)"
)
_SENTENCE = re.compile(r"[!?\n。！？]|\.(?=\s)")
_WORDS = re.compile(r"\w+")
# Farther from a date than so many letters, nothing is looked for.
_REACH = 160


@lru_cache(maxsize=128)
def compiled(pattern: str, spaced: bool = True) -> re.Pattern[str]:
    """Compile a pattern of a language's words; where words are told apart by spaces, for whole words."""
    return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)" if spaced else pattern, re.IGNORECASE)


def clause(text: str, start: int, end: int, parting: re.Pattern[str] = _LEFT) -> tuple[int, int]:
    """Return where the clause begins and ends that a part of a text stands in."""
    low, high = max(0, start - _REACH), min(len(text), end + _REACH)
    left = max((match.end() for match in parting.finditer(text, low, start)), default=low)
    right = parting.search(text, end, high)
    return left, high if right is None else right.start()


def around(text: str, start: int, end: int) -> str:
    """Return the clause without the part itself; where little is left of it, the sentence without it."""
    left, right = clause(text, start, end)
    said = f"{text[left:start]} {text[end:right]}"
    if len(said) > 3 and _WORDS.search(said):
        return said
    left, right = clause(text, start, end, _SENTENCE)
    return f"{text[left:start]} {text[end:right]}"


def has(pattern: str, words: Words, said: str) -> bool:
    """Tell if one of a language's patterns is in what was said."""
    return pattern != NOTHING and compiled(pattern, words.spaced).search(said) is not None


def direction(words: Words, said: str) -> Direction:
    """Return whether a clause tells of the past or of the future, where its words tell."""
    past, ahead = has(words.past, words, said), has(words.future, words, said)
    if past or ahead:
        return None if past and ahead else "past" if past else "future"
    return "future" if has(words.present, words, said) else None
