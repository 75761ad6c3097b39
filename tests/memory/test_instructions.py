"""Standing instructions: what is one, in ten languages, what only looks like one, and which of them hold."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from memory import HashEmbedder, Memory, MemoryStore, Message
from memory.language.instructions import instruction_of

T = "t"
_ids = itertools.count()


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("From today on, reply to me in Dutch", "language"),
        ("pls never use emoji when you write back", "emoji"),
        ("Could you keep your replies under five sentences from now on?", "length"),
        ("address me as Professor Okafor, please", "address"),
        ("you can call me Tess", "address"),
        ("my passport has Wilhelmina but call me Mina", "address"),
        ("Show temperatures in Fahrenheit, always.", "temperature"),
        ("when you write code, indent with spaces", "indentation"),
        ("going forward use poetry, not pip", "package manager"),
        ("stop flattering me all the time", "praise"),
        ("I hate it when you put everything in tables", "tables"),
        ("please use she/her pronouns for me", "pronouns"),
        ("Bitte sieze mich künftig", "formality"),
        ("Schreib mir ab sofort nur noch auf Englisch", "language"),
        ("könntest du mir in Zukunft immer kürzer antworten?", "length"),
        ("Désormais, vouvoie-moi", "formality"),
        ("appelle-moi Gabi", "address"),
        ("ne mets plus jamais de smileys", "emoji"),
        ("de ahora en adelante háblame en catalán", "language"),
        ("llamame Nacho", "address"),
        ("usa siempre el sistema métrico", "units"),
        ("a partir de agora escreva sempre em inglês", "language"),
        ("pode me chamar de Duda", "address"),
        ("впредь пиши мне на английском", "language"),
        ("зови меня Лёня", "address"),
        ("всегда используй метрическую систему", "units"),
        ("以后跟我说话都用粤语", "language"),
        ("叫我老陈就行", "address"),
        ("今後は箇条書きを使わないでください", "bullets"),
        ("ゆうって呼んでね", "address"),
        ("앞으로는 항상 짧게 답해 줘", "length"),
        ("유나라고 불러 줘", "address"),
        ("من الآن فصاعدا أجب بالإنجليزية", "language"),
        ("ناديني سلمى", "address"),
    ],
)
def test_an_instruction_is_known_with_its_topic(text: str, topic: str) -> None:
    found = instruction_of(text)
    assert found is not None
    assert topic in found.topics
    assert not found.withdraws


@pytest.mark.parametrize(
    "text",
    [
        "Call me Thursday about the roof.",
        "call me back when the parcel is there",
        "Don't call me Cinderella.",
        "Can you write this one in Polish?",
        "reply to it in Italian please",
        "Translate the menu into English, always with prices",
        'The poster in our kitchen says: "Always answer with a smile."',
        "My aunt told me to never use butter.",
        "My son always speaks English with his cousins.",
        "From now on I cycle to work.",
        "We use kilometres in our running club.",
        "Write a test that always fails",
        "make a table of all rivers",
        "Give me a short poem about rain.",
        "Never again will I buy that brand.",
        "Ich schreibe immer auf Deutsch.",
        "Meine Kollegin antwortet nie auf Englisch.",
        "Mon père parle toujours breton.",
        "Mi abuela siempre me habla en gallego.",
        "Meu chefe sempre escreve em inglês.",
        "Мой сосед всегда говорит по-украински.",
        "我妈总是叫我早点睡",
        "私はいつも敬語で話します。",
        "저는 항상 한국어로 일기를 써요",
        "أنا دائما أكتب بالعربية",
        "Did you always answer in German?",
        "feel free to ask",
        "you can use my car again",
        "",
        "ok",
        "please " * 200,
    ],
)
def test_what_only_looks_like_one_is_none(text: str) -> None:
    assert instruction_of(text) is None


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("you may use smileys again", "emoji"),
        ("forget about the Fahrenheit rule", "temperature"),
        ("please don't call me Captain any more", "address"),
        ("you don't have to be so formal anymore", "formality"),
        ("du darfst wieder Emojis benutzen", "emoji"),
        ("ya no hace falta que me trates de usted", "formality"),
        ("敬語じゃなくていいよ", "formality"),
        ("不用再用英文回答", "language"),
        ("이제 반말 해도 돼", "formality"),
    ],
)
def test_a_withdrawal_says_what_no_longer_holds(text: str, topic: str) -> None:
    found = instruction_of(text)
    assert found is not None
    assert found.withdraws
    assert topic in found.topics


def test_a_long_message_made_of_leads_is_read_in_time() -> None:
    for text in (", ok" * 75, "for a " * 50, "always " * 42, "in my own way for " * 16, "not never don't " * 18):
        assert instruction_of(text) is None


# -- in a cube -------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "m.sqlite", HashEmbedder())


@pytest.fixture
def cube(store: MemoryStore) -> str:
    return store.default_cube(T).id


def say(store: MemoryStore, cube: str, *texts: str, author: str | None = None) -> None:
    for text in texts:
        n = next(_ids)
        store.add_messages(T, cube, [Message(f"msg_i{n}", "user", text, 1_700_000_000.0 + n, author)])


def standing(store: MemoryStore, cube: str) -> list[str]:
    return [memory.said for memory in store.standing(T, cube) if memory.kind == "instruction"]


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        ("Always answer in Portuguese.", "From now on, answer in Czech."),
        ("Always write in British English.", "use American spelling from now on"),
        ("Always write in British English.", "Please answer in Finnish from now on."),
        ("Call me Skipper.", "Please don't call me Skipper any more, call me Ada."),
        ("No emojis please.", "you can use emojis again"),
        ("Show prices in pesos, always.", "from today on show prices in francs"),
        ("Use miles from now on.", "switch everything to metric units from now on"),
        ("返信は丁寧語でお願いします。", "これからはタメ口でいいよ。"),
        ("Bitte sieze mich immer.", "Ab jetzt duze mich bitte."),
        ("Never mention my stepfather.", "you can mention my stepfather again"),
        ("Always remind me to stretch.", "Stop reminding me to stretch."),
        ("Use yarn for all scripts.", "From now on, use pnpm instead of yarn."),
        ("以后叫我阿明", "以后叫我陈老师"),
    ],
)
def test_the_newest_of_a_topic_holds(store: MemoryStore, cube: str, earlier: str, message: str) -> None:
    say(store, cube, earlier)
    assert standing(store, cube) == [earlier]
    say(store, cube, message)
    assert standing(store, cube) == [message]
    (old,) = store.list_memories(T, cube, status="archived").items
    assert old.said == earlier
    assert old.replaced_by == store.standing(T, cube)[0].id


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        ("Use Fahrenheit when you talk about ovens.", "For the weather, always use Celsius."),
        ("Always answer in Welsh.", "Call me Rhys."),
        ("Never suggest recipes with pork.", "Never suggest films with clowns."),
        ("Always cite your sources.", "Always include links in your answers."),
        ("Always answer in German and keep your answers short.", "Always answer in English."),
        ("Write code comments in English from now on.", "Always answer in Spanish."),
        ("Call me Boss.", "Never call me Bossy."),
    ],
)
def test_instructions_of_other_topics_or_scopes_stand_together(
    store: MemoryStore, cube: str, earlier: str, message: str
) -> None:
    say(store, cube, earlier, message)
    assert standing(store, cube) == [earlier, message]


def test_an_older_instruction_that_is_told_late_is_history(store: MemoryStore, cube: str) -> None:
    store.add_messages(T, cube, [Message("msg_new", "user", "Always answer in Thai.", 2_000.0)])
    (done,) = store.add_messages(T, cube, [Message("msg_old", "user", "Always answer in Greek.", 1_000.0)])
    assert done.action == "outdated"
    assert standing(store, cube) == ["Always answer in Thai."]


def test_each_person_has_their_own(store: MemoryStore, cube: str) -> None:
    say(store, cube, "Call me Ro.", author="Rosa")
    say(store, cube, "Call me Vik.", author="Viktor")
    assert standing(store, cube) == ["Call me Ro.", "Call me Vik."]


def test_a_name_is_kept_beside_how_somebody_is_called(store: MemoryStore, cube: str) -> None:
    say(store, cube, "My name is Dana Cruz.", "Call me Monday about the invoice.", "call me Dee")
    texts = [memory.said for memory in store.standing(T, cube)]
    assert texts == ["My name is Dana Cruz.", "call me Dee"]


def test_what_is_added_as_an_instruction_is_one(store: MemoryStore, cube: str) -> None:
    first = store.add(T, cube, "Answers end with a haiku.", kind="instruction")
    found = store.add(T, cube, "Always answer in Basque, my language.")
    assert (first.kind, found.kind) == ("instruction", "instruction")
    replaced = store.adding.add_noted(T, cube, "From now on answer in Spanish.")
    assert [memory.id for memory in replaced.replaced] == [found.id]


def test_only_users_instruct(store: MemoryStore, cube: str) -> None:
    store.add_messages(T, cube, [Message("msg_a", "assistant", "Always answer in Latin.", 1.0)])
    assert store.standing(T, cube) == []


def test_an_instruction_that_comes_back_gives_way_to_a_newer_one(store: MemoryStore, cube: str) -> None:
    say(store, cube, "Always answer in Korean.")
    (old,) = store.standing(T, cube)
    store.delete(T, old.id)
    say(store, cube, "Always answer in Arabic.")
    back: Memory = store.undelete(T, old.id)
    assert back.status == "archived"
    assert standing(store, cube) == ["Always answer in Arabic."]
