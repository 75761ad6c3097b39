"""What holds of dates for any day, clock and text."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.language.dates import DAYS, clue_of, shown, spans_in, with_dates
from memory.language.dates.calendar import easter, local_time, midnight, moved
from memory.language.dates.finding import templates_of
from memory.language.dates.resolving import Found, resolve
from memory.language.dates.words import SPACED, UNSPACED, Words

MOMENTS = st.datetimes(datetime(1972, 1, 1), datetime(2090, 1, 1)).map(lambda at: at.replace(tzinfo=UTC).timestamp())
OFFSETS = st.integers(-12 * 4, 14 * 4).map(lambda quarters: quarters * 900)
# The weekday in the accusative or with its particle, as it follows "on" in each language.
ON_WEEKDAY = {
    "en": ["on monday", "on friday", "on sunday"],
    "de": ["am Montag", "am Freitag", "am Sonntag"],
    "fr": ["lundi", "vendredi", "dimanche"],
    "es": ["el lunes", "el viernes", "el domingo"],
    "pt": ["na segunda-feira", "na sexta-feira", "no domingo"],
    "ru": ["в понедельник", "в пятницу", "в воскресенье"],
    "ar": ["يوم الاثنين", "يوم الجمعة", "يوم الأحد"],
    "zh": ["周一", "周五", "周日"],
    "ja": ["月曜日に", "金曜日に", "日曜日に"],
    "ko": ["월요일에", "금요일에", "일요일에"],
}
NUMBERS = [0, 4, 6]
RELATIVE = ["yesterday", "on friday", "in two weeks", "last monday", "the day after tomorrow"]
RELATIVE += ["vorgestern", "avant-hier", "anteayer", "昨天", "明後日"]


@given(MOMENTS, OFFSETS, st.sampled_from(sorted(ON_WEEKDAY)), st.integers(0, 2))
def test_a_weekday_is_within_seven_days(at: float, offset: int, code: str, which: int) -> None:
    (span,) = spans_in(ON_WEEKDAY[code][which], at, offset)
    day, today = local_time(span.start, offset), midnight(local_time(at, offset))
    assert day.weekday() == NUMBERS[which]
    assert day == midnight(day)
    assert 0 < (day - today).days <= 7


@given(MOMENTS, OFFSETS, st.integers(0, 6))
def test_last_this_and_next_weekday(at: float, offset: int, weekday: int) -> None:
    today = midnight(local_time(at, offset))
    days = []
    for word in ("last", "this", "next"):
        (span,) = spans_in(f"{word} {DAYS[weekday]}", at, offset)
        days.append((local_time(span.start, offset) - today).days)
    assert -7 <= days[0] < 0 <= days[1] < 7
    assert 0 < days[2] < 14
    assert days[1] <= days[2]


@given(MOMENTS, OFFSETS, st.integers(1, 300))
def test_what_is_so_many_days_ahead_is_as_many_ago_from_there(at: float, offset: int, n: int) -> None:
    (ahead,) = spans_in(f"in {n} days", at, offset)
    (back,) = spans_in(f"{n} days ago", ahead.start + 1, offset)
    assert back.start <= at < back.end


@given(st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)), st.integers(-240, 240))
def test_months_are_counted_and_days_kept_where_there_are_such(moment: datetime, n: int) -> None:
    there = moved(moment, n, "month")
    assert there.year * 12 + there.month == moment.year * 12 + moment.month + n
    assert there.day == moment.day or (there.day < moment.day and (there + timedelta(days=1)).day == 1)
    assert moved(moment, 12, "month") == moved(moment, 1, "year")


@given(st.dates(date(1950, 1, 1), date(2099, 12, 31)), MOMENTS)
def test_written_dates_are_read_as_they_are_whatever_the_time(day: date, at: float) -> None:
    for text in (f"{day:%d %B %Y}", f"{day:%B %d, %Y}", f"{day.year}年{day.month}月{day.day}日", day.isoformat()):
        (span,) = spans_in(text, at)
        assert shown(span.start) == day.isoformat()
        assert with_dates(text, at) == text
    clue = clue_of(f"what happened on {day:%d %B %Y}?", at)
    assert clue.start == datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@given(MOMENTS, st.sampled_from(RELATIVE))
def test_the_date_that_is_put_behind_is_the_same_when_it_is_read_later(at: float, words: str) -> None:
    (span,) = spans_in(words, at)
    dated = with_dates(f"x {words}, y", at)
    assert re.fullmatch(rf"x {words} \(\d{{4}}-\d\d-\d\d\), y", dated)
    later = [found for found in spans_in(dated, at + 400 * 86_400.0) if found.absolute]
    assert [found.start for found in later] == [span.start]


@given(MOMENTS)
def test_in_every_text_spans_are_apart_and_in_order(at: float) -> None:
    text = "On Friday 3 May and 4 May 2023, last week, next spring at Easter, 周五 and 6月20日, in 2019 and 2020-01-01."
    spans = spans_in(text, at)
    assert len(spans) >= 5
    assert all(a.position + len(a.words) <= b.position for a, b in pairwise(spans))
    assert all(text[span.position :].startswith(span.words) and span.start < span.end for span in spans)


@pytest.mark.parametrize("words", [*SPACED, *UNSPACED], ids=lambda words: words.code)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_a_template_matches_can_be_resolved(words: Words, data: st.DataObject) -> None:
    """Every word that a template may find is in a table."""
    template = data.draw(st.sampled_from(templates_of(words.code)))
    plain = re.sub(r"\(\?<[!=](?:[^()]|\(\?-i:[^()]*\))*\)", "", template.pattern.pattern).replace("(?-i:", "(?:")
    plain = re.sub(r"\(\?!(?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)", "", plain)
    text = data.draw(st.from_regex(re.compile(plain), fullmatch=True))
    for match in template.pattern.finditer(text):
        parts = {name: part.lower() for name, part in match.groupdict().items() if part is not None}
        try:
            stretch = resolve(Found(parts, datetime(2024, 2, 29, 12, tzinfo=UTC), None, words))
        except (ValueError, OverflowError):
            continue  # a date that there is not
        assert stretch is None or stretch.start < stretch.end


@pytest.mark.parametrize(
    ("year", "month", "day"),
    [
        (1943, 4, 25),
        (2000, 4, 23),
        (2008, 3, 23),
        (2011, 4, 24),
        (2024, 3, 31),
        (2025, 4, 20),
        (2038, 4, 25),
        (2049, 4, 18),
    ],
)
def test_easter(year: int, month: int, day: int) -> None:
    assert easter(year) == (month, day)


@given(st.integers(1900, 2099))
def test_easter_is_a_sunday_of_spring(year: int) -> None:
    month, day = easter(year)
    assert date(year, month, day).weekday() == 6
    assert date(year, 3, 22) <= date(year, month, day) <= date(year, 4, 25)
