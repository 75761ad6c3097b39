"""The figures of a run: gains with their intervals, by condition and category, and what follows from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.suites.answers.bootstrap import ClusterBootstrap, Figure
from benchmarks.suites.answers.conditions import CONDITIONS, Condition
from benchmarks.suites.answers.measure import Outcome, Scored
from benchmarks.suites.answers.sets import ADVERSARIAL

Values = NDArray[np.float64]

# The bounds that a run is held to.
EXACT_WITHIN = 0.0005
_NO_OUTCOMES = '"outcomes": []'
HIGH_KEPT, HIGH_KEPT_LOW = 0.97, 0.93


class Figures:
    """Figures over some of a run's questions, all of them over the same draws."""

    def __init__(self, outcomes: Sequence[Outcome], seed: int) -> None:
        self._outcomes = outcomes
        self._draws = ClusterBootstrap([outcome.conversation for outcome in outcomes], seed)

    def _values(self, name: Condition, value: Callable[[Outcome], float]) -> Values:
        return np.array([value(o) if name in o.scored else math.nan for o in self._outcomes])

    def likelihood(self, name: Condition) -> Values:
        """Give the natural-log likelihood of the gold answer, a token; NaN where a question has not this condition."""
        return self._values(name, lambda o: o.scored[name].options[0] / o.option_tokens[0])

    def gain(self, name: Condition, over: Condition = "none") -> Values:
        """Give the likelihood's gain over another condition's, nats a token."""
        return self.likelihood(name) - self.likelihood(over)

    def bits(self, name: Condition) -> Values:
        """Give the gain of the whole answer over no memory, in bits."""
        return self._values(name, lambda o: (o.scored[name].options[0] - o.scored["none"].options[0]) / math.log(2))

    def choice(self, name: Condition) -> Values:
        """Give 1 where the gold answer gains more a token than each of its rivals (pointwise mutual information), else
        0."""

        def best(outcome: Outcome) -> float:
            there, without = outcome.scored[name].options, outcome.scored["none"].options
            gains = [(a - b) / n for a, b, n in zip(there, without, outcome.option_tokens, strict=True)]
            return float(len(gains) > 1 and gains[0] > max(gains[1:]))

        return self._values(name, best) if name != "none" else np.full(len(self._outcomes), math.nan)

    def row(self, name: Condition) -> dict[str, Any]:
        """Give all figures of a condition."""
        gain, text = self.gain(name), self.gain("text")
        there = [outcome.scored[name] for outcome in self._outcomes if name in outcome.scored]
        return {
            "condition": name,
            "questions": len(there),
            "log_likelihood": _figure(self._draws.mean(self.likelihood(name))),
            "gain": _figure(self._draws.mean(gain)),
            "bits_an_answer": _figure(self._draws.mean(self.bits(name))),
            "minus_text": _figure(self._draws.mean(self.gain(name, "text"))),
            "kept": _figure(self._draws.ratio(gain, text)),
            "choice": _figure(self._draws.mean(self.choice(name))),
            "prompt_tokens": _mean([one.prompt_tokens for one in there]),
            "computed_tokens": _mean([one.computed_tokens for one in there]),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Give a row for each condition that any question was asked under."""
        return [self.row(name) for name in CONDITIONS if any(name in o.scored for o in self._outcomes)]

    def share(self, name: Condition, of: Condition) -> dict[str, float] | None:
        """Divide the gain of one condition by that of another, over the questions that have both."""
        return _figure(self._draws.ratio(self.gain(name), self.gain(of)))

    def difference(self, name: Condition, other: Condition) -> dict[str, float] | None:
        """Subtract from the gain of one condition that of another, over the questions that have both."""
        return _figure(self._draws.mean(self.gain(name, other)))

    def agreement(self) -> dict[str, dict[str, int]]:
        """Count the greedy answers that are full prefill's, token for token, by condition, and all of them."""
        answered = {name: [o.same[name] for o in self._outcomes if name in o.same] for name in self._answered()}
        return {name: {"same": sum(same), "of": len(same)} for name, same in answered.items()}

    def f1(self) -> dict[str, float | None]:
        """Give the mean word F1 of the greedy answers, by condition."""
        return {name: _mean([o.f1[name] for o in self._outcomes if name in o.f1]) for name in self._answered()}

    def _answered(self) -> list[Condition]:
        return [name for name in CONDITIONS if any(name in o.same for o in self._outcomes)]


def whole(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """Make the JSON of a run: of the questions that have an answer, and apart from them of those that have none."""
    with_answer = [outcome for outcome in outcomes if outcome.category != ADVERSARIAL]
    without = [outcome for outcome in outcomes if outcome.category == ADVERSARIAL]
    return summary(with_answer, seed) | {"adversarial": adversarial(without, seed) if without else None}


def summary(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """Make the JSON of a run's questions. Their texts are not in it: some sets may not be passed on."""
    figures = Figures(outcomes, seed)
    rows = figures.rows()
    result = {
        "questions": len(outcomes),
        "conversations": len({outcome.conversation for outcome in outcomes}),
        "options": max(len(outcome.option_tokens) for outcome in outcomes),
        "evidence_recall": _mean([outcome.recall for outcome in outcomes]),
        "memories": _mean([outcome.memories for outcome in outcomes]),
        "rows": rows,
        "retrieved_of_evidence": figures.share("text", "evidence"),
        "text_minus_random": figures.difference("text", "random"),
        "same_greedy_answers": figures.agreement(),
        "f1": figures.f1(),
        "by_category": _split(outcomes, lambda outcome: outcome.category, seed),
        "by_evidence": _split(outcomes, _found, seed),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    return result | {"sentences": sentences(result), "holds": holds(result)}


def adversarial(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """Make the JSON of questions that nothing answers: by how much it is likelier to say so than to give the answer
    that those give who do not look, nats a token, by condition, and how much of that memories bring."""
    draws = ClusterBootstrap([outcome.conversation for outcome in outcomes], seed)

    def margins(name: Condition) -> Values:
        found = []
        for outcome in outcomes:
            tokens = outcome.option_tokens
            options = outcome.scored[name].options if name in outcome.scored else (math.nan, math.nan)
            found.append(options[0] / tokens[0] - options[1] / tokens[1])
        return np.array(found)

    names = [name for name in CONDITIONS if any(name in outcome.scored for outcome in outcomes)]
    rows = [
        {
            "condition": name,
            "margin": _figure(draws.mean(margins(name))),
            "gain": _figure(draws.mean(margins(name) - margins("none"))),
        }
        for name in names
    ]
    return {"questions": len(outcomes), "rows": rows, "outcomes": [asdict(outcome) for outcome in outcomes]}


def sentences(result: dict[str, Any]) -> list[str]:
    """Say what follows, in words; an interval is one of 95%."""
    rows = {row["condition"]: row for row in result["rows"]}
    same = result["same_greedy_answers"]
    found = []
    if "exact" in rows:
        told = (
            f"The same answers as full prefill: KV injected at `exact` keeps {shown(rows['exact']['kept'])} of the gain"
        )
        if "exact" in same:
            told += f" and gives {same['exact']['same']} of {same['exact']['of']} greedy answers token for token"
        for name in ("high", "fast"):
            if name in rows:
                told += f"; `{name}` keeps {shown(rows[name]['kept'])}"
        if "naive" in rows:
            told += f", caches that are only concatenated {shown(rows['naive']['kept'])}"
        found.append(f"{told}.")
    if "random" in rows:
        found.append(
            f"Better than no memory: memories that search found bring {shown(rows['text']['gain'])} nats a token, "
            f"{rows['text']['bits_an_answer']['value']:.1f} bits an answer; as many others of the same conversation "
            f"bring {shown(rows['random']['gain'])}, which is {shown(result['text_minus_random'])} less."
        )
    if result["retrieved_of_evidence"] is not None:
        found.append(
            f"What search finds brings {shown(result['retrieved_of_evidence'])} of what the evidence alone brings."
        )
    return found


def holds(result: dict[str, Any]) -> dict[str, bool]:
    """Say which of the claims hold in a run, within the bounds of this module. A claim whose conditions were not
    measured does not hold."""
    rows = {row["condition"]: row for row in result["rows"]}
    exact, high = (rows.get(name, {}).get("kept") for name in ("exact", "high"))
    greedy = result["same_greedy_answers"].get("exact")
    gains = (rows["text"]["gain"], result["text_minus_random"])
    return {
        "exact is full prefill": exact is not None
        and abs(exact["value"] - 1) <= EXACT_WITHIN
        and (greedy is None or greedy["same"] == greedy["of"]),
        "high keeps the gain": high is not None and high["value"] >= HIGH_KEPT and high["low"] >= HIGH_KEPT_LOW,
        "better than no memory": all(gain is not None and gain["low"] > 0 for gain in gains),
    }


def read(result: dict[str, Any]) -> list[Outcome]:
    """Read the questions of a run back from its JSON, those that nothing answers last."""
    apart = result["adversarial"]
    return [_read(fields) for fields in [*result["outcomes"], *(apart["outcomes"] if apart else ())]]


def written(result: dict[str, Any]) -> str:
    """Write a run as JSON, a question a line."""
    apart = result["adversarial"]
    groups = [result["outcomes"], *([apart["outcomes"]] if apart else [])]
    bare = result | {"outcomes": [], "adversarial": apart and {**apart, "outcomes": []}}
    head, *tails = json.dumps(bare, indent=1).split(_NO_OUTCOMES)
    assert len(tails) == len(groups), "no other field has that name and is empty"
    parts = [head]
    for group, tail in zip(groups, tails, strict=True):
        lines = ",\n".join(f"  {json.dumps(outcome)}" for outcome in group)
        parts.append(f'"outcomes": [\n{lines}\n ]{tail}')
    return "".join(parts) + "\n"


def _read(fields: dict[str, Any]) -> Outcome:
    scored = {name: Scored(**{**one, "options": tuple(one["options"])}) for name, one in fields["scored"].items()}
    return Outcome(**{**fields, "option_tokens": tuple(fields["option_tokens"]), "scored": scored})


def shown(figure: dict[str, float] | None, digits: int = 3) -> str:
    """Write a figure and its interval."""
    if figure is None:
        return "-"
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _split(outcomes: Sequence[Outcome], of: Callable[[Outcome], str], seed: int) -> dict[str, Any]:
    """Give gains and kept shares of the questions of each kind."""
    found: dict[str, Any] = {}
    for kind in sorted({of(outcome) for outcome in outcomes}):
        some = [outcome for outcome in outcomes if of(outcome) == kind]
        rows = Figures(some, seed).rows()
        found[kind] = {
            "questions": len(some),
            "rows": [{name: row[name] for name in ("condition", "questions", "gain", "kept")} for row in rows],
        }
    return found


def _found(outcome: Outcome) -> str:
    return "all found" if outcome.recall == 1.0 else "some found" if outcome.recall else "none found"


def _figure(figure: Figure | None) -> dict[str, float] | None:
    return None if figure is None else asdict(figure)


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
