"""Faults that users of other memory systems have reported, by the ids under which they were first tried here.

Each case says what a conversation was and what must be remembered of it. What those reports say of servers (retries,
ids, deleting, filters) is tested with the server.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from memory import FolderEmbedder, Message
from memory.domain.discretion import Discretion
from memory.language.dates import DATE_BEHIND
from memory.language.extract import LocalExtractor
from memory.language.secrets import MASK
from tests.memory.telling import Case, T, Turn, check, params, told

_MUSEUM = (
    "Taking photographs of the exhibits on the second floor of the museum during the opening week of the show is {}"
    " for visitors without any special permit from the office."
)
_CALL = (
    "Our weekly planning call with the partners in Nairobi about the harbour project starts on {} at nine and everybody"
    " brings the numbers of the previous week along."
)
_DISCOUNTS = (
    "Discounts above twenty percent on any annual contract need a written approval from the finance team before sales"
    " may send out the final quote to a customer, and every such request must include its expected margin, region,"
    " product line and renewal date{}."
)
_SWIMMING = (
    "During the school holidays my son {} goes swimming with his friends at the outdoor pool near the station almost"
    " every single afternoon and comes home hungry."
)


OUTDATED = (
    Case("H01b", ("I work at Initech.", "I no longer work at Initech."), gone=("User: I work at Initech.",)),
    Case(
        "H01c",
        ("I'm vegetarian.", "I'm not vegetarian any more, I eat meat again."),
        ("eat meat again",),
        ("User: I'm vegetarian.",),
    ),
    Case("H01d", ("i live in oslo", "i moved to lima last month"), ("lima",), ("oslo",)),
    Case("H01f", ("My favorite color is teal.", "My favourite colour is orange now."), ("orange",), ("teal",)),
    Case(
        "H07a",
        ("My flight is on 2027-03-20.", "My flight is on 2027-03-18 now."),
        ("2027-03-18",),
        ("2027-03-20",),
    ),
    Case(
        "H07b",
        ("My birthday is May 5, 1990.", "Sorry, my birthday is May 4, 1990."),
        ("May 4",),
        ("May 5",),
    ),
    Case(
        "H07c",
        ("My deadline is June 30, 2027.", "My deadline is now June 12, 2027."),
        ("June 12",),
        ("June 30",),
    ),
    Case("H07e", ("I work at Acme until December 2027.", "I work at Globex now."), ("Globex",), ("Acme",)),
    Case(
        "H07h",
        (
            Turn("I live in Oslo.", at="2024-02-11T12:00:00Z"),
            Turn("I moved to Lima last week, finally telling you.", at="2024-02-12T12:00:00Z"),
        ),
        ("Lima",),
        ("Oslo",),
    ),
    Case(
        "H07j",
        ("My flight is on 2027-03-20.", "My flight is on 2027-03-18 now."),
        asked=(("When is my flight?", "2027-03-18"),),
    ),
)

STAYS = (
    Case("H04c", (_MUSEUM.format("allowed"), _MUSEUM.format("forbidden")), ("is forbidden",)),
    Case("H04d", (_CALL.format("Tuesday"), _CALL.format("Thursday")), ("Thursday",)),
    Case("H05c", (_DISCOUNTS.format(""), _DISCOUNTS.format(", except nonprofits")), ("except nonprofits",)),
    Case("H05f", (_SWIMMING.format("Jonas"), _SWIMMING.format("Jakob")), ("Jonas", "Jakob")),
    Case("H06a", ("My cat is called Miso.", "My cat is sick today."), ("Miso", "sick today")),
    Case("H06b", ("I work at Globex.", "I work for eight hours on Fridays."), ("Globex", "eight hours")),
    Case("H06d", ("I love when it rains.", "I hate when people are late."), ("rains", "late")),
    Case("H06e", ("I'm married to Ines.", "I'm engaged in two research projects."), ("Ines", "two research")),
    Case("H06f", ("My name is Dana Cruz.", "Call me Monday about the invoice."), ("Dana Cruz",)),
    Case("H06g", ("I work as a nurse.", "I work at Mercy Hospital."), ("nurse", "Mercy")),
    Case("H06h", ("My phone number is 555 0199.", "My phone number is hard to remember."), ("555 0199",)),
    Case("H06i", ("I like that our office has plants.", "I like when meetings are short."), ("plants", "short")),
    Case("H06k", ("My cat is called Miso.", "My cat is sick."), ("Miso", "sick")),
    Case("H06l", ("I live in Oslo.", "We moved to Kubernetes."), ("Oslo", "Kubernetes")),
    Case("H06m", ("I live in Oslo.", "I moved to Windows 11."), ("Oslo", "Windows 11")),
    Case("H06o", ("My wife is Ines.", "My wife is pregnant."), ("Ines", "pregnant")),
    Case(
        "H06p",
        ("I work at Globex as an analyst.", "I work at night on Tuesdays."),
        ("Globex", "at night"),
    ),
    Case("H06r", ("My team is Platform.", "My team is behind schedule."), ("Platform", "behind schedule")),
    Case("H07i", ("My cat is called Miso.", "My cat is sick today."), ("sick today",)),
)

UNSAID = (
    Case("H09b", ("what are the kpis for user kristof",), count=0),
    Case("H09c", ("Show me the open tickets of Kristof",), count=0),
    Case("H09d", ("can you tell me what my name is",), count=0),
    Case("H09f", ("what's the capital of Peru",), count=0),
    Case("H10a", ("I live in Oslo.", "If I live in Madrid next year, my taxes would drop."), ("I live in Oslo.",)),
    Case("H10b", ("I live in Oslo.", "Let's pretend I live in Narnia."), ("I live in Oslo.",), ("Narnia",)),
    Case("H10d", ("I live in Oslo.", "It is not true that I live in Paris."), ("I live in Oslo.",)),
    Case("H10e", ("I hate opera.", "I never said I love opera."), ("I hate opera.",)),
    Case("H10f", ("I love jazz.", "My brother thinks I hate jazz."), ("I love jazz.",)),
    Case("H10h", ("My name is Dana.", "For the role play, my name is Zorg."), ("Dana",), ("Zorg",)),
    Case(
        "H10i",
        ("I live in Oslo.", "Translate this to German: I live in Berlin."),
        ("I live in Oslo.",),
        ("Berlin",),
    ),
    Case("H10k", ("I live in Oslo.", "Let's pretend I live in Narnia."), asked=(("Where do I live?", "Oslo"),)),
    Case(
        "H12phz",
        (
            "你好",
            "好的",
            "谢谢！",
            "你还记得我住在哪里吗？",
            "早上好",
            "ありがとう",
            "元気ですか？",
            "¿Cómo estás?",
            "Danke!",
            "👍👍",
            "😂",
        ),
        count=0,
    ),
    Case(
        "H27a",
        (
            "Why does this fail?\n"
            + "\n".join(
                f"2024-05-15 10:{n:02}:12,000 ERROR worker-{n % 4} Task process_invoice[{n}] raised unexpected:"
                f" ConnectionError('refused by 10.0.0.{n}')"
                for n in range(40)
            ),
        ),
        count=0,
    ),
    Case(
        "H27b",
        (
            "What is wrong here?\n```python\ndef load(path):\n    with open(path) as f:\n        data = json.load(f)\n"
            "    for row in data:\n        if row['kind'] == 'x':\n            yield Row(**row)\n    return None\n\n\n"
            "class Row:\n    def __init__(self, kind, value):\n        self.kind = kind\n"
            "        self.value = value\n```",
        ),
        count=0,
    ),
)

SENTENCES = (
    Case(
        "H30b",
        ("My dog is called Rex. He is afraid of thunder.",),
        ("My dog is called Rex. He is afraid of thunder.",),
    ),
    Case("H30c", ("I live in St. Louis with my family.",), ("St. Louis",), count=1),
    Case("H30e", ("I work at Acme Inc. in Boston.",), ("Acme Inc. in Boston",), count=1),
    Case(
        "H30h",
        (
            "We saw a film about bees. I like it.",
            Turn("The tax form is out again. I hate it.", at="2026-12-03T12:00:00Z", session="other"),
        ),
        ("bees. I like it", "I hate it"),
    ),
)


@pytest.mark.parametrize("case", params(OUTDATED + STAYS + UNSAID + SENTENCES))
def test_what_was_reported_is_right_here(case: Case, tmp_path: Path, minilm: FolderEmbedder) -> None:
    check(case, tmp_path, minilm)


def test_h30a_what_was_quit_can_be_told(tmp_path: Path, minilm: FolderEmbedder) -> None:
    said = "I started rock climbing in March to get over my fear of heights. I like it. I quit it last week."
    with told(tmp_path, minilm, (said,)) as conversation:
        (quit,) = [text for text in conversation.texts() if "quit it" in text]
        assert "rock climbing" in quit, conversation.texts()


@pytest.mark.parametrize(
    ("text", "day"),
    [
        pytest.param("I see the dentist on Friday.", "2024-05-17", id="H13g"),
        pytest.param("I see the dentist two weeks from now.", "2024-05-29", id="H13h"),
    ],
)
def test_h13_days_are_resolved_by_when_it_was_said(text: str, day: str) -> None:
    (unit,) = LocalExtractor().extract([Message("msg_1", "user", text, 1715767200.0)])
    assert day in unit.text


ZH = {
    "花生": "我对花生过敏。",
    "我对什么过敏？": "我对花生过敏。",
    "狗的名字是什么？": "我的狗叫豆豆，今年三岁。",
    "护士": "我在市医院当护士。",
    "绿茶": "我早上喜欢喝绿茶。",
    "钢琴课是星期几？": "我每周三晚上学钢琴。",
    "弟弟在哪个国家？": "我弟弟住在加拿大。",
    "侦探小说": "我最近在看侦探小说。",
    "成都": "我是在成都长大的。",
    "我的生日是哪天？": "我的生日是五月八号。",
}
JA = {
    "ピアノ": "毎週水曜日の夜にピアノを習っています。",
    "犬の名前は？": "私の犬の名前はハチです。",
    "アレルギー": "私はピーナッツアレルギーです。",
    "どこで働いていますか？": "私は市立病院で働いています。",
    "妹": "妹はドイツに住んでいます。",
    "車の色は？": "私の車は赤いです。",
}
KO = {
    "피아노": "저는 매주 수요일 저녁에 피아노를 배워요.",
    "강아지 이름": "제 강아지 이름은 콩이예요.",
    "알레르기": "저는 땅콩 알레르기가 있어요.",
    "병원": "저는 시립 병원에서 일해요.",
    "독일": "제 여동생은 독일에 살아요.",
    "차 색깔": "제 차는 빨간색이에요.",
}


@pytest.mark.parametrize(
    "asked", [pytest.param(ZH, id="H12zh"), pytest.param(JA, id="H12ja"), pytest.param(KO, id="H12ko")]
)
def test_h12_the_right_one_is_first(asked: dict[str, str], tmp_path: Path, minilm: FolderEmbedder) -> None:
    with told(tmp_path, minilm, tuple(dict.fromkeys(asked.values()))) as conversation:
        first = {query: DATE_BEHIND.sub("", (conversation.found(query) or [""])[0]) for query in asked}
        assert first == {query: f"User: {text}" for query, text in asked.items()}


@pytest.mark.xfail(strict=True, reason="the local judge knows no Chinese words for a home and a move")
def test_h12upd_a_chinese_state_is_updated(tmp_path: Path, minilm: FolderEmbedder) -> None:
    check(Case("H12upd", ("我住在北京。", "我搬到上海了。"), ("上海",), ("北京",)), tmp_path, minilm)


FACTS = (
    "I work as a carpenter in Antwerp.",
    "I have a labrador called Otto.",
    "I grew up on a farm near Ghent.",
    "I am allergic to penicillin.",
    "I run ten kilometres every Sunday.",
    "I play chess with Marek on Thursdays.",
    "I collect vintage maps.",
    "I am learning Portuguese.",
    "My favourite band is Sigur Ros.",
    "My sister Lotte lives in Bruges.",
    "I drive an old Volvo.",
    "I take my coffee without sugar.",
)


@pytest.mark.parametrize(
    ("query", "relevant"),
    [
        pytest.param("Hello there!", False, id="H18b"),
        pytest.param("Hello there!", True, id="H18e"),
        pytest.param("What is 17 times 23?", True, id="H18f"),
    ],
)
def test_h18_nothing_is_injected_where_nothing_is_relevant(
    query: str, relevant: bool, tmp_path: Path, minilm: FolderEmbedder
) -> None:
    with told(tmp_path, minilm, FACTS) as conversation:
        assert conversation.found(query, relevant=relevant) == []


def test_h19_an_instruction_stands_in_every_prompt(tmp_path: Path, minilm: FolderEmbedder) -> None:
    """H19a to H19c: whatever is asked, it is there."""
    said = "Please always answer in British English."
    with told(tmp_path, minilm, (*FACTS, said)) as conversation:
        standing = conversation.store.standing(T, conversation.cube)
        assert [memory.text for memory in standing] == [f"User: {said}"]


@pytest.mark.parametrize("said", ["From now on, use bun instead of npm.", "Never use tabs in my code."])
def test_h19f_instructions_without_please(said: str, tmp_path: Path, minilm: FolderEmbedder) -> None:
    with told(tmp_path, minilm, (said,)) as conversation:
        (memory,) = conversation.store.list_memories(T, conversation.cube).items
        assert (memory.kind, memory.text) == ("instruction", f"User: {said}")


def test_h21_secrets_are_masked(tmp_path: Path, minilm: FolderEmbedder) -> None:
    said = (
        "My production database password is hunter2-Zebra and my API key is sk-live-9f8e7d6c5b4a3f2e1d0c9b8a7f6e5d4c."
    )
    with told(tmp_path, minilm, (said,)) as conversation:
        texts = "\n".join(conversation.texts())
        assert texts.count(MASK) == 2
        assert "hunter2" not in texts
        assert "9f8e7d6c" not in texts
        assert Discretion().secrets == "mask"
