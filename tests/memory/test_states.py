from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.domain.adding import new_message
from memory.language.dates import Clue, clue_of, parse_time, shown, spans_in, with_dates
from memory.language.extract import LocalExtractor
from memory.language.names import names_in
from memory.language.states import state_of

AT = datetime(2023, 5, 8, 13, 56, tzinfo=UTC).timestamp()  # a Monday


@pytest.mark.parametrize(
    ("text", "kind", "slot", "value"),
    [
        ("I live in Oslo.", "state", "home", "oslo"),
        ("I've just moved to Lima, Peru!", "state", "home", "lima, peru"),
        ("I'm now living in Rio de Janeiro with Sam", "state", "home", "rio de janeiro"),
        ("Anna lives in New York now.", "state", "home", "new york"),
        ("I work as a nurse.", "state", "job", "a nurse"),
        ("My favourite colour is green.", "preference", "favourite:colour", "green"),
        ("My favorite band is Abba", "preference", "favourite:band", "abba"),
        ("My name is Kofi", "profile", "name", "kofi"),
        ("I'm 31 years old.", "profile", "age", "31"),
        ("My birthday is on 3 May", "profile", "birthday", "3 may"),
        ("I got married!", "state", "relation", "married"),
        ("I became vegetarian", "preference", "diet", "vegetarian"),
        ("I love coffee", "preference", "liking:coffee", "likes"),
        ("I don't like coffee anymore", "preference", "liking:coffee", "dislikes"),
        ("I can't stand the rain because it is wet", "preference", "liking:rain", "dislikes"),
        ("My dog is called Biscuit.", "state", "own:dog", "biscuit"),
    ],
)
def test_sentences_fill_slots(text: str, kind: str, slot: str, value: str) -> None:
    state = state_of(text)
    assert state is not None
    assert (state.kind, state.slot, state.value, state.ends) == (kind, slot, value, False)


def test_a_state_knows_whose_it_is_and_whether_it_ends() -> None:
    anna = state_of("Anna lives in Bergen")
    assert anna is not None
    assert anna.subject == "Anna"
    gone = state_of("I no longer live in Oslo")
    assert gone is not None
    assert (gone.slot, gone.value, gone.ends) == ("home", "oslo", True)


@pytest.mark.parametrize(
    "text",
    [
        "Do you live in Oslo?",
        "He really enjoys hiking",
        "It was a long day.",
        "I am a big fan",
        "The bus moved to the side",
        "",
    ],
)
def test_other_sentences_fill_none(text: str) -> None:
    assert state_of(text) is None


@pytest.mark.parametrize(
    ("text", "words", "date"),
    [
        ("I went yesterday", "yesterday", "2023-05-07"),
        ("last week we met", "last week", "week of 2023-05-01"),
        ("it was two years ago", "two years ago", "2021"),
        ("three weeks ago", "three weeks ago", "2023-04-17"),
        ("in May 2022 we", "May 2022", "May 2022"),
        ("on 7 May 2023", "7 May 2023", "2023-05-07"),
        ("May 7, 2023", "May 7, 2023", "2023-05-07"),
        ("last Friday", "last Friday", "2023-05-05"),
        ("last Monday", "last Monday", "2023-05-01"),
        ("next month", "next month", "June 2023"),
        ("in three days", "in three days", "2023-05-11"),
        ("in June", "in June", "June 2023"),
        ("the 4th of July", "the 4th of July", "2023-07-04"),
        ("2023-04-01", "2023-04-01", "2023-04-01"),
        ("a month ago", "a month ago", "April 2023"),
    ],
)
def test_dates_are_resolved_against_the_time_of_the_message(text: str, words: str, date: str) -> None:
    (span,) = spans_in(text, AT)
    assert (span.words, shown(span.start, span.unit)) == (words, date)
    assert text[span.position :].startswith(words)


def test_days_are_those_of_the_speakers_clock() -> None:
    """Half past eleven in the evening in New York is the next day already in UTC."""
    at, offset = parse_time("2023-05-07T23:30:00-04:00")
    (span,) = spans_in("yesterday", at, offset)
    assert shown(span.start, "day", offset) == "2023-05-06"
    assert span.end - span.start == 86_400
    assert with_dates("I ran yesterday.", at, offset) == "I ran yesterday (2023-05-06)."
    assert with_dates("I ran yesterday.", at) == "I ran yesterday (2023-05-07)."


