"""Convert texts and YAML values to settings, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import yaml

ENV_PREFIX = "RECALLKV_"


class ConfigError(Exception):
    """Tell which setting is unknown, or which value is not possible, where it came from, and what is allowed."""


_Refuse = Callable[[str], ConfigError]


@dataclass(frozen=True)
class Key:
    """Describe one setting: its dotted name, type, bounds, and whether its value is kept secret."""

    name: str
    type: Any
    bounds: tuple[float, float] | None
    secret: bool = False

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.replace(".", "_").upper()


def parse(key: Key, value: Any, origin: str) -> Any:
    """Convert a YAML value, or the text of a variable or flag, to the setting's type. Raises ``ConfigError``, which
    names the key, the value, where it came from and what is allowed."""

    def refuse(wanted: str) -> ConfigError:
        shown = "the value" if key.secret else repr(value)
        return ConfigError(f"{key.name}: {shown} ({origin}) is not {wanted}.")

    kind, optional = _without_none(key.type)
    if optional and (value is None or value == "null"):
        return None
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), value, refuse)
    if get_origin(kind) is tuple:
        return _texts(value, refuse)
    if kind is bool:
        return _truth(value, refuse)
    if kind in (int, float):
        return _number(key, kind, value, refuse)
    if not isinstance(value, str) or not value:
        raise refuse("a text")
    return _path(value, refuse) if kind is Path else value


def _choice(allowed: tuple[str, ...], value: Any, refuse: _Refuse) -> Any:
    # YAML 1.1 reads a bare off as false.
    text = "off" if value is False and "off" in allowed else value
    if text not in allowed:
        raise refuse("one of " + ", ".join(allowed))
    return text


def _texts(value: Any, refuse: _Refuse) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise refuse("a list of texts")
    return tuple(part.strip() for part in parts if part.strip())


def _truth(value: Any, refuse: _Refuse) -> bool:
    table = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    parsed = value if isinstance(value, bool) else table.get(str(value).lower())
    if parsed is None:
        raise refuse("true or false")
    return parsed


def _path(value: str, refuse: _Refuse) -> Path:
    if "\0" in value:
        raise refuse("a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise refuse("a path: there is no such user") from error


def _number(key: Key, kind: type, value: Any, refuse: _Refuse) -> int | float:
    low, high = key.bounds or (float("-inf"), float("inf"))
    wanted = f"a{' whole' if kind is int else ''} number from {low:g} to {high:g}"
    try:
        number = kind(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not low <= number <= high or (kind is int and isinstance(value, float) and value != number):
        raise refuse(wanted)
    assert isinstance(number, int | float)
    return number


def _without_none(kind: Any) -> tuple[Any, bool]:
    if isinstance(kind, UnionType):
        (rest,) = [part for part in get_args(kind) if part is not NoneType]
        return rest, True
    return kind, False


def as_yaml(value: Any) -> str:
    """Format a setting's value as YAML on one line, however long it is: a comment follows."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, Path):
        value = str(value)
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n...\n").strip()
