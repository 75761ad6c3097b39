"""Questions with a gold answer and rivals to it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.suites.retrieval import Asked, Conversation

CATEGORIES = ("multi-hop", "temporal", "open-domain", "single-hop")
ADVERSARIAL = "adversarial"
NOT_MENTIONED = "That was not mentioned."
N_RIVALS = 3
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Item:
    """A question over a conversation (by number), its gold answer, ``rivals`` (wrong answers of the same kind), and the
    turns that hold the evidence."""

    conversation: int
    question: str
    gold: str
    rivals: tuple[str, ...]
    evidence: frozenset[str]
    category: str


def draw(conversations: Sequence[Conversation], n: int, seed: int) -> list[Item]:
    """Draw at most ``n`` questions of the four categories that have an answer, as many of each conversation as can be.

    Left out are answers that stand in their question: these need no memory. Rivals are answers to other questions of
    the category.
    """
    rng = random.Random(seed)
    pools = [[asked for asked in one.asked if asked.category in CATEGORIES and usable(asked)] for one in conversations]
    answers: dict[str, list[str]] = {}
    for asked in (asked for pool in pools for asked in pool):
        answers.setdefault(asked.category, []).append(asked.answer)
    return [
        Item(at, asked.text, asked.answer, _rivals(asked, answers[asked.category], rng), asked.evidence, asked.category)
        for at, asked in _in_turn(pools, n, rng)
    ]


def draw_adversarial(conversations: Sequence[Conversation], n: int, seed: int) -> list[Item]:
    """Draw at most ``n`` questions that nothing in their conversation answers. Gold is to say so; the rival is the
    answer to the question that it was made from."""
    rng = random.Random(seed)
    pools = [[asked for asked in one.asked if asked.category == ADVERSARIAL and asked.trap] for one in conversations]
    return [
        Item(at, asked.text, NOT_MENTIONED, (asked.trap,), asked.evidence, ADVERSARIAL)
        for at, asked in _in_turn(pools, n, rng)
    ]


def usable(asked: Asked) -> bool:
    """Say whether a question has an answer that it does not hold itself."""
    answer = words(asked.answer)
    return bool(answer.strip()) and answer not in words(asked.text)


def words(text: str) -> str:
    """Give a text's words in lower case, with a space around each."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _in_turn(pools: Sequence[Sequence[Asked]], n: int, rng: random.Random) -> list[tuple[int, Asked]]:
    """Draw from each pool in turn, as long as any has some left; each comes with the number of its pool."""
    left = [rng.sample(pool, len(pool)) for pool in pools]
    drawn: list[tuple[int, Asked]] = []
    while len(drawn) < n and any(left):
        drawn += [(at, pool.pop()) for at, pool in enumerate(left) if pool]
    return drawn[:n]


def _rivals(asked: Asked, answers: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """Choose answers that neither hold the gold one nor stand in it."""
    gold = words(asked.answer)
    others = {words(text): text for text in answers if words(text) not in gold and gold not in words(text)}
    return tuple(rng.sample(list(others.values()), min(N_RIVALS, len(others))))
