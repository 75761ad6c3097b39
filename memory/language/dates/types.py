"""What is said about time: stretches that a text names, and the time that a question is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["day", "week", "month", "season", "year"]
Tense = Literal["now", "before"]
# Whether a clause tells of what was or of what is to come; None where its words do not tell.
Direction = Literal["past", "future"] | None
Role = Literal["value", "since", "past", "when"]
Bound = Literal["since", "until", "before", "after"]


@dataclass(frozen=True)
class Span:
    """A stretch of time [start, end) in Unix seconds, and where in the text it is named.

    ``absolute``: the words give the year themselves. ``bound``: how the words beside it make an end of it. ``role`` is
    what the date is to its clause:

    - ``value``: what the clause says (an appointment, a deadline, a birthday, anything to come);
    - ``since``: when what the clause says began, which still holds ("since March I live in ...", "moved last week");
    - ``past``: when what it says held, which is over ("back in 2019 I lived in ...");
    - ``when``: when something happened, or the time that is going on.
    """

    start: float
    end: float
    position: int
    words: str
    unit: Unit
    role: Role = "when"
    bound: Bound | None = None
    absolute: bool = False


@dataclass(frozen=True)
class Clue:
    """The time that a question is about: a stretch [start, end), or only whether it asks for now or for before."""

    start: float | None = None
    end: float | None = None
    tense: Tense | None = None
