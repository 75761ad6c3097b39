"""Read and write labelled cases: earlier messages, one more, and what must be true of the memories afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

Role = Literal["user", "assistant", "tool", "system"]
_ROLES: tuple[Role, ...] = get_args(Role)
_LABELS = ("must_stay_active", "must_not_be_active", "must_not_be_stored")


class CaseError(ValueError):
    """A file of cases or of scenarios that does not hold what it should; the message names file and place."""


@dataclass(frozen=True)
class Line:
    """A message of a case. ``time``: ISO 8601, with the offset of its speaker's clock; None where nobody knows it."""

    role: Role
    content: str
    time: str | None = None


@dataclass(frozen=True)
class Wanted:
    """A question, and a part of the text that must be among the best hits."""

    query: str
    contains: str


@dataclass(frozen=True)
class Case:
    """Name what must hold after ``message`` came: parts of texts that are active still, that are active no more, that
    were never stored, and what questions find."""

    id: str
    lang: str
    kind: str
    earlier: tuple[Line, ...]
    message: Line
    must_stay_active: tuple[str, ...]
    must_not_be_active: tuple[str, ...]
    must_be_found: tuple[Wanted, ...]
    must_not_be_stored: tuple[str, ...]
    note: str = ""


def load_cases(path: Path) -> list[Case]:
    """Read a file of cases. Raises ``CaseError`` for one that is no such file, or says the same id twice."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CaseError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, list) or not data:
        raise CaseError(f"{path} is no list of cases")
    cases = [_case(f"{path}, case {number}", item) for number, item in enumerate(data, start=1)]
    if len({case.id for case in cases}) < len(cases):
        raise CaseError(f"{path} has two cases of the same id")
    return cases


def write_cases(cases: Sequence[Case], path: Path) -> None:
    """Write cases as the file that ``load_cases`` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(case) for case in cases], ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _case(where: str, item: Any) -> Case:
    try:
        return Case(
            id=_text(item["id"]),
            lang=_text(item["lang"]),
            kind=_text(item["kind"]),
            earlier=tuple(_line(line) for line in _list(item["earlier"])),
            message=_line(item["message"]),
            must_be_found=tuple(Wanted(_text(w["query"]), _text(w["contains"])) for w in _list(item["must_be_found"])),
            note=str(item.get("note", "")),
            **{name: tuple(_text(part) for part in _list(item[name])) for name in _LABELS},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{where}: {error!r}") from error


def _line(item: Any) -> Line:
    role = item["role"]
    if role not in _ROLES:
        raise ValueError(f"'{role}' is no role; there are {', '.join(_ROLES)}")
    time = item.get("time")
    if time is not None and datetime.fromisoformat(time).tzinfo is None:
        raise ValueError(f"'{time}' has no offset")
    return Line(role, _text(item["content"]), time)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value