def test_months_of_different_lengths() -> None:
    at = datetime(2024, 3, 31, 12, tzinfo=UTC).timestamp()
    assert [shown(s.start, s.unit) for s in spans_in("a month ago", at)] == ["February 2024"]
    assert [shown(s.start, s.unit) for s in spans_in("a year ago", at)] == ["2023"]
    assert spans_in("on 31 June", at) == []


@pytest.mark.parametrize(
    ("query", "start", "end", "tense"),
    [
        ("What did she do in May 2023?", "2023-05-01", "2023-06-01", None),
        ("What happened last week?", "2023-05-01", "2023-05-08", None),
        ("Where was he before May 2023?", None, "2023-05-01", None),
        ("What did he buy before June?", None, "2022-06-01", None),
        ("What happened after 7 May 2023?", "2023-05-08", None, None),
        ("Where did I live before?", None, None, "before"),
        ("Where did I use to work, previously?", None, None, "before"),
        ("Where do I live now?", None, None, "now"),
        ("Where do I live?", None, None, None),
    ],
)
def test_what_a_question_asks_for_in_time(query: str, start: str | None, end: str | None, tense: str | None) -> None:
    def at(date: str | None, otherwise: float) -> float:
        return otherwise if date is None else parse_time(date)[0]

    expected = Clue(None, None, tense)  # type: ignore[arg-type]
    if start or end:
        expected = Clue(at(start, float("-inf")), at(end, float("inf")), None)
    assert clue_of(query, AT) == expected


@given(st.text(max_size=200), st.floats(-1e11, 1e11))
def test_any_text_at_any_time(text: str, at: float) -> None:
    try:
        spans = spans_in(text, at)
    except ValueError:
        return
    assert all(span.start < span.end for span in spans)
    clue_of(text, at)
    with_dates(text, at)
    state_of(text)
    names_in(text)


@pytest.mark.parametrize("value", ["", "nonsense", "32 Foo 2023", float("nan"), float("inf"), 1e300])
def test_times_that_are_none(value: str | float) -> None:
    with pytest.raises(ValueError, match=r"time|calendar"):
        parse_time(value)


def test_times_in_several_spellings() -> None:
    expected = datetime(2023, 5, 8, 13, 56, tzinfo=UTC).timestamp()
    for value in ("2023-05-08T13:56:00Z", "2023-05-08 13:56", "2023-05-08T15:56+02:00", expected, expected * 1000):
        assert parse_time(value)[0] == expected


def test_names() -> None:
    assert names_in("Yesterday I met Doctor Haldane in New York, near the Bank of England.") == [
        "doctor haldane",
        "new york",
        "bank of england",
    ]

    assert names_in("thanks, that was great") == []


def test_units_are_sentences_without_greetings_and_questions() -> None:
    message = new_message(
        "Hey Ana! How are you? I live in Lima now. I went to a pottery class yesterday and made a bowl. Thanks!",
        "user",
        AT,
        "Sam",
    )
    units = LocalExtractor().extract([message])
    assert [(unit.text, unit.kind) for unit in units] == [
        ("Sam: I live in Lima now.", "state"),
        ("Sam: I went to a pottery class yesterday (2023-05-07) and made a bowl.", "event"),
    ]
    assert units[1].event_at == parse_time("2023-05-07")[0]
    assert all(unit.sources == (0,) for unit in units)


def test_long_messages_are_cut_and_tools_are_experience() -> None:
    long = " ".join(f"The item number {i} was made of wood and stone." for i in range(40))
    units = LocalExtractor().extract(
        [
            new_message(long, "user", AT),
            new_message("Hi!", "assistant", AT),
            new_message("You could try Darjeeling tea.", "assistant", AT),
            new_message("You are helpful.", "system", AT),
            new_message("12 degrees", "tool", AT, metadata={"tool": "weather", "arguments": '{"city": "Oslo"}'}),
        ]
    )
    assert all(len(unit.text.split()) <= 61 for unit in units)
    assert [unit.text for unit in units[-2:]] == [
        "Assistant: You could try Darjeeling tea.",
        'Tool weather with {"city": "Oslo"} returned: 12 degrees',
    ]
    assert units[-1].kind == "tool"
    assert units[-2].importance < units[0].importance


def test_implicit_preferences_are_told_from_explicit_ones() -> None:
    units = LocalExtractor().extract(
        [new_message("I usually take the train.", "user", AT), new_message("I prefer trains.", "user", AT)]
    )
    assert [(u.kind, u.metadata["preference_type"]) for u in units] == [
        ("preference", "implicit"),
        ("preference", "explicit"),
    ]
