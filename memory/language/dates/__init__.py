"""Dates in texts: what "last week" meant when it was said, and what a question's "in May 2023" asks for.

Ten languages are read, each with a file of words in ``words``: what they call months and weekdays, and templates of how
they put them together. ``finding`` looks for them, ``resolving`` does the arithmetic on the speaker's calendar, and
``roles`` tells what a date is to its sentence.
"""

from __future__ import annotations

from memory.language.dates.asking import clue_of
from memory.language.dates.calendar import EARLIEST, LATEST, local_time, shown
from memory.language.dates.finding import DATE_BEHIND, spans_in, with_dates
from memory.language.dates.reading import parse_time
from memory.language.dates.roles import said_as_value
from memory.language.dates.types import Clue, Role, Span, Tense, Unit
from memory.language.dates.words.english import DAYS, MONTHS

__all__ = [
    "DATE_BEHIND",
    "DAYS",
    "EARLIEST",
    "LATEST",
    "MONTHS",
    "Clue",
    "Role",
    "Span",
    "Tense",
    "Unit",
    "clue_of",
    "local_time",
    "parse_time",
    "said_as_value",
    "shown",
    "spans_in",
    "with_dates",
]
