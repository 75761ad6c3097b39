"""Arithmetic on the calendar: begins and ends of units, months of different lengths, movable feasts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from memory.language.dates.types import Unit

# The calendar of ``datetime``: the years 1 to 9999, in Unix seconds.
EARLIEST, LATEST = -62_135_596_800.0, 253_402_300_799.0
_MONTHS_OF = {"month": 1, "season": 3, "year": 12}
_DAYS_OF = {"day": 1, "week": 7}


@dataclass(frozen=True)
class Stretch:
    """A stretch of local time [start, end), and how finely it was named."""

    start: datetime
    end: datetime
    unit: Unit


def local_time(at: float, utc_offset: int) -> datetime:
    """Return a time on the clock that is ``utc_offset`` seconds ahead of UTC."""
    try:
        return datetime.fromtimestamp(at, timezone(timedelta(seconds=utc_offset)))
    except (OverflowError, OSError, ValueError) as error:
        raise ValueError(f"{at} is outside the calendar") from error


def shown(at: float, unit: Unit = "day", utc_offset: int = 0) -> str:
    """Show a time as a date of the granularity: ``2023-05-07``, ``week of 2023-05-01``, ``May 2023``,
    ``March to May 2023``, ``2023``."""
    moment = local_time(at, utc_offset)
    if unit == "week":
        return f"week of {moment:%Y-%m-%d}"
    if unit == "season":
        last = moved(moment, 2, "month")
        year = "" if last.year == moment.year else f" {moment.year}"
        return f"{moment:%B}{year} to {last:%B} {last.year}"
    return moment.strftime({"day": "%Y-%m-%d", "month": "%B %Y", "year": "%Y"}[unit])


def midnight(moment: datetime) -> datetime:
    """Return the begin of the day."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def begin(moment: datetime, unit: Unit) -> datetime:
    """Return the begin of the day, week (Monday), month or year that a moment lies in."""
    day = midnight(moment)
    if unit == "week":
        return day - timedelta(days=day.weekday())
    if unit == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if unit == "year" else day


def moved(moment: datetime, n: int, unit: Unit) -> datetime:
    """Return the moment ``n`` units later; a day that the month does not have becomes its last one."""
    if unit in _DAYS_OF:
        return moment + timedelta(days=n * _DAYS_OF[unit])
    months = moment.year * 12 + moment.month - 1 + n * _MONTHS_OF[unit]
    first = moment.replace(year=months // 12, month=months % 12 + 1, day=1)
    last_day = ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).day
    return first.replace(day=min(moment.day, last_day))


def whole(start: datetime, unit: Unit) -> Stretch:
    """Return the stretch of one unit from its begin on."""
    return Stretch(start, moved(start, 1, unit), unit)


def day_of(base: datetime, year: int, month: int, day: int) -> datetime:
    """Return the begin of a date on the clock of ``base``. Raises ``ValueError`` for one that there is not."""
    return midnight(base).replace(year=year, month=month, day=day)


def easter(year: int) -> tuple[int, int]:
    """Return month and day of Easter Sunday in the Gregorian calendar."""
    golden, century = year % 19, year // 100
    # The age of the moon on 31 March decides the full moon of spring; Easter is the Sunday after it.
    epact = (century - century // 4 - (8 * century + 13) // 25 + 19 * golden + 15) % 30
    epact -= (epact // 28) * (1 - (29 // (epact + 1)) * ((21 - golden) // 11))
    weekday = (year + year // 4 + epact + 2 - century + century // 4) % 7
    to_sunday = epact - weekday
    month = 3 + (to_sunday + 40) // 44
    return month, to_sunday + 28 - 31 * (month // 4)
