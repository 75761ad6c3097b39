"""Fill in the defaults and bounds of docs/settings.md: ``python -m tools.settings`` (``--check`` only looks).

A row of a table there begins with a setting's name. Its second and third cell are written from the configuration's own
dataclasses; the last cell is prose and stays as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import yaml

from server.config import KEYS, load_config

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
_ROW = re.compile(r"^\| `(?P<key>[a-z_.]+)` \|[^|]*\|[^|]*\| (?P<text>.*) \|$")
_DEPENDS = {"data_dir": "`$XDG_DATA_HOME/recallkv`"}
_BINARY = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def _defaults() -> dict[str, Any]:
    """Return every setting's default by its dotted name."""
    nested = yaml.safe_load(load_config(env={}, flags={}).as_yaml())
    flat: dict[str, Any] = {}
    for head, value in nested.items():
        flat |= {f"{head}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {head: value}
    return flat


def _number(key: str, value: float) -> str:
    if key.endswith("_bytes"):
        return next(f"{value / size:g} {unit}" for size, unit in _BINARY if value % size == 0)
    return f"{value:,.0f}" if value >= 10_000 else f"{value:g}"


def _shown(key: str, value: Any) -> str:
    if key in _DEPENDS:
        return _DEPENDS[key]
    if value is None or value == []:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return _number(key, value) if isinstance(value, int | float) else f"`{value}`"


def _allowed(name: str) -> str:
    """Describe the values that a setting takes."""
    key = KEYS[name]
    kind = key.type
    if isinstance(kind, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{name}`" for name in get_args(kind))
    if key.bounds is not None:
        return " to ".join(_number(key.name, bound) for bound in key.bounds)
    if get_origin(kind) is tuple:
        return "a list of texts"
    return {bool: "true, false", Path: "a path"}.get(kind, "a text")


def rendered(page: str) -> str:
    """Return ``page`` with the defaults and bounds of its rows brought up to date.

    Raises ``ValueError`` naming the settings that have no row, and the rows that are no settings.
    """
    defaults = _defaults()
    lines, seen = [], []
    for line in page.splitlines():
        row = _ROW.match(line)
        if row is not None and row["key"] in KEYS:
            key = row["key"]
            cells = _shown(key, defaults[key]), _allowed(key), row["text"]
            line = f"| `{key}` | {' | '.join(cells)} |"
        if row is not None:
            seen.append(row["key"])
        lines.append(line)
    if wrong := set(seen) ^ set(KEYS):
        raise ValueError(f"docs/settings.md and the settings differ by {', '.join(sorted(wrong))}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write docs/settings.md, or with ``--check`` say by status 1 that it is out of date."""
    old = PAGE.read_text()
    new = rendered(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new)
    print(f"docs/settings.md: {'unchanged' if old == new else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
