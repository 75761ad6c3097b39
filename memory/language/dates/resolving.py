"""From the parts that a template has found to a stretch of the speaker's calendar."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from memory.language.dates.calendar import Stretch, begin, day_of, easter, midnight, moved, whole
from memory.language.dates.types import Direction, Unit
from memory.language.dates.words.base import Stride, Words

FEASTS: Mapping[str, tuple[int, int]] = {
    "christmas": (12, 25),
    "christmas eve": (12, 24),
    "boxing day": (12, 26),
    "new year's eve": (12, 31),
    "new year": (1, 1),
    "valentine": (2, 14),
    "halloween": (10, 31),
    "all saints": (11, 1),
    "epiphany": (1, 6),
    "labour day": (5, 1),
    "women's day": (3, 8),
    "national day of china": (10, 1),
}
MOVABLE: Mapping[str, int] = {"good friday": -2, "easter": 0, "easter monday": 1, "pentecost": 49, "carnival": -47}
"""Days after Easter Sunday."""
_THURSDAY, _SATURDAY = 3, 5
_SEASON_BEGINS = {0: 12, 1: 3, 2: 6, 3: 9}
_FIRST_YEAR, _LAST_YEAR = 1900, 2099
_NUMERALS = {**{numeral: n for n, numeral in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2, "兩": 2}


@dataclass(frozen=True)
class Found:
    """Parts of a date, by the names of the template's groups, in lower case; and what they are resolved against."""

    parts: Mapping[str, str]
    base: datetime
    direction: Direction
    words: Words

    def has(self, *names: str) -> bool:
        """Tell if all of these parts were found."""
        return all(name in self.parts for name in names)


def resolve(found: Found) -> Stretch | None:
    """Return the stretch that is meant, or None where the parts make none. Raises ``ValueError`` or ``OverflowError``
    for a date that there is not."""
    stretch = _resolved(found)
    if stretch is not None and found.has("late"):
        start = max(stretch.start, stretch.end - timedelta(days=31 if stretch.unit in ("year", "season") else 10))
        return Stretch(midnight(start), stretch.end, stretch.unit)
    return stretch


def _resolved(found: Found) -> Stretch | None:
    if found.has("near"):
        return whole(midnight(found.base) + timedelta(days=found.words.near[_key(found.parts["near"])]), "day")
    if found.has("weekday"):
        return _weekday(found)
    if found.has("length") or found.has("n", "unit"):
        return _away(found)
    if found.has("unit"):
        return _stepped(found)
    if found.has("season"):
        return _season(found)
    if found.has("feast"):
        return _feast(found)
    return _dated(found)


def _key(word: str) -> str:
    return " ".join(word.split())


def _number(text: str, words: Words) -> int:
    word = _key(text)
    return words.numbers[word] if word in words.numbers else _int(word)


def _int(text: str) -> int:
    """Read a number in digits, or one up to 99 in the numerals of Chinese. Raises ``ValueError`` where it is none."""
    if text.isdecimal():
        return int(text)
    if "十" in text:
        tens, _, ones = text.partition("十")
        if len(tens) > 1 or len(ones) > 1 or ones == "十":
            raise ValueError(f"{text} is no number")
        return 10 * (_NUMERALS[tens] if tens else 1) + (_NUMERALS[ones] if ones else 0)
    return int("".join(str(_NUMERALS[numeral]) for numeral in text))


def _step(found: Found) -> int | None:
    return found.words.steps[_key(found.parts["step"])] if found.has("step") else None


def _year(found: Found) -> int | None:
    """Return the year that the words give. Raises ``ValueError`` where it is hardly one."""
    if not found.has("year"):
        return None
    year = _int(found.parts["year"])
    year += 2000 if year < 100 else 0
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        raise ValueError("no year that people speak of")
    return year


def _away(found: Found) -> Stretch:
    """Resolve a number of units from now on or back: a day, or where the units are longer, a month or a year."""
    if found.has("length"):
        n, stride = found.words.lengths[_key(found.parts["length"])]
    else:
        n, stride = _number(found.parts["n"], found.words), found.words.units[_key(found.parts["unit"])]
    ahead = found.has("ahead") or not found.has("ago")
    unit = _plain(stride)
    moment = moved(found.base, n if ahead else -n, unit)
    named: Unit = unit if unit in ("month", "year") else "day"
    return whole(begin(moment, named), named)


