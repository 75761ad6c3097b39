"""Times in fields of requests: ISO 8601, numbers, and dates that are written out in English."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from memory.language.dates.calendar import EARLIEST, LATEST


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
        parsed = _written_out(value.strip())
        if parsed is None:
            raise ValueError(f"'{value}' is no time that is understood here") from None
        moment = parsed
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    offset = moment.utcoffset() or timedelta()
    return moment.timestamp(), int(offset.total_seconds())


@lru_cache(maxsize=4096)
def _written_out(words: str) -> datetime | None:
    """Read a written-out date. The library takes milliseconds per call, hence the cache."""
    import dateparser

    parsed: datetime | None = dateparser.parse(words, languages=["en"], settings={"DATE_ORDER": "MDY"})
    return parsed
