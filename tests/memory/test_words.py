"""Words to search for, in scripts with spaces and without, and texts that say the same."""

from __future__ import annotations

import pytest

from memory.language.words import alike, begins_words, digest_of, searchable, telling_words, words_of


def test_scripts_without_spaces_have_pairs_for_words() -> None:
    assert words_of("Anna住在北京") == ["anna", "住在", "在北", "北京"]
    assert searchable("住在北京。Ok") == " 住在 在北 北京 京 。Ok"
    assert searchable("서울에 살아") == " 서울 울에 에   살아 아 "
    assert searchable("Nothing to fold, not even é or ü.") == "Nothing to fold, not even é or ü."
    assert searchable("الحساسية Straße ёж") == "حساسيه Strasse еж"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("我对什么过敏？", ["过敏"]),
        ("猫的名字是什么？", ["猫", "名字"]),
        ("妹妹在哪个城市上班", ["妹妹", "城市", "市上", "上班"]),
        ("貓的名字是什麼", ["貓", "名字"]),
        ("猫の名前は何ですか？", ["猫", "名前"]),
        ("どこで働いていますか？", ["働い"]),
        ("고양이 이름이 뭐야?", ["고양", "이름"]),
        ("우리 차는 어디에 있어?", ["차"]),
        ("Falcon的服务器在哪里", ["falcon", "服务", "务器"]),
        ("Wie heißt meine Katze?", ["heisst", "katze"]),
        ("ما هي الحساسية", ["حساسيه"]),
        ("什么", []),
    ],
)
def test_what_a_question_asks_for(query: str, words: list[str]) -> None:
    assert telling_words(query) == words


def test_a_character_alone_begins_words() -> None:
    assert begins_words("猫")
    assert begins_words("차")
    assert not begins_words("a")
    assert not begins_words("猫的")


LONG = (
    "On the second Saturday of every month the members of the rowing club in Kingston meet Jonas at the boathouse "
    "by the bridge at nine to clean the hulls and count the oars, and guests are allowed to use the small boat "
    "with a coach."
)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("second", "third"),
        ("Saturday", "Sunday"),
        ("Jonas", "Jakob"),
        ("Kingston", "Kingsway"),
        ("nine", "ten"),
        ("are allowed", "are not allowed"),
        ("are allowed", "are forbidden"),
        ("are allowed", "aren't allowed"),
        ("with a coach", "without a coach"),
        ("with a coach.", "with a coach, except in winter."),
        ("every month", "every other month"),
        ("at nine", "after nine"),
        ("members", "former members"),
        ("meet", "met"),
        ("month the", "month unless it rains the"),
    ],
)
def test_one_other_word_is_another_statement_however_long(a: str, b: str) -> None:
    assert LONG.count(a) >= 1
    assert not alike(LONG, LONG.replace(a, b, 1))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Anna beat Ben at chess.", "Ben beat Anna at chess."),
        ("I owe Tim 5 euros", "I owe Tim $5"),
        ("It was 5 degrees", "It was -5 degrees"),
        ("I write C", "I write C++"),
        ("The dose is 2.5 mg", "The dose is 25 mg"),
        ("the flight is at 10:15", "the flight is at 10:50"),
        ("Ich darf Nüsse essen.", "Ich darf keine Nüsse essen."),
        ("Ich komme", "Ich komme nicht"),
        ("Me gusta el café", "No me gusta el café"),
        ("Я ем мясо", "Я не ем мясо"),
        ("我吃花生", "我不吃花生"),
        ("我去过法国", "我没去过法国"),
        ("周二开会", "周三开会"),
        ("パンを食べる", "パンを食べない"),
        ("매운 거 먹어", "매운 거 안 먹어"),
        ("أحب الشاي", "لا أحب الشاي"),
        ("The key is for four doors", "The key is four for doors"),
        ("my son filled it", "my son filed it"),
    ],
)
def test_short_statements_that_differ(a: str, b: str) -> None:
    assert not alike(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("I keep bees on the roof.", "i keep bees on the roof!!"),
        ("My favourite colour is grey", "my favorite color is gray."),
        ("I'm from Perth and I can't swim", "I am from Perth and I cannot swim."),
        ("Well, I don’t eat meat.", "I dont really eat meat"),
        ("The rent is 1,200 euros", "rent is 1200 euros"),
        ("I have two cats", "I have 2 cats"),
        ("my e-mail is down", "My email is down"),
        ("Ich wohne in der Hauptstraße.", "ich wohne in der hauptstrasse"),
        ("我住在 上海。", "我住在上海啊！"),
        ("猫が好きだよ。", "猫が好きだ"),
        ("저는 서울 사람 이에요ㅎㅎ", "저는 서울사람이에요."),
        ("ＡＢＣ１２", "abc12"),
    ],
)
def test_only_form_differs(a: str, b: str) -> None:
    assert alike(a, b)


def test_signs_that_tell_apart_are_in_the_digest() -> None:
    same = ["I have 5 cats.", "i have 5  cats", "I have: 5 cats!"]
    assert len({digest_of(text) for text in same}) == 1
    other = ["It is $5", "It is €5", "It is 5", "It is -5", "It is 5%", "It is > 5", "I use C", "I use C++", "I use C#"]
    assert len({digest_of(text) for text in other}) == len(other)
