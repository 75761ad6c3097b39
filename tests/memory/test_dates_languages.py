"""Dates in the other languages, said on Monday, 1 July 2024."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory.language.dates import clue_of, shown, spans_in, with_dates

AT = datetime(2024, 7, 1, 9, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "date"),
    [
        # German
        ("am 20. Juni hatte ich Prüfung", "2024-06-20"),
        ("am 20. Juni habe ich Prüfung", "2025-06-20"),
        ("am 3.9. muss ich zum TÜV", "2024-09-03"),
        ("die Hochzeit ist am 14. September 2025", "2025-09-14"),
        ("übermorgen hab ich Fußpflege", "2024-07-03"),
        ("vorgestern waren wir essen", "2024-06-29"),
        ("am Freitag muss ich zum Arzt", "2024-07-05"),
        ("am Freitag war ich beim Arzt", "2024-06-28"),
        ("letzten Freitag", "2024-06-28"),
        ("Mittwoch um 8 Uhr Zahnarzt", "2024-07-03"),
        ("nächste Woche Donnerstag", "2024-07-11"),
        ("nächste Woche ist frei", "week of 2024-07-08"),
        ("letztes Jahr", "2023"),
        ("im letzten Monat", "June 2024"),
        ("in drei Wochen", "2024-07-22"),
        ("vor zwei Jahren", "2022"),
        ("letzten Sommer", "June to August 2023"),
        ("im Herbst 2022", "September to November 2022"),
        ("an Weihnachten fahren wir heim", "2024-12-25"),
        ("der Termin ist am 15., nicht später", "2024-07-15"),
        ("das war am 12/06/2024 und ich bin müde", "2024-06-12"),
        ("2019 habe ich in Köln gewohnt", "2019"),
        ("ich bin 2019 umgezogen", "2019"),
        ("Ende 2021 zog ich um", "2021"),
        # French
        ("le 4 octobre je pars", "2024-10-04"),
        ("c'est finalement le vendredi 7 juin à 14h30", "2024-06-07"),
        ("le 1er août 2025", "2025-08-01"),
        ("avant-hier j'ai adopté deux poules", "2024-06-29"),
        ("après-demain je vois le notaire", "2024-07-03"),
        ("vendredi je vais à Paris", "2024-07-05"),
        ("vendredi j'ai mangé à Paris", "2024-06-28"),
        ("jeudi prochain", "2024-07-04"),
        ("lundi dernier", "2024-06-24"),
        ("la semaine dernière", "week of 2024-06-24"),
        ("le mois prochain", "August 2024"),
        ("dans deux semaines", "2024-07-15"),
        ("il y a trois jours", "2024-06-28"),
        ("l'été dernier", "June to August 2023"),
        ("à Noël on va chez elle", "2024-12-25"),
        ("fin 2023", "2023"),
        ("en 2019 j'habitais à Nice", "2019"),
        ("c'est le 15, pas plus tard", "2024-07-15"),
        # Spanish
        ("el 4 de octubre nos casamos", "2024-10-04"),
        ("el 4 de octubre de 2025", "2025-10-04"),
        ("anteayer fui al médico", "2024-06-29"),
        ("pasado mañana tengo cita", "2024-07-03"),
        ("por la mañana tomo café y mañana salgo", "2024-07-02"),
        ("el viernes voy al teatro", "2024-07-05"),
        ("el viernes fui al teatro", "2024-06-28"),
        ("el viernes pasado", "2024-06-28"),
        ("la semana que viene", "week of 2024-07-08"),
        ("el jueves de la semana que viene", "2024-07-11"),
        ("el año pasado", "2023"),
        ("hace dos semanas", "2024-06-17"),
        ("dentro de tres días", "2024-07-04"),
        ("el verano pasado", "June to August 2023"),
        ("en Navidad vamos a Soria", "2024-12-25"),
        ("en 2019 vivía en Cali", "2019"),
        ("hasta finales de 2023", "2023"),
        ("en agosto de 2024 fui a Menorca", "August 2024"),
        ("22 de abril de 2025 dentista", "2025-04-22"),
        # Portuguese
        ("em 3 de maio de 2025 tem chá", "2025-05-03"),
        ("dia 15 tem prova", "2024-07-15"),
        ("depois de amanhã tem dentista", "2024-07-03"),
        ("anteontem fui ao médico", "2024-06-29"),
        ("na sexta vou viajar", "2024-07-05"),
        ("na sexta-feira passada", "2024-06-28"),
        ("semana que vem", "week of 2024-07-08"),
        ("mês passado", "June 2024"),
        ("há dois anos eu morava em Braga", "2022"),
        ("daqui a duas semanas", "2024-07-15"),
        ("no verão passado", "June to August 2023"),
        ("desde março de 2021 moro em Lisboa", "March 2021"),
        # Russian
        ("20 июня был экзамен", "2024-06-20"),
        ("20 июня 2025 года", "2025-06-20"),
        ("послезавтра иду к врачу", "2024-07-03"),
        ("позавчера ходили в кино", "2024-06-29"),
        ("в пятницу иду к врачу", "2024-07-05"),
        ("в пятницу были в кино", "2024-06-28"),
        ("в прошлую пятницу", "2024-06-28"),
        ("в понедельник, 8 июля", "2024-07-08"),
        ("в марте прошлого года", "March 2023"),
        ("на следующей неделе", "week of 2024-07-08"),
        ("в прошлом месяце", "June 2024"),
        ("через две недели", "2024-07-15"),
        ("три года назад", "2021"),
        ("прошлым летом", "June to August 2023"),
        ("с 2019 года живу в Туле", "2019"),
        # Arabic, its digits too
        ("موعد العملية ٢٠ يونيو ٢٠٢٥", "2025-06-20"),
        ("في 20 حزيران 2025", "2025-06-20"),
        ("بعد غد عندي مقابلة", "2024-07-03"),
        ("أول أمس ذهبت إلى الطبيب", "2024-06-29"),
        ("يوم الجمعة عندي موعد", "2024-07-05"),
        ("الجمعة الماضية", "2024-06-28"),
        ("الأسبوع القادم", "week of 2024-07-08"),
        ("الشهر الماضي", "June 2024"),
        ("قبل أسبوعين", "2024-06-17"),
        ("بعد ثلاثة أيام", "2024-07-04"),
        ("منذ 2019 أعيش هنا", "2019"),
        ("الصيف الماضي", "June to August 2023"),
        # Chinese
        ("6月20日考试", "2024-06-20"),
        ("二〇二五年六月二十日", "2025-06-20"),
        ("後天開會", "2024-07-03"),
        ("前天去看牙医了", "2024-06-29"),
        ("周五有课", "2024-07-05"),
        ("下周五团建", "2024-07-12"),
        ("上周五搬家了", "2024-06-28"),
        ("下個禮拜三面試", "2024-07-10"),
        ("上个月搬家了", "June 2024"),
        ("明年三月结婚", "March 2025"),
        ("三天前", "2024-06-28"),
        ("两周后", "2024-07-15"),
        ("去年春天", "March to May 2023"),
        ("圣诞节去哈尔滨", "2024-12-25"),
        ("15号面试", "2024-07-15"),
        # Japanese
        ("6月20日に試験でした", "2024-06-20"),
        ("2025年6月20日に試験", "2025-06-20"),
        ("明後日は面接です", "2024-07-03"),
        ("おととい映画を見た", "2024-06-29"),
        ("金曜日に歯医者です", "2024-07-05"),
        ("来週の金曜日に出張", "2024-07-12"),
        ("先週の金曜日", "2024-06-28"),
        ("先月引っ越しました", "June 2024"),
        ("3日後に退院", "2024-07-04"),
        ("二週間前に始めた", "2024-06-17"),
        ("去年の夏は京都にいた", "June to August 2023"),
        ("来年の三月", "March 2025"),
        ("一昨年の話", "2022"),
        # Korean
        ("6월 20일에 시험 봤어요", "2024-06-20"),
        ("2025년 6월 20일 시험", "2025-06-20"),
        ("내일모레 면접이 있어요", "2024-07-03"),
        ("그저께 영화 봤어", "2024-06-29"),
        ("금요일에 약속 있어요", "2024-07-05"),
        ("다음 주 금요일 회의", "2024-07-12"),
        ("지난주 금요일", "2024-06-28"),
        ("지난달 이사했어요", "June 2024"),
        ("3일 뒤 출국", "2024-07-04"),
        ("2주 전에 퇴사했다", "2024-06-17"),
        ("작년 여름 부산에 살았어요", "June to August 2023"),
        ("내년 3월에 결혼해요", "March 2025"),
    ],
)
def test_dates_of_other_languages(text: str, date: str) -> None:
    assert [shown(span.start, span.unit) for span in spans_in(text, AT)] == [date]


@pytest.mark.parametrize(
    "text",
    [
        "jeden Freitag gehe ich schwimmen, freitags Chor",
        "guten Morgen, am Morgen trinke ich Tee",
        "ich wohne hier und es ist der 3. Tag im 3. Stock",
        "le vendredi je nage, tous les lundis aussi",
        "los viernes juego, cada lunes también",
        "por la mañana tomo café",
        "toda sexta tem samba, a segunda vez foi melhor",
        "по пятницам плаваю, каждую среду тоже",
        "كل جمعة نلتقي",
        "每周五有课,三个月大的猫",
        "毎週金曜日はヨガです。3階に住んでいます",
        "매주 금요일 수영, 월요일마다 요가",
    ],
)
def test_habits_and_other_things_have_no_date(text: str) -> None:
    assert spans_in(text, AT) == []


@pytest.mark.parametrize(
    ("query", "start", "end"),
    [
        ("2025年5月23日有什么活动", "2025-05-23", "2025-05-24"),
        ("2025年11月19日前后有什么事", "2025-11-19", "2025-11-20"),
        ("上个月我做了什么", "2024-06-01", "2024-07-01"),
        ("2025年5月23日の予定は", "2025-05-23", "2025-05-24"),
        ("7월 17일에 무슨 일정이 있어요?", "2024-07-17", "2024-07-18"),
        ("was habe ich am 9. Januar 2025 vor", "2025-01-09", "2025-01-10"),
        ("wo wohnte ich im Sommer 2021", "2021-06-01", "2021-09-01"),
        ("Qu'est-ce que j'ai le 6 octobre 2025 ?", "2025-10-06", "2025-10-07"),
        ("qué tengo el 17 de mayo de 2024", "2024-05-17", "2024-05-18"),
        ("o que tenho em 16 de abril de 2025", "2025-04-16", "2025-04-17"),
        ("что у меня 13 марта 2024 года", "2024-03-13", "2024-03-14"),
        ("ماذا عندي في 17 يونيو 2025", "2025-06-17", "2025-06-18"),
        ("où habitais-je avant 2020", None, "2020-01-01"),
        ("wo wohne ich seit März 2023", "2023-03-01", None),
        ("2020年以前我住在哪里", None, "2020-01-01"),
        ("2020年から何をしていますか", "2020-01-01", None),
    ],
)
def test_questions_of_other_languages_ask_by_dates(query: str, start: str | None, end: str | None) -> None:
    def at(date: str) -> float:
        return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()

    clue = clue_of(query, AT)
    assert clue.start == (float("-inf") if start is None else at(start))
    assert clue.end == (float("inf") if end is None else at(end))


@pytest.mark.parametrize(
    ("query", "tense"),
    [
        ("wo habe ich früher gewohnt", "before"),
        ("wo wohne ich jetzt", "now"),
        ("où est-ce que j'habitais avant", "before"),
        ("où j'habite maintenant", "now"),
        ("dónde vivía antes", "before"),
        ("dónde vivo ahora", "now"),
        ("onde eu morava antes", "before"),
        ("где я жил раньше", "before"),
        ("где я живу сейчас", "now"),
        ("أين كنت أسكن سابقا", "before"),
        ("我以前住在哪里", "before"),
        ("我现在住在哪里", "now"),
        ("以前はどこに住んでいましたか", "before"),
        ("전에는 어디 살았어요", "before"),
        ("지금 어디 살아요", "now"),
        ("wo wohne ich", None),
        ("我住在哪里", None),
    ],
)
def test_questions_ask_for_now_or_before(query: str, tense: str | None) -> None:
    assert clue_of(query, AT).tense == tense


def test_dates_are_put_into_texts_in_the_same_form() -> None:
    assert with_dates("Letzte Woche bin ich umgezogen.", AT) == "Letzte Woche (week of 2024-06-24) bin ich umgezogen."
    assert with_dates("下周五团建。", AT) == "下周五 (2024-07-12)团建。"
    assert with_dates("2019年住在上海。", AT) == "2019年住在上海。"
    assert with_dates("منذ ٢٠١٩ أعيش هنا", AT) == "منذ ٢٠١٩ أعيش هنا"
