"""Dates in English: what they resolve to on the speaker's clock, and what is no date."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory.language.dates import clue_of, parse_time, shown, spans_in, with_dates


def time_of(moment: str) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()


def dates(text: str, moment: str) -> list[str]:
    return [shown(span.start, span.unit) for span in spans_in(text, time_of(moment))]


WEDNESDAY = "2024-05-15T10:00"


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("I see the dentist on Friday.", "2024-05-17"),
        ("We saw the dentist on Friday.", "2024-05-10"),
        ("the plumber comes this Friday", "2024-05-17"),
        ("next Tuesday I present my thesis", "2024-05-21"),
        ("next Friday I present my thesis", "2024-05-24"),
        ("last Monday was awful", "2024-05-13"),
        ("last Wednesday was awful", "2024-05-08"),
        ("I have a shift on Wednesday", "2024-05-22"),
        ("I had a shift on Wednesday", "2024-05-08"),
        ("monday at 9 the boiler gets fixed", "2024-05-20"),
        ("flying out saturday morning", "2024-05-18"),
        ("a week on Saturday is the memorial", "2024-05-25"),
        ("it's on Thursday of next week", "2024-05-23"),
        ("next week Thursday is fine", "2024-05-23"),
        ("my test is two weeks from now", "2024-05-29"),
        ("in two weeks we move", "2024-05-29"),
        ("got my theory test two weeks from now", "2024-05-29"),
        ("the removal firm comes in ten days", "2024-05-25"),
        ("a fortnight ago I passed", "2024-05-01"),
        ("in a fortnight's time", "2024-05-29"),
        ("the day after tomorrow", "2024-05-17"),
        ("the day before yesterday", "2024-05-13"),
        ("tonight we eat out", "2024-05-15"),
        ("tomorrow morning the movers come", "2024-05-16"),
        ("yesterday evening I ate alone", "2024-05-14"),
        ("next month we fly", "June 2024"),
        ("last spring I walked the coast", "March to May 2023"),
        ("this summer we stay", "June to August 2024"),
        ("next summer we go", "June to August 2024"),
        ("last winter was mild", "December 2023 to February 2024"),
        ("in the summer of 2019, summer 2020", "June to August 2020"),
        ("we're at my sister's at Christmas", "2024-12-25"),
        ("we were at my sister's at Christmas", "2023-12-25"),
        ("at Easter we drive to Brittany", "2025-04-20"),
        ("at Easter we drove to Brittany", "2024-03-31"),
        ("the day after Easter we left", "2024-04-01"),
        ("New Year's Eve we're at the Hendersons'", "2024-12-31"),
        ("I'm cooking on Thanksgiving", "2024-11-28"),
        ("two years ago I passed", "2022"),
        ("a month ago I passed", "April 2024"),
        ("the appointment is the 15th of June", "2024-06-15"),
        ("change of plan, they come later, so the 17th", "2024-05-17"),
        ("they come on the 3rd.", "2024-06-03"),
        ("they came on the 3rd.", "2024-05-03"),
        ("they moved it to Thursday 13 June", "2024-06-13"),
        ("it had to be moved to Thursday, June 13th", "2024-06-13"),
        ("until the end of 2023 I was there", "2023"),
        ("back in 2019 I lived there", "2019"),
        ("by the end of next month", "June 2024"),
        ("by the end of the month", "May 2024"),
        ("12/06/2024", "2024-12-06"),
        ("25/06/2024", "2024-06-25"),
        ("25.06.2024", "2024-06-25"),
        ("2024/06/25", "2024-06-25"),
        ("I march in March", "March 2025"),
        ("I sold it last march", "March 2024"),
        ("in March next year we wed", "March 2025"),
        ("in June last year we met", "June 2023"),
        ("we may meet on May 3", "2025-05-03"),
        ("the fair is on may 30", "2024-05-30"),
    ],
)
def test_dates_on_a_wednesday_in_may(text: str, date: str) -> None:
    assert dates(text, WEDNESDAY)[-1:] == [date]


@pytest.mark.parametrize(
    ("text", "moment", "date"),
    [
        ("the 3rd of June is my visa interview", "2025-01-20T09:45", "2025-06-03"),
        ("my visa interview was on 3 June", "2025-01-20T09:45", "2024-06-03"),
        ("we fly on 20 December", "2025-01-20T09:45", "2025-12-20"),
        ("they came on 20 December", "2025-01-20T09:45", "2024-12-20"),
        ("on 29 February I turn twelve", "2025-01-20T09:45", "2028-02-29"),
        ("I see them on the 31st.", "2024-04-30T09:00", "2024-05-31"),
        ("next Sunday", "2024-05-19T09:00", "2024-05-26"),
        ("next month", "2024-01-31T09:00", "February 2024"),
        ("in two months", "2023-12-31T09:00", "February 2024"),
        ("this winter we ski", "2024-01-31T09:00", "December 2023 to February 2024"),
        ("next weekend", "2025-11-03T09:00", "2025-11-15"),
        ("my mum was born in 1960 in March", "2024-07-01T09:00", "1960"),
        ("in August last year", "2024-01-31T09:00", "August 2023"),
        ("明年三月结婚", "2024-01-31T09:00", "March 2025"),
        ("去年12月搬家了", "2024-01-31T09:00", "December 2023"),
        ("nächstes Jahr im März", "2024-01-31T09:00", "March 2025"),
    ],
)
def test_dates_at_other_times_of_the_year(text: str, moment: str, date: str) -> None:
    assert dates(text, moment) == [date]


@pytest.mark.parametrize(
    "text",
    [
        "We march 20 km every year.",
        "may 20 people come? it may be so",
        "every Friday we swim, on Fridays we rest",
        "I usually work on Friday",
        "on the 15th floor",
        "I love Christmas and the Christmas tree",
        "see the sun and sat down, mon dieu",
        "I paid 2024 dollars in 2000 pieces",
        "version 3.10.12 of 192.168.2024.1, ID 555-2024-12",
        "Meet April, May and June at the bar",
        "the last of us, the next one, this one",
        "half past five is fine",
        "I learned it in two weeks and finished in 3 days",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert dates(text, WEDNESDAY) == []


def test_weekdays_are_those_of_the_speakers_clock() -> None:
    """It is Thursday evening in New York, and Friday in UTC."""
    at, offset = parse_time("2024-05-16T22:00:00-04:00")
    assert with_dates("I see her on Friday.", at, offset) == "I see her on Friday (2024-05-17)."
    assert with_dates("I see her on Friday.", at) == "I see her on Friday (2024-05-24)."
    (span,) = spans_in("I see her on Friday.", at, offset)
    assert span.end - span.start == 86_400
    assert datetime.fromtimestamp(span.start, UTC).hour == 4


def test_texts_get_the_dates_of_relative_ones_only() -> None:
    at = time_of("2024-02-12T12:00")
    text = "I moved last week, on 3 May 2023 I was there, and since 2019 too; see you on Friday."
    assert with_dates(text, at) == (
        "I moved last week (week of 2024-02-05), on 3 May 2023 I was there, and since 2019 too; "
        "see you on Friday (2024-02-16)."
    )


@pytest.mark.parametrize(
    "text", ["I moved last week, see you on Friday.", "last spring and in June", "two years ago, next month, 下周五"]
)
def test_dates_are_put_into_a_text_once(text: str) -> None:
    once = with_dates(text, time_of(WEDNESDAY))
    assert once.count("(") >= 2
    assert with_dates(once, time_of("2026-01-01T00:00")) == once


@pytest.mark.parametrize(
    ("query", "start", "end"),
    [
        ("what do I have on 10 January 2025", "2025-01-10", "2025-01-11"),
        ("plans for May 2025", "2025-05-01", "2025-06-01"),
        ("trip in 2022", "2022-01-01", "2023-01-01"),
        ("where was I in summer 2021", "2021-06-01", "2021-09-01"),
        ("what did I do last Friday", "2024-05-10", "2024-05-11"),
        ("what did I do on Monday", "2024-05-13", "2024-05-14"),
        ("what do I have on Monday", "2024-05-20", "2024-05-21"),
        ("what is on next weekend", "2024-05-25", "2024-05-27"),
        ("where did I live until the end of 2023", None, "2024-01-01"),
        ("where have I lived since 1 January 2024", "2024-01-01", None),
        ("what happened between 3 May 2023 and 7 May 2023", "2023-05-03", "2023-05-08"),
    ],
)
def test_questions_ask_by_dates(query: str, start: str | None, end: str | None) -> None:
    clue = clue_of(query, time_of(WEDNESDAY))
    assert clue.start == (float("-inf") if start is None else time_of(start))
    assert clue.end == (float("inf") if end is None else time_of(end))
