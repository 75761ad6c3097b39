"""Memories in scripts without spaces are found with the embedder for English that is bundled."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from memory import FolderEmbedder, MemoryStore, Said, new_message
from tests.memory.test_intake import T, say, texts

CHINESE = {
    "我对虾和螃蟹过敏，吃了会起疹子。": ["我对什么过敏？", "螃蟹"],
    "我的猫叫小满，今年两岁。": ["猫的名字是什么？", "小满几岁了？"],
    "我在一家眼镜店当验光师。": ["我的工作是什么？验光师吗？", "眼镜店"],
    "每天早上我都喝一杯普洱茶。": ["普洱茶", "我早上喝什么茶？"],
    "小提琴课改到礼拜四下午了。": ["小提琴课是礼拜几？"],
    "我堂哥在新西兰开农场。": ["堂哥在哪个国家？", "谁开农场？"],
    "我最爱看武侠小说。": ["我喜欢看哪种小说？"],
    "我奶奶住在昆明。": ["昆明", "奶奶住哪里？"],
    "我的结婚纪念日是十月九号。": ["结婚纪念日是哪天？"],
    "我刚买了一辆绿色的自行车。": ["自行车是什么颜色的？"],
}
JAPANESE = {
    "私はそばアレルギーがあります。": ["アレルギー", "そばは食べられる？"],
    "うちの犬の名前はムギです。": ["犬の名前は？", "ムギ"],
    "動物園で飼育員として働いています。": ["どこで働いていますか？", "飼育員"],
    "妹は函館で大学に通っています。": ["妹", "函館の大学に通っているのは誰？"],
    "毎週水曜日にバイオリンを習っています。": ["バイオリン", "水曜日は何を習っている？"],
    "車の色は紺色です。": ["車の色は？"],
    "祖母の誕生日は二月三日です。": ["祖母の誕生日はいつ？"],
}
KOREAN = {
    "저는 새우 알레르기가 있어요.": ["알레르기", "새우 먹어도 돼?"],
    "우리 고양이 이름은 망고예요.": ["고양이 이름이 뭐야?", "망고"],
    "저는 도서관에서 사서로 일해요.": ["도서관", "사서로 일하는 곳은?"],
    "수요일마다 바이올린을 배워요.": ["바이올린", "수요일에 뭐 배워?"],
    "언니는 캐나다에 살고 있어요.": ["캐나다", "언니는 어디 살아?"],
    "제 차는 초록색이에요.": ["차 색깔이 뭐야?", "초록색"],
    "할머니 생신은 삼월 이일이에요.": ["할머니 생신이 언제야?"],
}


@pytest.mark.parametrize("memories", [CHINESE, JAPANESE, KOREAN], ids=["zh", "ja", "ko"])
def test_the_memory_that_is_asked_for_comes_first(
    tmp_path: Path, minilm: FolderEmbedder, memories: dict[str, list[str]]
) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", minilm)
    cube = store.default_cube(T).id
    for text in memories:
        say(store, cube, text)

    def rank(question: str, text: str) -> int:
        found = texts(store, cube, question, top_k=10)
        return next(i for i, hit in enumerate(found) if hit.startswith(f"User: {text[:5]}"))  # dates are added to it

    ranks = {question: rank(question, text) for text, questions in memories.items() for question in questions}
    store.close()
    assert max(ranks.values()) <= 1, ranks
    assert sum(rank == 0 for rank in ranks.values()) >= 0.9 * len(ranks), ranks


def test_what_a_forgotten_memory_said_is_in_no_context(tmp_path: Path, minilm: FolderEmbedder) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", minilm)
    cube = store.default_cube(T).id
    said = [new_message("保险箱的密码是海鸥四十二。"), new_message("我的书房在阁楼上。")]
    secret, _ = (item.memory for item in store.add_messages(T, cube, said, Said(session="s")))
    with store.storage.read() as tx:
        assert len(tx.texts.scores("海鸥", [cube], 9)) == 2
        # Its own entry, and the context of the other one, by the memory's text and by the message's.
        assert tx.removal.scan(secret, [said[0].text]).full_text == 3
    assert not any(asdict(store.forget(T, secret.id).scan).values())
    with store.storage.read() as tx:
        assert tx.texts.scores("海鸥", [cube], 9) == {}
    store.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            "On weekday mornings the number 14 tram from the old harbour to the university leaves at seven and stops "
            "at the hospital, the market hall and the stadium on its way.",
            "On weekend mornings the number 14 tram from the old harbour to the university leaves at seven and stops "
            "at the hospital, the market hall and the stadium on its way.",
        ),
        (
            "Requests for leave longer than ten days need the signature of the head of the workshop and must be handed "
            "in early, together with the plan of who does which shift meanwhile.",
            "Requests for leave longer than ten days need the signature of the head of the workshop and must be handed "
            "in early, together with the plan of who does which shift meanwhile, unless somebody is ill.",
        ),
        ("Mara taught Kemal to sail.", "Kemal taught Mara to sail."),
        ("我姐姐送了我妈妈一只鹦鹉。", "我妈妈送了我姐姐一只鹦鹉。"),
    ],
)
def test_what_differs_in_a_word_or_in_order_is_kept(
    tmp_path: Path, minilm: FolderEmbedder, first: str, second: str
) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", minilm)
    cube = store.default_cube(T).id
    assert say(store, cube, first) == ["added"]
    assert say(store, cube, second) == ["added"]
    assert [m.text for m in store.list_memories(T, cube).items] == [f"User: {first}", f"User: {second}"]
    assert say(store, cube, f"{second[:-1]}!") == ["reinforced"]
    store.close()
