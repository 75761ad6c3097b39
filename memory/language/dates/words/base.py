"""What a language's file of words holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from memory.language.dates.types import Unit

Stride = Unit | Literal["weekend"]
NOTHING = r"(?!)"
"""A pattern that matches nothing, for what a language has no words for."""


@dataclass(frozen=True)
class Words:
    """Words of a language, in lower case, and templates of how dates are put together.

    A template is a regular expression. ``<name>`` in it stands for a word of a table (``<month>``, ``<weekday>``,
    ``<near>``, ``<length>``, ``<unit>``, ``<step>``, ``<season>``, ``<feast>``), a number (``<n>``: with number words,
    ``<day>``, ``<mm>``, ``<year>``) or any weekday that only repeats what a date says (``<dayname>``). The groups
    ``ahead`` and ``ago`` say in which direction a number counts, ``late`` that the end of a stretch is meant, ``weeks``
    that a step counts weeks before the weekday, ``plus`` that a week is added. Earlier templates win.
    """

    code: str
    months: Mapping[str, int]
    weekdays: Mapping[str, int]
    near: Mapping[str, int]
    units: Mapping[str, Stride]
    steps: Mapping[str, int]
    templates: tuple[str, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)
    # Words that hold number and unit in one, as "fortnight".
    lengths: Mapping[str, tuple[int, Stride]] = field(default_factory=dict)
    # 0 winter (from December on), 1 spring, 2 summer, 3 autumn.
    seasons: Mapping[str, int] = field(default_factory=dict)
    # Names of ``resolving.FEASTS``.
    feasts: Mapping[str, str] = field(default_factory=dict)
    # Further words that show that a template may match.
    triggers: frozenset[str] = frozenset()
    spaced: bool = True
    # Letters that are written together with the word behind them.
    prefixes: str = ""
    month_first: bool = False
    next_weekday_is_of_next_week: bool = False
    # Common words by which the language is told from others of its script.
    common: frozenset[str] = frozenset()
    # Letters, beside the plain Latin ones, that show the same.
    letters: str = ""
    # Patterns: right before a date (``behind``: right behind it).
    since: str = NOTHING
    until: str = NOTHING
    before: str = NOTHING
    after: str = NOTHING
    # Of these, what is said only of a begin that has been.
    already: str = NOTHING
    behind: bool = False
    # Right before a date that something is put to: "moved to", "due on".
    towards: str = NOTHING
    # Patterns anywhere in a clause.
    past: str = NOTHING
    future: str = NOTHING
    # What shows that there is a verb: where it is not that of a past, the clause tells of what is to come.
    present: str = NOTHING
    habit: str = NOTHING
    changes: str = NOTHING
    lasting: str = NOTHING
    over: str = NOTHING
    values: str = NOTHING
    # Patterns anywhere in a question.
    asks_before: str = NOTHING
    asks_now: str = NOTHING


def forms(values: Mapping[str, int]) -> dict[str, int]:
    """Return a table with an entry for each of the words that a key lists."""
    return {word: value for words, value in values.items() for word in words.split()}


def inflected(stem: str, endings: str) -> list[str]:
    """Return a stem with each of the endings; ``-`` stands for none."""
    return [stem + ending.replace("-", "") for ending in endings.split()]