def _plain(stride: Stride) -> Unit:
    return "week" if stride == "weekend" else stride


def _stepped(found: Found) -> Stretch:
    """Resolve the last, this or next unit."""
    stride, step = found.words.units[_key(found.parts["unit"])], _step(found) or 0
    unit = _plain(stride)
    start = begin(moved(begin(found.base, unit), step, unit), unit)
    if stride == "weekend":
        saturday = start + timedelta(days=_SATURDAY)
        return Stretch(saturday, saturday + timedelta(days=2), "day")
    return whole(start, unit)


def _weekday(found: Found) -> Stretch:
    """Resolve a weekday: that of a week (``weeks``), the last or next one, or by the tense of the clause."""
    weekday, step = found.words.weekdays[_key(found.parts["weekday"])], _step(found)
    today = midnight(found.base)
    of_week = begin(found.base, "week") + timedelta(days=weekday)
    away = (weekday - today.weekday()) % 7
    if (found.has("weeks") and step is not None) or (
        step is not None and step > 0 and found.words.next_weekday_is_of_next_week
    ):
        day = of_week + timedelta(days=7 * step)
    elif (step is not None and step < 0) or (not step and found.direction == "past"):
        day = today + timedelta(days=away - 7 if away or step is None else -7)
        day = today if step == 0 and away == 0 else day
    elif step == 0:
        day = today + timedelta(days=away)
    else:
        day = today + timedelta(days=away or 7)
    return whole(day + timedelta(days=7 if found.has("plus") else 0), "day")


def _chosen(before: datetime, after: datetime, found: Found) -> datetime:
    """Return the candidate that the tense speaks for, else the nearer one."""
    if found.direction is not None:
        return before if found.direction == "past" else after
    return before if found.base - before < after - found.base else after


def _dated(found: Found) -> Stretch | None:
    month = _month(found)
    year = _year(found)
    if found.has("day"):
        day = _int(found.parts["day"])
        return _day_alone(found, day) if month is None else _day_of_month(found, day, month, year)
    if month is not None:
        return _month_of_year(found, month, year)
    if year is not None:
        return whole(day_of(found.base, year, 1, 1), "year")
    return None


def _month(found: Found) -> int | None:
    if found.has("month"):
        return found.words.months[_key(found.parts["month"]).rstrip(".")]
    return _int(found.parts["mm"]) if found.has("mm") else None


def _day_of_month(found: Found, day: int, month: int, year: int | None) -> Stretch:
    today = midnight(found.base)
    if year is None and (step := _step(found)) is not None:
        year = found.base.year + step
    if year is not None:
        return whole(day_of(today, year, month, day), "day")
    if found.has("dayname") and (named := _on_weekday(found, day, month)) is not None:
        return whole(named, "day")
    if day == 29 and month == 2:
        return whole(_leap_day(found, today), "day")
    this = day_of(today, today.year, month, day)
    if this == today:
        return whole(this, "day")
    before, after = (this, moved(this, 1, "year")) if this < today else (moved(this, -1, "year"), this)
    return whole(_chosen(before, after, found), "day")


def _on_weekday(found: Found, day: int, month: int) -> datetime | None:
    """Return the nearest such date that is the weekday that is named with it."""
    weekday = found.words.weekdays[_key(found.parts["dayname"])]
    days = [day_of(found.base, found.base.year + n, month, day) for n in (-1, 0, 1) if (month, day) != (2, 29)]
    fitting = [date for date in days if date.weekday() == weekday]
    return min(fitting, key=lambda date: abs(date - found.base), default=None)


