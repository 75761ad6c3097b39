"""Wishes to forget, in feedback and in messages: what they are, what they delete, and when somebody is asked back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from memory import HashEmbedder, MemoryStore, Message
from memory.language.removals import removal_of

T = "t"
_ids = itertools.count()


@pytest.mark.parametrize(
    ("text", "what", "everything"),
    [
        ("delete my email address", "email address", False),
        ("Could you please remove my birthday from your memory?", "birthday", False),
        ("forget Tomasz's address, thanks", "address", False),
        ("please forget where I live", "where I live", False),
        ("Forget everything about Yusuf.", "Yusuf", True),
        ("ok, delete everything you know about my stepdad", "my stepdad", True),
        ("erase what you've saved about the divorce please", "the divorce", True),
        ("delete all my notes about Project Heron", "Project Heron", True),
        ("Lösch bitte meine Handynummer", "Handynummer", False),
        ("Kannst du bitte meine Adresse löschen?", "Adresse", False),
        ("Vergiss alles, was du über Jonas weißt", "Jonas", True),
        ("oublie mon adresse s'il te plaît", "adresse", False),
        ("efface tout ce que tu sais sur Chloé", "Chloé", True),
        ("borra mi número de teléfono", "número de teléfono", False),
        ("olvida todo lo que sabes sobre Iker", "Iker", True),
        ("apague o meu endereço", "endereço", False),
        ("esqueça tudo sobre a Luana", "a Luana", True),
        ("удали мой номер телефона", "номер телефона", False),
        ("забудь всё, что ты знаешь о Марине", "Марине", True),
        ("请删除我的电话号码", "电话号码", False),
        ("忘记关于小李的一切", "小李", True),
        ("私の住所を消してください", "住所", False),
        ("田中さんについてすべて忘れて", "田中さん", True),
        ("내 전화번호를 지워 줘", "전화번호", False),
        ("민수에 대한 모든 것을 잊어줘", "민수", True),
        ("احذف رقم هاتفي", "رقم هاتفي", False),
        ("انس كل ما تعرفه عن سامي", "سامي", True),
    ],
)
def test_a_wish_to_forget_is_known(text: str, what: str, everything: bool) -> None:
    found = removal_of(text)
    assert found is not None
    assert (found.what, found.everything) == (what, everything)


@pytest.mark.parametrize(
    "text",
    [
        "Don't forget my birthday.",
        "I always forget my phone number.",
        "forget it",
        "How do I delete my email address from LinkedIn?",
        "delete my address from the spreadsheet",
        "Remove my phone from the charger.",
        "delete the last paragraph",
        "please remove everything about pricing from the draft",
        "I want to forget everything about that summer.",
        "She deleted my number.",
        "delete my alarm",
        "remove all the commas",
        "Ich habe meine Adresse vergessen",
        "我忘记我的密码了",
        "J'ai oublié mon adresse",
        "Olvidé mi número",
        "a" * 400 + " forget everything about Ann",
    ],
)
def test_what_is_none_is_left_alone(text: str) -> None:
    assert removal_of(text) is None


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "m.sqlite", HashEmbedder())


@pytest.fixture
def cube(store: MemoryStore) -> str:
    return store.default_cube(T).id


@pytest.fixture(params=["messages", "feedback"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tell(store: MemoryStore, cube: str, *texts: str) -> None:
    for text in texts:
        n = next(_ids)
        store.add_messages(T, cube, [Message(f"msg_r{n}", "user", text, 1_700_000_000.0 + n)])


def ask(store: MemoryStore, cube: str, way: str, text: str) -> list[tuple[str, str]]:
    """Ask for it; what was done, with the texts of the memories."""
    known = {
        m.id: m.said for status in ("active", "archived") for m in store.list_memories(T, cube, status=status).items
    }
    if way == "feedback":
        outcome = store.feedback.take(T, cube, text)
        return [(step.action, known.get(step.memory_id or "", "")) for step in outcome.actions]
    n = next(_ids)
    done = store.add_messages(T, cube, [Message(f"msg_r{n}", "user", text, 1_700_000_000.0 + n)])
    return [(item.action, item.memory.said) for item in done]


def left(store: MemoryStore, cube: str) -> list[str]:
    return [memory.said for memory in store.list_memories(T, cube).items]


@pytest.mark.parametrize(
    ("known", "others", "wish"),
    [
        (
            "My phone number is 555 0142.",
            ["Maria's phone number is 555 0187.", "I like jam."],
            "delete my phone number",
        ),
        ("You reach me at +47 22 33 44 55.", ["I have 12 hens."], "Please forget my phone number."),
        ("We live at 9 Harbour Row.", ["My dentist's address is 2 Mill Lane."], "forget where we live"),
        ("Meine Handynummer ist 0151 2345678.", ["Ich mag Kuchen."], "Lösch meine Handynummer"),
        ("我的电话号码是13800001111", ["妈妈的电话号码是13900002222"], "忘记我的电话号码"),
        ("Tomasz's email is tom@mail.example.", ["My email is me@mail.example."], "forget Tomasz's email"),
    ],
)
def test_one_thing_is_deleted_and_nothing_else(
    store: MemoryStore, cube: str, way: str, known: str, others: list[str], wish: str
) -> None:
    tell(store, cube, known, *others)
    assert ask(store, cube, way, wish) == [("deleted", known)]
    assert left(store, cube) == others
    (gone,) = store.list_memories(T, cube, status="deleted").items
    assert store.undelete(T, gone.id).said == known


def test_everything_about_somebody_is_deleted(store: MemoryStore, cube: str, way: str) -> None:
    tell(store, cube, "Maria plays the oboe.", "I met Maria's brother in Turin.", "Marian is my boss.", "I like rain.")
    done = ask(store, cube, way, "Forget everything about Maria.")
    assert {action for action, _ in done} == {"deleted"}
    assert left(store, cube) == ["Marian is my boss.", "I like rain."]


def test_of_several_somebody_is_asked_which(store: MemoryStore, cube: str, way: str) -> None:
    tell(store, cube, "My work phone is 555 0100.", "My private phone is 555 0111.")
    done = ask(store, cube, way, "delete my phone number")
    assert sorted(done) == [("asked", "My private phone is 555 0111."), ("asked", "My work phone is 555 0100.")]
    assert len(left(store, cube)) == 2
    assert ask(store, cube, way, "delete my work phone number") == [("deleted", "My work phone is 555 0100.")]


def test_all_about_oneself_is_asked_back(store: MemoryStore, cube: str, way: str) -> None:
    tell(store, cube, "I like rain.", "I fish at night.")
    assert {action for action, _ in ask(store, cube, way, "delete everything you know about me")} == {"asked"}
    assert len(left(store, cube)) == 2


def test_the_same_value_twice_is_one_thing(store: MemoryStore, cube: str, way: str) -> None:
    tell(store, cube, "My phone number is 555 0142.", "The clinic has my phone number, 555-0142.")
    assert [action for action, _ in ask(store, cube, way, "delete my phone number")] == ["deleted", "deleted"]
    assert left(store, cube) == []


def test_a_wish_is_no_memory_and_what_is_said_beside_it_is_one(store: MemoryStore, cube: str, way: str) -> None:
    tell(store, cube, "My phone number is 555 0142.")
    done = ask(store, cube, way, "Delete my phone number. I keep bees.")
    assert [action for action, _ in done] == ["deleted", "added"]
    assert left(store, cube) == ["I keep bees."]
    assert ask(store, cube, way, "Forget everything about Zelda.") in ([], [("nothing", "")])
    assert left(store, cube) == ["I keep bees."]


def test_a_clause_is_forgotten_in_messages(store: MemoryStore, cube: str) -> None:
    tell(store, cube, "I collect old stamps from Malta.", "I like jam.")
    assert ask(store, cube, "messages", "Forget that I collect old stamps from Malta.")[0][0] == "deleted"
    assert left(store, cube) == ["I like jam."]


def test_what_was_said_before_in_the_same_addition_is_not_remembered(store: MemoryStore, cube: str) -> None:
    said = ["Olga sings in a choir.", "I keep bees.", "forget everything about Olga", "Olga rang today."]
    store.add_messages(
        T, cube, [Message(f"msg_s{i}", "user", text, 1_700_000_000.0 + i) for i, text in enumerate(said)]
    )
    assert left(store, cube) == ["I keep bees.", "Olga rang today (2023-11-14)."]


def test_assistants_delete_nothing(store: MemoryStore, cube: str) -> None:
    tell(store, cube, "Maria plays the oboe.")
    store.add_messages(T, cube, [Message("msg_as", "assistant", "Forget everything about Maria.", 1_800_000_000.0)])
    assert "Maria plays the oboe." in left(store, cube)


def test_without_time_to_bring_back_it_is_gone_at_once(tmp_path: Path, way: str) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(), undelete_s=0)
    cube = store.default_cube(T).id
    tell(store, cube, "Quagga99 is what Maria calls me.", "I keep bees.")
    assert ask(store, cube, way, "Forget everything about Maria.")[0][0] == "deleted"
    assert store.list_memories(T, cube, status="deleted").items == []
    store.close()
    assert b"Quagga99" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
