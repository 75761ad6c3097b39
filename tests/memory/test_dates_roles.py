"""What a date is to its clause: a value, a begin, the past, or when something happened."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory.language.dates import said_as_value, spans_in

AT = datetime(2024, 7, 1, 9, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "role"),
    [
        # What is said is the date: appointments, deadlines, birthdays, anything to come.
        ("My birthday is May 5, 1990.", "value"),
        ("My deadline is now June 12, 2027.", "value"),
        ("Sorry, my flight was on 2024-06-20, not today's", "value"),
        ("I work at Acme until December 2027.", "value"),
        ("The dentist moved me to Thursday.", "value"),
        ("We're moving to Lima next month.", "value"),
        ("the exam was rescheduled to the 12th.", "value"),
        ("born on 3 May 1988 in Gdansk", "value"),
        ("der Termin wurde auf den 14. August verschoben", "value"),
        ("mein Geburtstag ist am 3. Mai", "value"),
        ("la réunion est reportée au 12 septembre", "value"),
        ("mi cumpleaños es el 8 de marzo", "value"),
        ("a defesa foi adiada para 19 de dezembro", "value"),
        ("день рождения у меня 3 мая", "value"),
        ("موعد العملية ٢٠ يونيو ٢٠٢٥", "value"),
        ("会议改到周五", "value"),
        ("締め切りが6月13日に早まりました", "value"),
        ("내 생일은 5월 3일이야", "value"),
        # It began then and holds.
        ("I moved to Lima last week, finally telling you.", "since"),
        ("since 1 January 2024 I've been living in Cardiff", "since"),
        ("Priya and I got married on Saturday", "since"),
        ("two years ago I quit smoking", "since"),
        ("seit 1. März wohne ich in Konstanz", "since"),
        ("vor drei Wochen bin ich umgezogen", "since"),
        ("depuis 2021 je suis à Lyon", "since"),
        ("hace dos semanas me mudé a Lima", "since"),
        ("desde março de 2021 moro em Lisboa", "since"),
        ("с 2019 года живу в Туле", "since"),
        ("две недели назад переехал в Омск", "since"),
        ("منذ 2019 أعيش هنا", "since"),
        ("上个月搬家了", "since"),
        ("2020年から東京に住んでいます", "since"),
        ("지난달 이사했어요", "since"),
        # It held then and is over.
        ("back in 2019 I lived in Porto", "past"),
        ("in 2019 I lived in Porto", "past"),
        ("Until the end of 2023 I was in Bristol", "past"),
        ("im Sommer 2023 wohnte ich in Kiel", "past"),
        ("en 2019 j'habitais à Nice", "past"),
        ("en 2019 vivía en Cali", "past"),
        ("em 2019 eu morava no Rio", "past"),
        ("в 2019 году работал поваром", "past"),
        ("2019年住在上海", "past"),
        ("去年の夏は京都に住んでいた", "past"),
        ("작년 여름 부산에 살았어요", "past"),
        # It happened then, or goes on.
        ("My cat is sick today.", "when"),
        ("Yesterday evening I ate at Da Gino", "when"),
        ("We went to Norway in 2023.", "when"),
        ("gestern Abend habe ich gekocht", "when"),
        ("ayer fui al médico", "when"),
        ("昨天去看牙医了", "when"),
    ],
)
def test_roles(text: str, role: str) -> None:
    spans = spans_in(text, AT)
    assert [span.role for span in spans[:1]] == [role]
    assert said_as_value(spans[0]) == (role in ("value", "when"))


def test_every_date_of_a_text_has_its_own_role() -> None:
    text = (
        "Until the end of 2023 I was in Bristol; since 1 January 2024 I've been living in Cardiff, exam on 3 September."
    )
    assert [(span.words, span.role, span.bound) for span in spans_in(text, AT)] == [
        ("the end of 2023", "past", "until"),
        ("1 January 2024", "since", "since"),
        ("3 September", "value", None),
    ]


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("before May 2023", "before"),
        ("after 7 May 2023", "after"),
        ("until June 2023", "until"),
        ("ever since June 2023", "since"),
        ("bis Juni 2023", "until"),
        ("avant juin 2023", "before"),
        ("después del 3 de mayo de 2023", "after"),
        ("até junho de 2023", "until"),
        ("после 3 мая 2023", "after"),
        ("بعد يونيو 2023", "after"),
        ("2023年6月以后", "after"),
        ("2023年6月まで", "until"),
        ("2023년 6월부터", "since"),
        ("the day after tomorrow", None),
        ("vor drei Wochen", None),
        ("depois de amanhã", None),
        ("on 3 May 2023", None),
    ],
)
def test_words_beside_a_date_make_an_end_of_it(text: str, bound: str | None) -> None:
    (span,) = spans_in(text, AT)
    assert span.bound == bound
