"""What a page is tried with before it may be composed; the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.base import ChatMessage, MemoryText, PageRequest, Prompts
from kvcache import Certificate

T = TypeVar("T")

MAX_PROBES = 3
PROBE_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class PageProbe:
    """The tokens of a question's turns, and the first tokens of its answer."""

    turns: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens to run through the model: each answer token but the last says how likely the next one was."""
        return self.turns + self.answer[:-1]


def spread(items: Sequence[T], n: int) -> list[T]:
    """At most ``n`` of the items, evenly apart."""
    if len(items) <= n:
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]


def page_probes(prompts: Prompts, request: PageRequest) -> list[PageProbe]:
    """Questions about a page's own text, and the beginnings of the answers."""
    probes = []
    for part in spread(request.parts, MAX_PROBES):
        text = prompts.detokenize(part.token_ids).strip().removeprefix("-").strip()
        words = " ".join(text.split()[:5])
        question = ChatMessage("user", f'What do the memories say that begins with "{words}"?')
        turns = prompts.render([question], [MemoryText("probe", text)]).turns.token_ids
        probes.append(PageProbe(turns, tuple(prompts.tokenize(text, add_special_tokens=False)[:PROBE_ANSWER_TOKENS])))
    return probes


def certificate_of(found: Mapping[str, Sequence[tuple[float, float]]]) -> Certificate:
    """Means over probes of (KL, share of equal likeliest tokens), by fidelity."""
    kl = {fidelity: sum(kl for kl, _ in pairs) / len(pairs) for fidelity, pairs in found.items() if pairs}
    top1 = {fidelity: sum(same for _, same in pairs) / len(pairs) for fidelity, pairs in found.items() if pairs}
    return Certificate(kl, top1)
