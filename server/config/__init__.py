"""Settle all settings, from a file, the environment and flags.

Sources in order of growing weight: defaults, a YAML file, ``RECALLKV_*`` environment variables, flags. An unknown
key in any of them is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

import yaml

from server.config.sections import (
    CacheSettings,
    Config,
    EngineSettings,
    MemorySettings,
    SchedulerSettings,
    ServerSettings,
)
from server.config.values import ENV_PREFIX, ConfigError, Key, as_yaml, parse

__all__ = [
    "KEYS",
    "CacheSettings",
    "Config",
    "EngineSettings",
    "MemorySettings",
    "Resolved",
    "SchedulerSettings",
    "ServerSettings",
    "load_config",
]

# Variables of ours that are no settings of the server.
_OTHER_VARIABLES = frozenset({"RECALLKV_CONFIG", "RECALLKV_API_KEY", "RECALLKV_URL"})


@dataclass(frozen=True)
class Resolved:
    """Hold a configuration, and for each key the place its value came from."""

    config: Config
    origin: dict[str, str]

    def as_yaml(self) -> str:
        """Format the configuration as YAML that reads back as it, each value with its origin; secrets are masked."""
        lines: list[str] = []
        section = ""
        for key, value in _values(self.config).items():
            head, _, name = key.rpartition(".")
            if head != section and head:
                lines.append(f"{head}:")
            section = head
            shown = "********" if KEYS[key].secret and value else value
            indent = "  " if head else ""
            lines.append(f"{indent}{name}: {as_yaml(shown)}  # {self.origin[key]}")
        return "\n".join(lines) + "\n"


def _walk(cls: type, prefix: str = "") -> list[Key]:
    hints = get_type_hints(cls)
    keys = []
    for item in fields(cls):
        kind = hints[item.name]
        if is_dataclass(kind):
            assert isinstance(kind, type)
            keys += _walk(kind, f"{item.name}.")
        else:
            keys.append(Key(prefix + item.name, kind, item.metadata.get("range"), item.metadata.get("secret", False)))
    return keys


KEYS: dict[str, Key] = {key.name: key for key in _walk(Config)}


def load_config(
    file: Path | None = None, env: Mapping[str, str] | None = None, flags: Mapping[str, str | list[str]] | None = None
) -> Resolved:
    """Settle every key. ``flags`` maps dotted keys to texts (or lists of them). Raises ``ConfigError``."""
    raw: dict[str, tuple[Any, str]] = {}
    if file is not None:
        raw |= {key: (value, f"file {file}") for key, value in _read_file(file).items()}
    raw |= _read_env(os.environ if env is None else env)
    for key, text in (flags or {}).items():
        _known(key, f"flag --{key}")
        raw[key] = (text, f"flag --{key}")
    values = {key: parse(KEYS[key], value, origin) for key, (value, origin) in raw.items()}
    origin = {key: raw[key][1] if key in raw else "default" for key in KEYS}
    return Resolved(_build(values), origin)


def _read_file(file: Path) -> dict[str, Any]:
    content = _load_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no settings: it must be a mapping of sections.")
    flat = _flattened(content)
    for key in flat:
        _known(key, f"file {file}")
    return flat


def _load_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error


def _flattened(content: dict[Any, Any]) -> dict[str, Any]:
    """Return a file's sections as dotted keys."""
    flat: dict[str, Any] = {}
    sections = {key.partition(".")[0] for key in KEYS if "." in key}
    for head, value in content.items():
        if head == "vllm" and isinstance(value, dict):
            flat[head] = [f"{name}={_flag_value(setting)}" for name, setting in value.items()]
        elif head in sections and isinstance(value, dict | NoneType):
            flat |= {f"{head}.{name}": item for name, item in (value or {}).items()}
        else:
            flat[str(head)] = value
    return flat


def _flag_value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


def _read_env(env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    by_name = {key.env: key.name for key in KEYS.values()}
    found = {}
    for name, text in env.items():
        if not name.startswith(ENV_PREFIX) or name in _OTHER_VARIABLES:
            continue
        if name not in by_name:
            raise ConfigError(f"There is no setting for the environment variable {name}{_nearest(name, by_name)}.")
        found[by_name[name]] = (text, f"env {name}")
    return found


def _known(key: str, origin: str) -> None:
    if key not in KEYS:
        raise ConfigError(f"There is no setting '{key}' ({origin}){_nearest(key, KEYS)}.")


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """Name the known name that is most like ``name``, or the one whose last part is."""
    last = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, 1, 0.5)
    close = close or [last[part] for part in difflib.get_close_matches(name.rpartition(".")[2], last, 1, 0.5)]
    return f"; the nearest is '{close[0]}'" if close else ""


def _build(values: Mapping[str, Any]) -> Config:
    hints = get_type_hints(Config)
    settings: dict[str, Any] = {key: value for key, value in values.items() if "." not in key}
    for name, kind in hints.items():
        if is_dataclass(kind):
            assert isinstance(kind, type)
            prefix = f"{name}."
            settings[name] = kind(**{k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)})
    return Config(**settings)


def _values(config: Config) -> dict[str, Any]:
    found = {}
    for key in KEYS:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = value
    return found
