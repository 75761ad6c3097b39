"""Make labelled cases of the bank's scenarios: a seed decides which, what stands between them, and when it was said."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from benchmarks.data.updates.bank import Kind, Scenario, Split, holders
from benchmarks.data.updates.cases import Case, CaseError, Line

LANGUAGES = ("en", "zh", "ja", "ko", "de", "fr", "es", "pt", "ru", "ar")
_FEWEST, _MOST = 3, 8
"""Unrelated facts between a case's messages."""

# The last thing said before is what the message answers.
_ANSWERED: frozenset[Kind] = frozenset({"coreference", "chat_correction"})
_WORDS = re.compile(r"[^\W\d_]{5,}")
_CHARACTERS = re.compile(r"[一-鿿]{2,}|[ァ-ヿ]{2,}|[가-힣]{2,}")


@dataclass(frozen=True)
class Choice:
    """Name what is generated. ``n``: the number of cases (None: one of each scenario); beyond the number of scenarios
    they come again, among other facts and at other times. ``langs``: None for all. ``split``: None for both."""

    seed: int = 0
    n: int | None = None
    langs: tuple[str, ...] | None = None
    split: Split | None = None


@dataclass(frozen=True)
class _Said:
    text: str
    background: bool


def generate(scenarios: Sequence[Scenario], background: Mapping[str, Sequence[str]], choice: Choice) -> list[Case]:
    """Return cases, the same ones for the same seed and bank. A scenario's case does not depend on which others there
    are. Raises ``CaseError`` where the choice leaves no scenario."""
    chosen = [
        scenario
        for scenario in scenarios
        if (choice.langs is None or scenario.lang in choice.langs) and choice.split in (None, scenario.split)
    ]
    if not chosen:
        raise CaseError(f"no scenario of the bank is in {choice}")
    order = sorted(chosen, key=lambda scenario: scenario.digest)
    random.Random(choice.seed).shuffle(order)
    n = len(order) if choice.n is None else choice.n
    return [
        _case(order[i % len(order)], background[order[i % len(order)].lang], choice.seed, i // len(order))
        for i in range(n)
    ]


def _case(scenario: Scenario, facts: Sequence[str], seed: int, round: int) -> Case:
    name = f"{scenario.digest[:10]}-{seed}-{round}"
    rng = random.Random(name)
    said_units = frozenset().union(*(_units(text) for text in scenario.texts))
    others = [fact for fact in facts if _units(fact).isdisjoint(said_units) and not _labelled(fact, scenario)]
    picked = rng.sample(others, min(len(others), rng.randint(_FEWEST, _MOST)))
    said = _interleaved(scenario, picked, rng)
    times = _times(scenario, [line.background for line in said], rng)
    return Case(
        id=name,
        lang=scenario.lang,
        kind=scenario.kind,
        earlier=tuple(
            Line("user", line.text, at.isoformat(timespec="seconds")) for line, at in zip(said, times, strict=True)
        ),
        message=Line("user", scenario.message, scenario.at.isoformat(timespec="seconds")),
        must_stay_active=(*scenario.stays, *(_label(fact) for fact in picked)),
        must_not_be_active=scenario.retired,
        must_be_found=scenario.queries,
        must_not_be_stored=scenario.not_stored,
        note=scenario.source,
    )


def _label(fact: str) -> str:
    return fact.rstrip(".。")


def _labelled(fact: str, scenario: Scenario) -> bool:
    """Tell if a fact holds one of a scenario's labels, which then would be true of two texts."""
    parts = (*scenario.stays, *scenario.retired, *scenario.not_stored, *(w.contains for w in scenario.queries))
    return any(holders([fact], part) for part in parts) or holders(scenario.texts, _label(fact)) > 0


@cache
def _units(text: str) -> frozenset[str]:
    """Return the beginnings of a text's longer words, and its pairs of Chinese, Japanese and Korean characters: texts
    that share one may have to do with each other."""
    words = {word[:5] for word in _WORDS.findall(text.lower()) if not _CHARACTERS.search(word)}
    pairs = {run[i : i + 2] for run in _CHARACTERS.findall(text) for i in range(len(run) - 1)}
    return frozenset(words | pairs)


def _interleaved(scenario: Scenario, facts: Sequence[str], rng: random.Random) -> list[_Said]:
    """Return the scenario's messages in their order with the facts between them."""
    own = [_Said(text, background=False) for text in scenario.earlier]
    last = [own.pop()] if own and scenario.kind in _ANSWERED else []
    places = sorted(rng.sample(range(len(own) + len(facts)), len(own)))
    mine, others = iter(own), (_Said(fact, background=True) for fact in facts)
    return [next(mine) if place in places else next(others) for place in range(len(own) + len(facts))] + last


def _times(scenario: Scenario, background: Sequence[bool], rng: random.Random) -> list[datetime]:
    """Return when each earlier message was sent: backwards from the scenario's moment."""
    times: list[datetime] = []
    later = scenario.at
    gaps = _gaps(scenario.kind, rng)
    for number, is_background in enumerate(reversed(background)):
        # Some are sent in one go.
        soon = number > 0 and not is_background and rng.random() < 0.3
        later -= timedelta(minutes=rng.randint(1, 4)) if soon else next(gaps)
        if later.hour < 6 and not soon:  # at night people sleep
            later -= timedelta(hours=later.hour + rng.randint(1, 4))
        times.append(later)
    return times[::-1]


def _gaps(kind: Kind, rng: random.Random) -> Iterator[timedelta]:
    """Yield the times between messages, the last one first."""
    first, most = _SPANS.get(kind, (lambda rng: timedelta(days=rng.randint(5, 200)), 20))
    yield first(rng)
    while True:
        yield timedelta(days=rng.randint(0, most), hours=rng.randint(0, 11), minutes=rng.randint(5, 59))


# How long before the message the last one was sent, and the most days between others. An answer comes soon; dates
# without a year were said in the same weeks; a thread goes on.
_SPANS: dict[Kind, tuple[Callable[[random.Random], timedelta], int]] = {
    "coreference": (lambda rng: timedelta(minutes=rng.randint(1, 40)), 9),
    "chat_correction": (lambda rng: timedelta(minutes=rng.choice((1, 2, 5, 30, 600, 1500))), 9),
    "relative_time": (lambda rng: timedelta(days=rng.randint(1, 9), hours=rng.randint(1, 20)), 4),
    "history": (lambda rng: timedelta(days=rng.randint(2, 12), hours=rng.randint(1, 20)), 8),
}
