"""Dates in texts: what "last week" meant when it was said, and what a question's "in May 2023" asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Literal

Unit = Literal["day", "week", "month", "year"]
Tense = Literal["now", "before"]

MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_NUMBERS = {word: n for n, word in enumerate("one two three four five six seven eight nine ten".split(), start=1)}
_NUMBERS |= {"a": 1, "an": 1, "couple of": 2, "a couple of": 2, "few": 3, "a few": 3}
_MONTH = "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
_MONTH += "|nov(?:ember)?|dec(?:ember)?)"
_AMOUNT = r"(?:\d{1,3}|a couple of|a few|an?|one|two|three|four|five|six|seven|eight|nine|ten)"
_YEAR = r"(?:19|20)\d\d"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_EXPLICIT = (
    rf"{_YEAR}-\d\d-\d\d|{_DAY} (?:of )?{_MONTH},? {_YEAR}|{_MONTH} {_DAY},? {_YEAR}|\d{{1,2}}/\d{{1,2}}/{_YEAR}"
)
# The calendar of ``datetime``: the years 1 to 9999, in Unix seconds.
EARLIEST, LATEST = -62_135_596_800.0, 253_402_300_799.0


@dataclass(frozen=True)
class Span:
    """A stretch of time [start, end) in Unix seconds, and where in the text it is named."""

    start: float
    end: float
    position: int
    words: str
    unit: Unit


@dataclass(frozen=True)
class Clue:
    """The time that a question is about: a stretch [start, end), or only whether it asks for now or for before."""

    start: float | None = None
    end: float | None = None
    tense: Tense | None = None


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    resolve: Callable[[re.Match[str], datetime], tuple[datetime, Unit] | None]


def spans_in(text: str, at: float, utc_offset: int = 0) -> list[Span]:
    """Return the dates that a text names, in order. Relative ones are resolved against ``at`` (Unix seconds) on a clock
    that is ``utc_offset`` seconds ahead of UTC."""
    if not _GATE.search(text):
        return []
    base = local_time(at, utc_offset)
    taken: list[Span] = []
    for rule in _RULES:
        for match in rule.pattern.finditer(text):
            if any(s.position < match.end() and match.start() < s.position + len(s.words) for s in taken):
                continue
            resolved = _resolved(rule, match, base)
            if resolved is not None:
                start, unit = resolved
                taken.append(
                    Span(start.timestamp(), _after(start, unit).timestamp(), match.start(), match.group(), unit)
                )
    return sorted(taken, key=lambda span: span.position)


def clue_of(query: str, at: float, utc_offset: int = 0) -> Clue:
    """Return the time that a question asks for."""
    spans = spans_in(query, at, utc_offset)
    if spans:
        first = spans[0]
        said = f"{query[: first.position]} {first.words.split()[0]}".lower().split()
        lead = said[-3:]
        if "before" in lead or "until" in lead:
            return Clue(float("-inf"), first.start)
        if "after" in lead:
            return Clue(first.end, float("inf"))
        if "since" in lead:
            return Clue(first.start, float("inf"))
        return Clue(min(span.start for span in spans), max(span.end for span in spans))
    if _BEFORE.search(query):
        return Clue(tense="before")
    return Clue(tense="now" if _NOW.search(query) else None)


def with_dates(text: str, at: float, utc_offset: int = 0) -> str:
    """Return the text with the date behind each relative one: ``I met Sam yesterday (2023-05-07)``."""
    parts, last = [], 0
    for span in spans_in(text, at, utc_offset):
        if re.search(_YEAR, span.words):
            continue
        end = span.position + len(span.words)
        parts += [text[last:end], f" ({shown(span.start, span.unit, utc_offset)})"]
        last = end
    return "".join([*parts, text[last:]])


def shown(at: float, unit: Unit = "day", utc_offset: int = 0) -> str:
    """Show a time as a date of the granularity: ``2023-05-07``, ``week of 2023-05-01``, ``May 2023``, ``2023``."""
    moment = local_time(at, utc_offset)
    if unit == "week":
        return f"week of {moment:%Y-%m-%d}"
    return moment.strftime({"day": "%Y-%m-%d", "month": "%B %Y", "year": "%Y"}[unit])


def parse_time(value: str | float) -> tuple[float, int]:
    """Return a time as Unix seconds, and the offset of its clock from UTC in seconds. ISO 8601, ``2023-05-08 13:56``,
    numbers (over 1e11: milliseconds). Raises ``ValueError``, also for what is outside the calendar."""
    seconds, offset = _read(value)
    if not EARLIEST <= seconds <= LATEST:
        raise ValueError(f"{value} is no time")
    return seconds, offset


def _read(value: str | float) -> tuple[float, int]:
    if isinstance(value, int | float):
        return value / 1000 if abs(value) > 1e11 else float(value), 0
    try:
        moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
    except ValueError:
        parsed = _explicit(value.strip())
        if parsed is None:
            raise ValueError(f"'{value}' is no time that is understood here") from None
        moment = parsed
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    offset = moment.utcoffset() or timedelta()
    return moment.timestamp(), int(offset.total_seconds())


def local_time(at: float, utc_offset: int) -> datetime:
    """Return a time on the clock that is ``utc_offset`` seconds ahead of UTC."""
    try:
        return datetime.fromtimestamp(at, timezone(timedelta(seconds=utc_offset)))
    except (OverflowError, OSError, ValueError) as error:
        raise ValueError(f"{at} is outside the calendar") from error


def _resolved(rule: _Rule, match: re.Match[str], base: datetime) -> tuple[datetime, Unit] | None:
    try:
        return rule.resolve(match, base)
    except (OverflowError, ValueError):  # a date that there is not, as 31 June
        return None


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _begin(moment: datetime, unit: Unit) -> datetime:
    day = _midnight(moment)
    if unit == "week":
        return day - timedelta(days=day.weekday())
    if unit == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if unit == "year" else day


def _moved(moment: datetime, n: int, unit: Unit) -> datetime:
    if unit in ("day", "week"):
        return moment + timedelta(days=n * (7 if unit == "week" else 1))
    months = moment.year * 12 + moment.month - 1 + n * (12 if unit == "year" else 1)
    return _clamped(moment, months // 12, months % 12 + 1)


def _clamped(moment: datetime, year: int, month: int) -> datetime:
    first = moment.replace(year=year, month=month, day=1)
    last_day = ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).day
    return first.replace(day=min(moment.day, last_day))


def _after(start: datetime, unit: Unit) -> datetime:
    return _moved(start, 1, unit)


def _amount(text: str) -> int:
    return int(text) if text.isdigit() else _NUMBERS[text.lower()]


def _ago(match: re.Match[str], base: datetime) -> tuple[datetime, Unit]:
    unit: Unit = match["unit"].lower()  # type: ignore[assignment]
    n = _amount(match["n"])
    moved = _moved(base, n if match.groupdict().get("ahead") else -n, unit)
    return _begin(moved, unit if unit in ("month", "year") else "day"), unit if unit in ("month", "year") else "day"


def _which(match: re.Match[str], base: datetime) -> tuple[datetime, Unit]:
    step = {"last": -1, "past": -1, "this": 0, "next": 1}[match["which"].lower()]
    what = match["what"].lower()
    if what in ("week", "month", "year"):
        unit: Unit = what  # type: ignore[assignment]
        return _begin(_moved(_begin(base, unit), step, unit), unit), unit
    if what == "weekend":
        saturday = _begin(base, "week") + timedelta(days=5)
        return saturday + timedelta(days=7 * step), "day"
    if what in DAYS:
        return _weekday(base, DAYS.index(what), step), "day"
    month = MONTHS.index(what) + 1
    year = base.year + (step if step > 0 and month <= base.month else 0)
    year -= 1 if step < 0 and month >= base.month else 0
    return _begin(base, "year").replace(year=year, month=month), "month"


def _weekday(base: datetime, weekday: int, step: int) -> datetime:
    away = (weekday - base.weekday()) % 7
    if step < 0:
        away = away - 7 if away else -7
    elif step > 0 and away == 0:
        away = 7
    return _midnight(base) + timedelta(days=away)


def _month_number(text: str) -> int:
    return next(i for i, month in enumerate(MONTHS, start=1) if month.startswith(text.lower()[:3]))


def _month_alone(match: re.Match[str], base: datetime) -> tuple[datetime, Unit]:
    month = _month_number(match["month"])
    year = base.year if month <= base.month else base.year - 1
    return _begin(base, "year").replace(year=year, month=month), "month"


def _day_of_month(match: re.Match[str], base: datetime) -> tuple[datetime, Unit]:
    month = _month_number(match["month"] or match["month2"])
    day = int(re.sub(r"\D", "", match["day"] or match["day2"]))
    year = base.year if (month, day) <= (base.month, base.day) else base.year - 1
    return _midnight(base).replace(year=year, month=month, day=day), "day"


def _month_of_year(match: re.Match[str], base: datetime) -> tuple[datetime, Unit]:
    return _begin(base, "year").replace(year=int(match["year"]), month=_month_number(match["month"])), "month"


@lru_cache(maxsize=4096)
def _explicit(words: str) -> datetime | None:
    """Read a written-out date. The library takes milliseconds per call, hence the patterns before it and the cache."""
    import dateparser

    parsed: datetime | None = dateparser.parse(words, languages=["en"], settings={"DATE_ORDER": "MDY"})
    return parsed


def _written(match: re.Match[str], base: datetime) -> tuple[datetime, Unit] | None:
    parsed = _explicit(match.group())
    if parsed is None:
        return None
    return _midnight(base).replace(year=parsed.year, month=parsed.month, day=parsed.day), "day"


def _rule(pattern: str, resolve: Callable[[re.Match[str], datetime], tuple[datetime, Unit] | None]) -> _Rule:
    return _Rule(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), resolve)


def _near(days: int) -> Callable[[re.Match[str], datetime], tuple[datetime, Unit]]:
    return lambda match, base: (_midnight(base) + timedelta(days=days), "day")


_NAMED = "|".join([*DAYS, *MONTHS])
_RULES = (
    _rule(_EXPLICIT, _written),
    _rule(rf"(?P<month>{_MONTH}),? (?P<year>{_YEAR})", _month_of_year),
    _rule("the day before yesterday", _near(-2)),
    _rule("the day after tomorrow", _near(2)),
    _rule("yesterday|last night", _near(-1)),
    _rule("today|tonight|this (?:morning|afternoon|evening)", _near(0)),
    _rule("tomorrow", _near(1)),
    _rule(rf"(?P<n>{_AMOUNT}) (?P<unit>day|week|month|year)s? (?:ago|back|earlier)", _ago),
    _rule(rf"(?P<ahead>in) (?P<n>{_AMOUNT}) (?P<unit>day|week|month|year)s?(?: time)?", _ago),
    _rule(rf"(?P<which>last|past|this|next) (?P<what>weekend|week|month|year|{_NAMED})", _which),
    _rule(
        rf"(?:(?P<month>{_MONTH}) (?P<day>{_DAY})|(?:the )?(?P<day2>{_DAY}) (?:of )?(?P<month2>{_MONTH}))",
        _day_of_month,
    ),
    _rule(rf"(?:in|since|during|until|before|after|of) (?P<month>{_MONTH})", _month_alone),
    _rule(
        rf"(?:in|since|during|until|before|after|of) (?P<year>{_YEAR})",
        lambda match, base: (_begin(base, "year").replace(year=int(match["year"])), "year"),
    ),
)


_GATE = re.compile(
    rf"\d|day\b|night\b|morrow|morning|afternoon|evening|\b(?:ago|back|last|past|this|next|in|since|during|of)\b|{_MONTH}",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"\b(?:before|previous(?:ly)?|former(?:ly)?|used to|earlier|originally|in the past|no longer|back then)\b",
    re.IGNORECASE,
)
_NOW = re.compile(
    r"\b(?:now|nowadays|current(?:ly)?|at the moment|these days|right now|still|at present)\b", re.IGNORECASE
)
