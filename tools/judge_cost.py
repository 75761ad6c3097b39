"""Fill in prompt, schema and costs of docs/judge.md: ``python -m tools.judge_cost`` (``--check`` only looks).

Tokens are the demo model's. ``--measure`` prints instead how often the judge would ask a model while the held-out
scenarios of the bank are told.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.updates.bank import load_bank
from memory import FolderEmbedder, MemoryStore, ModelJudge, Said, new_message
from memory.judge.base import Older, Statement
from memory.judge.model import MAX_TEXT_CHARS, MAX_TOKENS, PROMPT, SCHEMA, asked

PAGE = Path(__file__).parent.parent / "docs" / "judge.md"
CANDIDATES = (0, 1, 4, 8)
_AT = 1_700_000_000.0
_NEW = "sold the Golf last week, I get around in an old van now"
_OLDER = (
    "I drive a Golf that my dad gave me",
    "I work as a nurse in Bergen, mostly nights",
    "my brother bought a van for his band",
    "we go to the sea with the car every July",
    "the Golf is due for its inspection in March",
    "I pay 62 euros a month for a parking space",
    "I got my licence when I was 19",
    "I cycle to work when it is dry",
)


@dataclass(frozen=True)
class Counter:
    """Counts tokens: of chat messages, in a template, and of an answer."""

    messages: Callable[[list[dict[str, str]]], int]
    answer: Callable[[str], int]


@dataclass(frozen=True)
class Cost:
    """Tokens of the request for one new statement, sent and answered; and the most of both, with texts as long as they
    are told."""

    sent: int
    answered: int
    most_sent: int
    most_answered: int


def cost(candidates: int, count: Counter) -> Cost:
    """Compute what it costs to judge a statement beside so many candidates."""
    if candidates == 0:
        return Cost(0, 0, 0, 0)
    codes = [{"i": i, "reason": "other_subject", "relation": "unrelated"} for i in range(candidates)]
    short, long = (count.messages(_request(candidates, chars)) for chars in (1, MAX_TEXT_CHARS))
    return Cost(short, count.answer(json.dumps({"decisions": codes})), long, MAX_TOKENS)


def _request(candidates: int, chars: int) -> list[dict[str, str]]:
    """Return what is asked about typical statements, each of at least ``chars`` characters."""

    def said(text: str) -> Statement:
        return Statement((text + ", " + text) * 20 if chars > len(text) else text, _AT, "Ada")

    return asked(said(_NEW), [Older(said(text)) for text in _OLDER[:candidates]])


def table(count: Counter) -> str:
    """Return the table of costs."""
    lines = ["| candidates | requests | tokens sent | tokens answered | at most sent | at most answered |"]
    lines.append("|---|---|---|---|---|---|")
    for n in CANDIDATES:
        one = cost(n, count)
        cells = (n, int(n > 0), one.sent, one.answered, one.most_sent, one.most_answered)
        lines.append("| " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    return "\n".join(lines)


def filled(page: str, count: Counter) -> str:
    """Return the page with what is written between its marks."""
    parts = {
        "prompt": f"```text\n{PROMPT}\n```",
        "schema": f"```json\n{json.dumps(SCHEMA, indent=1)}\n```",
        "costs": table(count),
    }
    for name, text in parts.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        page = between.sub(lambda found, text=text: found[1] + text + "\n" + found[2], page)  # type: ignore[misc]
    return page


def demo_count() -> Counter:
    """Return a counter of the demo model's tokens, its chat template included."""
    from transformers import AutoTokenizer

    from server.assets import demo_model_folder

    tokenizer = AutoTokenizer.from_pretrained(demo_model_folder())

    def answer(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    def messages(turns: list[dict[str, str]]) -> int:
        return answer(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    return Counter(messages, answer)


def measure() -> str:
    """Tell the held-out scenarios of the bank, each in a cube of its own, and count what a model would be asked."""
    from server.assets import bundled_embedder_folder

    logging.getLogger("memory").setLevel(logging.ERROR)
    messages = 0
    with tempfile.TemporaryDirectory() as folder:
        store = MemoryStore(Path(folder) / "memories.sqlite", FolderEmbedder(bundled_embedder_folder()))
        judge = store.judging.given = ModelJudge(_silent, lambda: store.judging.local)
        for number, scenario in enumerate(one for one in load_bank() if one.split == "held-out"):
            cube = store.cubes.create("t", f"cube {number}").id
            for text in scenario.texts:
                store.add_messages("t", cube, [new_message(text, sent_at=_AT + messages)], Said(session="s"))
                messages += 1
        store.close()
    return f"{messages} messages: {judge.requests} requests about {judge.fallbacks} pairs"


def _silent(messages: list[dict[str, str]], schema: dict[str, Any]) -> str:
    return '{"decisions": []}'


def main(arguments: list[str]) -> int:
    """Write the page, or check it, or measure."""
    if "--measure" in arguments:
        print(measure())
        return 0
    page = PAGE.read_text(encoding="utf-8")
    wanted = filled(page, demo_count())
    if "--check" not in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    return int(page != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
