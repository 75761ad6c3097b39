"""Text is cut where sentences end, and nowhere else."""

from __future__ import annotations

import time

import pytest

from memory import new_message
from memory.language.extract import MAX_UNIT_WORDS, LocalExtractor
from memory.language.sentences import joined, sentences_in
from memory.language.states import state_of
from memory.language.words import length_in_words

WHOLE = [
    "My physio is Dr. Okafor in St. Albans.",
    "Mrs. Lund and Mr. Bray run the shop at Mt. Pleasant Rd. in Leeds.",
    "I rent from Harlow Ltd. in Hull and bank with Orr Inc. on Park Ave. in York.",
    "The novel is by P. D. James and not by J. R. R. Tolkien.",
    "My shift begins at 5 a.m. on weekdays and at 10 p.m. on Fridays.",
    "The server runs 3.11.4 and costs 4.75 a month, vs. 6.20 before.",
    "Mail me at k.lo.wu@post.example or see https://kw.example/a.b?c=1.2 for more.",
    "We sell fruit, e.g. plums, i.e. what grows here, nuts etc. and jam.",
    "The U.S. embassy in Washington D.C. moved to No. 12.",
    "I was... well, late again.",
    'She yelled "come here!" and ran off.',
    "Ich wohne im 4. Stock und ziehe am 7. März um.",
    "Mein Hausarzt ist Prof. Dr. med. Vogt, bzw. seine Frau, in der Goethestr. 9.",
    "Ich mag Obst, z. B. Birnen, u. a. vom Markt, d.h. frisches.",
    "Ludwig XIV. von Frankreich steht auf Seite 3.",
    "Mon docteur est Mme. Roux, la femme de M. Petit.",
    "El Sr. Vidal y la Sra. Paz viven en la Av. Mayor.",
    "A Dra. Nunes atende na R. Augusta.",
    "Я живу в г. Тула на ул. Мира, д. 8 и читаю А. П. Чехова.",
    "طبيبي د. سامي في القاهرة",
    "她问我「你几岁？」的时候我没回答。",
    "「もう行くね。」と母が言った。",
    "今天有点冷……不过还行。",
    "バージョンは３．５です。",
]


@pytest.mark.parametrize("text", WHOLE)
def test_one_sentence_stays_whole(text: str) -> None:
    assert sentences_in(text) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "I moved to Lyon.|It is warm.|Is it?|Yes!",
        "i sold the boat.|i bought a canoe.|anna hates it.",
        "We live on Elm St.|It is quiet.",
        "I worked at Orr Inc.|My boss was kind.",
        "I get up at 6 a.m.|Then I row.",
        "My blood type is B.|I take vitamin D.|It helps.",
        "She is 30.|He is 31.|Say no.|Ask me.",
        "Bring cups, plates, etc.|Tom brings the rest.",
        "Ich wohne in Haus 7.|Wir ziehen um.",
        "Это было в 2019 г.|Мы переехали.|Потом и т.д.|Всё.",
        "我住在南京。|我爱吃面！|你呢？|不知道；|好",
        "太好了!|走吧?|好",
        "駅の近くです。|便利！|本当？|はい",
        "저는 대구에 살아요.|조용해요!|그렇죠?",
        "أين تسكن؟|أسكن في فاس.",
        "میں لاہور میں رہتا ہوں۔|یہ بڑا ہے۔",
        "Hola.|¿Qué tal?|¡Bien!",
        'He said "Stop."|Then he left.',
        "It works!!|Really?!|Yes...|Good.",
    ],
)
def test_sentences_are_told_apart(text: str) -> None:
    space = "" if any(mark in text for mark in "。太") else " "
    assert sentences_in(text.replace("|", space)) == text.split("|")


def test_lines_are_sentences_and_code_is_one() -> None:
    code = "```python\ndef f(x):\n    return x.real  # e.g. 1. Or 2.\n```"
    text = f"Two things:\n- Name: Mia\n- Age: 9\n1. Milk. And tea\n{code}\nIt fails. Why?"
    parts = ["Two things:", "- Name: Mia", "- Age: 9", "1. Milk.", "And tea", code, "It fails.", "Why?"]
    assert sentences_in(text) == parts
    assert joined(parts[:4] + parts[5:7]) == f"Two things:\n- Name: Mia\n- Age: 9\n1. Milk.\n{code}\nIt fails."
    assert sentences_in("~~~\nnever ends.\n\nNo") == ["~~~\nnever ends.\n\nNo"]
    assert joined(["我住在南京。", "我爱吃面。"]) == "我住在南京。我爱吃面。"
    assert sentences_in(" \n\n ") == []


def test_a_block_of_code_can_run_when_it_comes_back() -> None:
    code = "```python\nfor i in range(3):\n    print(i)\n```"
    parts = sentences_in(f"My script for the lamp is this:\n{code}")
    assert parts == ["My script for the lamp is this:", code]
    assert joined(parts) == f"My script for the lamp is this:\n{code}"


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        ("My doctor is Dr. Abara.", "dr. abara"),
        ("My dentist is J. P. Kwon, on the corner.", "j. p. kwon"),
        ("My email is m.ito@post.example.", "m.ito@post.example"),
        ("I live in St. Gallen.", "st. gallen"),
        ("My laptop is a V3.5 Pro. I like it.", "a v3.5 pro"),
        ("My rent is 840.50 euros.", "840.50 euros"),
    ],
)
def test_a_value_is_whole_with_its_dots(sentence: str, value: str) -> None:
    state = state_of(sentence)
    assert state is not None
    assert state.value == value


def test_a_text_without_spaces_is_as_long_as_its_translation() -> None:
    assert length_in_words("I live in a small town.") == 6
    assert 5 < length_in_words("我住在一个小镇上。") < 8
    assert length_in_words("server 在 Frankfurt") == pytest.approx(2.6, abs=0.1)
    said = [f"第{i}件事是我每天早上都要去公园里慢跑半个小时再去上班。" for i in range(8)]
    units = LocalExtractor().extract([new_message("".join(said))])
    assert 2 <= len(units) <= 8  # how something stands is a unit by itself
    assert all(length_in_words(unit.text) <= MAX_UNIT_WORDS + 2 for unit in units)
    assert sum(unit.text.count("件事") for unit in units) == 8


@pytest.mark.parametrize(
    "text", ["a. " * 50_000, "“" * 50_000 + "。", "```\n" * 20_000, "1. 2. z. " * 20_000, "。" * 99_999]
)
def test_cutting_takes_time_that_grows_with_the_text_alone(text: str) -> None:
    begun = time.process_time()
    sentences_in(text)
    assert time.process_time() - begun < 3