def _leap_day(found: Found, today: datetime) -> datetime:
    days = [day_of(today, y, 2, 29) for y in range(today.year - 8, today.year + 9) if _leap(y)]
    return _chosen(max(d for d in days if d <= today), min(d for d in days if d > today), found)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _day_alone(found: Found, day: int) -> Stretch:
    """Resolve a day of a month that is not named: of the stepped month, or the next or last one with that number."""
    if not 1 <= day <= 31:
        raise ValueError("no day of a month")
    this = begin(found.base, "month")
    if (step := _step(found)) is not None:
        this = moved(this, step, "month")
        return whole(day_of(this, this.year, this.month, day), "day")
    today = midnight(found.base)
    back = found.direction == "past"
    for n in range(12):
        month = moved(this, -n if back else n, "month")
        if day > (moved(month, 1, "month") - timedelta(days=1)).day:
            continue
        date = day_of(month, month.year, month.month, day)
        if (date <= today) if back else (date >= today):
            return whole(date, "day")
    raise ValueError("no such day")


def _month_of_year(found: Found, month: int, year: int | None) -> Stretch:
    this = begin(found.base, "year").replace(month=month)
    if year is not None:
        return whole(this.replace(year=year), "month")
    step, now = _step(found), begin(found.base, "month")
    if step is not None and (found.has("yearly") or found.has("mm")):  # March of last year
        return whole(moved(this, step, "year"), "month")
    if step is None:
        if this == now:
            return whole(this, "month")
        before, after = (this, moved(this, 1, "year")) if this < now else (moved(this, -1, "year"), this)
        return whole(_chosen(before, after, found), "month")
    return whole(moved(this, _years_to(step, this, now), "year"), "month")


def _years_to(step: int, this: datetime, now: datetime) -> int:
    """Return how many years from ``this`` the last or next one is that is not going on ``now``."""
    if step > 0:
        return step if this <= now else step - 1
    return step if step < 0 and this >= now else min(0, step + 1)


def _season(found: Found) -> Stretch:
    """Resolve a season, as in the north: spring begins in March. A winter is named by the year that it begins in."""
    season = found.words.seasons[_key(found.parts["season"])]
    this = begin(found.base, "year").replace(month=_SEASON_BEGINS[season])
    year, step = _year(found), _step(found)
    if year is not None:
        return whole(this.replace(year=year), "season")
    if found.has("yearly") and step is not None:  # of last year
        return whole(moved(this, step, "year"), "season")
    now = midnight(found.base)
    if now < this and now < moved(moved(this, -1, "year"), 1, "season"):  # in January, the winter is not over
        this = moved(this, -1, "year")
    over, ahead = moved(this, 1, "season") <= now, this > now
    if step is None:
        before, after = (this, moved(this, 1, "year")) if this <= now else (moved(this, -1, "year"), this)
        return whole(_chosen(before, after, found) if over or ahead else this, "season")
    if step == 0:
        return whole(this, "season")
    years = step + (1 if over else 0) if step < 0 else step - (1 if ahead else 0)
    return whole(moved(this, years, "year"), "season")


def _feast(found: Found) -> Stretch:
    name = found.words.feasts[_key(found.parts["feast"])]
    after = timedelta(days=1 if found.has("next_day") else -1 if found.has("eve") else 0)
    year = _year(found)
    if year is not None:
        return whole(_feast_in(name, found.base, year) + after, "day")
    today = midnight(found.base)
    days = [_feast_in(name, found.base, y) + after for y in range(today.year - 2, today.year + 3)]
    if today in days and not found.has("step"):
        return whole(today, "day")
    before, ahead = max(d for d in days if d < today), min(d for d in days if d > today)
    step = _step(found)
    if step:
        return whole(ahead if step > 0 else before, "day")
    if step == 0:
        return whole(next(d for d in days if d.year == today.year), "day")
    return whole(_chosen(before, ahead, found), "day")


def _feast_in(name: str, base: datetime, year: int) -> datetime:
    if name == "thanksgiving":  # the fourth Thursday of November
        first = day_of(base, year, 11, 1)
        return first + timedelta(days=(_THURSDAY - first.weekday()) % 7 + 21)
    if name in MOVABLE:
        return day_of(base, year, *easter(year)) + timedelta(days=MOVABLE[name])
    return day_of(base, year, *FEASTS[name])


def digits(text: str) -> str:
    """Return the text with every digit, of whatever script, as an ASCII one."""
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
