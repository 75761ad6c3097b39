"""Secrets in what is to be remembered: recognised, told apart from what only looks like one, masked or refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from memory import HashEmbedder, InvalidMemory, MemoryStore, Message
from memory.domain.discretion import Discretion, SecretsPolicy
from memory.language.secrets import MASK, masked

T = "t"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("the key is sk-proj-Ab3dEf6hIj9kLmN0pQrS", "sk-proj-Ab3dEf6hIj9kLmN0pQrS"),
        ("use ghp_Zy9xWv8uTs7rQp6oNm5lKj4iHg3f for the repo", "ghp_Zy9xWv8uTs7rQp6oNm5lKj4iHg3f"),
        ("aws AKIAJ7Q4WZ2MPLK5X3RT", "AKIAJ7Q4WZ2MPLK5X3RT"),
        ("slack: xoxb-2048-abcdefGHIJ", "xoxb-2048-abcdefGHIJ"),
        ("maps AIzaSyD3m0-1234567890abcdefghijklmnop", "AIzaSyD3m0-1234567890abcdefghijklmnop"),
        ("eyJhbGciOiJFUzI1NiJ9.eyJuYW1lIjoiQW5uYSJ9.c2lnbmF0dXJl", "eyJhbGciOiJFUzI1NiJ9"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza\n-----END OPENSSH PRIVATE KEY-----", "b3BlbnNza"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg", "MIIEvQIBADANBg"),
        ("our webhook secret: q7W3e9R1t5Y8u2I6", "q7W3e9R1t5Y8u2I6"),
        ("Mein API-Token ist 4kT9zQ2mX7bV5nR1", "4kT9zQ2mX7bV5nR1"),
        ("mysql://root:toor99@localhost/shop", "toor99"),
        ("pay with 5555 5555 5555 4444 please", "5555 5555 5555 4444"),
        ("my Visa card: 4012888888881881", "4012888888881881"),
        ("meine IBAN ist DE89 3704 0044 0532 0130 00", "DE89 3704"),
        ("send it to FR1420041010050500013M02606", "FR1420041010050500013M02606"),
        ("the router's password is gansEier7", "gansEier7"),
        ('netflix pw = "blue horse 9"', "blue horse 9"),
        ("my password is swordfish.", "swordfish"),
        ("Das Passwort lautet Regen!Tag3", "Regen!Tag3"),
        ("mon mot de passe est Citron88", "Citron88"),
        ("la contraseña del correo es Luna-2020", "Luna-2020"),
        ("minha senha é Fogo1999", "Fogo1999"),
        ("пароль от почты: Zima2021", "Zima2021"),
        ("我的密码是panda8899", "panda8899"),
        ("パスワードはsakura77です", "sakura77"),
        ("비밀번호는 hana2020이야", "hana2020"),
        ("كلمة المرور هي qamar55", "qamar55"),
        ("the PIN of my debit card is 3907", "3907"),
        ("the PIN to my phone's lock screen is 3907", "3907"),
        ("the wifi is down and my password is Regen77", "Regen77"),
        ("the wifi was down, the login password is Regen77", "Regen77"),
        ("the password of the door company's website is Regen77", "Regen77"),
        ("门坏了，银行密码是panda8899", "panda8899"),
        ("Geheimzahl: 8841", "8841"),
        ("cvc 907", "907"),
    ],
)
def test_a_secret_is_masked(text: str, secret: str) -> None:
    kept = masked(text)
    assert secret not in kept
    assert MASK in kept
    assert masked(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "My phone number is +44 7700 900123.",
        "Rufen Sie 030 1234 5678 an",
        "order number 5555 5555 5555 4444 is late",
        "tracking number 4012888888881881",
        "IMEI 490154203237518",
        "the fix is commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "the key commit: 3f786850e387550fdab836ed7e6dc881de23001b",
        "job 123e4567-e89b-12d3-a456-426614174000 has failed",
        "we are on version 2.31.0-rc1.20240506",
        "the key is under the doormat",
        "My password is too weak.",
        "my password is wrong again",
        "I forgot the password of the wifi",
        "Mein Passwort ist abgelaufen",
        "mi contraseña es muy larga",
        "pin 13 of the board blinks",
        "GB82 WEST 1234 5698 7654 33 has a wrong check digit",
        "card 4111 1111 1111 1112 has a typo",
        "Token prices fell by 20 percent in 2024",
        "the secret of good bread is time",
        "ssh public key AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UO",
        "meeting-notes-2024-05-06-final.docx holds the key points",
        "Le code de l'immeuble de ma soeur est 19B45",
        "the PIN for my bike lock is 3907",
        "my locker at the gym has PIN 4471",
        "the building's door code is 4417#",
        "PIN 8821 opens the garage",
        "our wifi password is Krapfen77",
        "the password of the guest network is Krapfen77",
        "wifi key: 8fKd92ks0dLmQ2x9Zp",
        "Das WLAN-Passwort ist Regen77",
        "Die PIN vom Fahrradschloss ist 3907",
        "le mot de passe du wifi est Citron88",
        "la contraseña del wifi es Luna-2020",
        "a senha do wifi é Fogo1999",
        "пароль от вайфая: Zima2021",
        "门禁密码是8899",
        "와이파이 비밀번호는 hana2020이야",
    ],
)
def test_what_only_looks_like_one_is_kept(text: str) -> None:
    assert masked(text) == text


def test_long_texts_are_read_in_time() -> None:
    begin = time.perf_counter()
    for part in ("password ", "1 ", "key aB3", "4111 ", "sk-", "pin for the ", "seed phrase is a ", "DE89 3704 "):
        masked(part * (20_000 // len(part)))
    assert time.perf_counter() - begin < 20


def store_of(folder: Path, policy: SecretsPolicy) -> MemoryStore:
    return MemoryStore(folder / "m.sqlite", HashEmbedder(), discretion=Discretion(policy))


SAID = "I bake on Sundays. My email password is Krapfen77. Our cat is called Mops."


def everything(store: MemoryStore, cube: str) -> str:
    memories = [memory.text for memory in store.list_memories(T, cube).items]
    return "\n".join([*memories, *(message.text for message in store.messages(T, cube))])


@pytest.mark.parametrize("policy", ["mask", "refuse"])
def test_no_way_into_memory_keeps_a_secret(tmp_path: Path, policy: SecretsPolicy) -> None:
    store = store_of(tmp_path, policy)
    cube = store.default_cube(T).id
    done = store.add_messages(T, cube, [Message("msg_1", "user", SAID, 1.0)])
    assert any(item.masked for item in done) == (policy == "mask")
    tool = {"tool": "login", "arguments": "password: Krapfen77"}
    store.add_messages(T, cube, [Message("msg_2", "tool", "ok", 2.0, metadata=tool)])
    store.documents.add(T, cube, "notes.txt", b"The lake is cold.\n\nThe email password is Krapfen77.")
    store.feedback.take(T, cube, "I bake on Mondays too. My email password is Krapfen77.")
    text = everything(store, cube)
    assert "Krapfen77" not in text
    for kept in ("bake on Sundays", "Mops", "lake is cold", "bake on Mondays"):
        assert kept in text
    memories = "\n".join(memory.text for memory in store.list_memories(T, cube).items if memory.kind != "tool")
    assert (MASK in memories) == (policy == "mask")
    store.close()
    assert b"Krapfen77" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_memory_with_a_secret_is_masked_or_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, "mask")
    cube = store.default_cube(T).id
    done = store.adding.add_noted(T, cube, "the PIN of the safe is 4417")
    assert (done.memory.text, done.masked) == (f"the PIN of the safe is {MASK}", True)
    assert not store.adding.add_noted(T, cube, "the safe is green").masked
    changed = store.update(T, done.memory.id, text="the PIN of the safe is 9120")
    assert changed.text == f"the PIN of the safe is {MASK}"
    strict = MemoryStore(tmp_path / "other.sqlite", HashEmbedder(), discretion=Discretion("refuse"))
    cube = strict.default_cube(T).id
    kept = strict.add(T, cube, "the safe is green")
    for store_it in (
        lambda: strict.add(T, cube, "the PIN of the safe is 4417"),
        lambda: strict.add_many(T, cube, ["fine", "the PIN of the safe is 4417"]),
        lambda: strict.update(T, kept.id, text="the PIN of the safe is 4417"),
        lambda: strict.feedback.take(T, cube, "The PIN of the safe is 4417."),
        lambda: strict.feedback.take(T, cube, "no", corrected="the PIN of the safe is 4417"),
    ):
        with pytest.raises(InvalidMemory, match="secret"):
            store_it()
    assert [memory.text for memory in strict.list_memories(T, cube).items] == ["the safe is green"]


def test_secrets_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    store = store_of(tmp_path, "keep")
    cube = store.default_cube(T).id
    store.add_messages(T, cube, [Message("msg_1", "user", SAID, 1.0)])
    assert "Krapfen77" in everything(store, cube)
