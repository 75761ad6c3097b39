"""Read the bank: scenarios written by hand, and facts about a person that have to do with none of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.data.updates.cases import CaseError, Wanted

FOLDER = Path(__file__).parent
BACKGROUND = FOLDER / "background.json"

Kind = Literal[
    "state_update",
    "ended_state",
    "same_subject_not_update",
    "near_identical",
    "other_person",
    "not_asserted",
    "noise",
    "sentence_split",
    "relative_time",
    "standing_instruction",
    "coreference",
    "chat_correction",
    "history",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

Split = Literal["train", "held-out"]
HELD_OUT_SHARE = 0.3
"""The share of scenarios that nothing may be trained on."""


@dataclass(frozen=True)
class Scenario:
    """Name what somebody said before, what is said now, and what that does: parts of the texts before that still hold,
    and that no longer do; parts of the message that are not stored; questions. ``at``: when it is said."""

    kind: Kind
    lang: str
    earlier: tuple[str, ...]
    message: str
    stays: tuple[str, ...]
    retired: tuple[str, ...]
    not_stored: tuple[str, ...]
    queries: tuple[Wanted, ...]
    at: datetime
    source: str

    @property
    def digest(self) -> str:
        """Return a name that follows from language and message alone: correcting a label does not change it."""
        return hashlib.sha256(f"{self.lang}\n{self.message}".encode()).hexdigest()

    @property
    def split(self) -> Split:
        """Return the split that this scenario is in, always the same one."""
        return "held-out" if int(self.digest[:8], 16) / 2**32 < HELD_OUT_SHARE else "train"

    @property
    def texts(self) -> tuple[str, ...]:
        """Return all that is said, in order."""
        return (*self.earlier, self.message)


def load_bank(folder: Path = FOLDER) -> list[Scenario]:
    """Read every ``*.jsonl`` of the folder, in order of name. Raises ``CaseError`` for a line that is no scenario, or
    whose labels do not say which message they mean, or that is there twice."""
    scenarios = []
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            where = f"{path.name}:{number}"
            scenario = _scenario(where, path.stem, line)
            if wrong := _wrong(scenario):
                raise CaseError(f"{where}: {wrong}")
            if scenario.digest in seen:
                raise CaseError(f"{where}: the same message as {seen[scenario.digest]}")
            seen[scenario.digest] = where
            scenarios.append(scenario)
    if not scenarios:
        raise CaseError(f"{folder} has no scenarios")
    return scenarios


def load_background(path: Path = BACKGROUND) -> dict[str, tuple[str, ...]]:
    """Read the unrelated facts of each language: one person's, who may have all of them at once."""
    return {lang: tuple(facts) for lang, facts in json.loads(path.read_text(encoding="utf-8")).items()}


def _scenario(where: str, source: str, line: str) -> Scenario:
    try:
        item: dict[str, Any] = json.loads(line)
        at = datetime.fromisoformat(item["at"])
        if at.tzinfo is None:
            raise ValueError(f"'{item['at']}' has no offset")
        if item["kind"] not in KINDS:
            raise ValueError(f"'{item['kind']}' is no kind")
        return Scenario(
            kind=item["kind"],
            lang=item["lang"],
            earlier=tuple(item["earlier"]),
            message=item["message"],
            stays=tuple(item["stays"]),
            retired=tuple(item["retired"]),
            not_stored=tuple(item["not_stored"]),
            queries=tuple(Wanted(query, part) for query, part in item["queries"]),
            at=at,
            source=source,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{where}: {error!r}") from error


def _wrong(scenario: Scenario) -> str | None:
    """Return what is wrong with the labels: a part that no text has, or one that several have, decides nothing. (What
    stays may be said again: "closed on Mondays" stands in "closed on Mondays but not in May".)"""
    for part in (*scenario.stays, *scenario.retired):
        if holders(scenario.earlier, part) != 1:
            return f"{part!r} is in {holders(scenario.earlier, part)} earlier messages"
    for part in scenario.retired:
        if holders([scenario.message], part):
            return f"{part!r} is in the message as well, so it cannot be seen to be retired"
    for part in scenario.not_stored:
        if not holders([scenario.message], part) or holders(scenario.earlier, part):
            return f"{part!r} is not in the message alone"
    for wanted in scenario.queries:
        if not holders(scenario.texts, wanted.contains):
            return f"{wanted.contains!r}, which a question asks for, is in no message"
    return None


def holders(texts: tuple[str, ...] | list[str], part: str) -> int:
    """Count the texts that have a part, upper and lower case alike, as the scorer does."""
    return sum(part.lower() in text.lower() for text in texts)
