"""All settings: one frozen dataclass a section, each default written once, here.

Sources in order of growing weight: defaults, a YAML file, ``RECALLKV_*`` environment variables, flags. An unknown
key in any of them is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_type_hints

import yaml

from server.config.values import ENV_PREFIX, ConfigError, Key, as_yaml, parse

# Variables of ours that are no settings of the server.
_OTHER_VARIABLES = frozenset({"RECALLKV_CONFIG", "RECALLKV_API_KEY", "RECALLKV_URL"})


def _secret() -> Any:
    return field(default=None, metadata={"secret": True})


def _range(default: Any, low: float, high: float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class ServerConfig:
    """The HTTP edge."""

    host: str = "127.0.0.1"
    port: int = _range(8000, 0, 65535)
    api_keys: Literal["auto", "required", "off"] = "auto"
    """auto: needed as soon as the address is not loopback."""
    max_body_bytes: int = _range(16 << 20, 1024, 1 << 30)
    max_bundle_bytes: int = _range(1 << 30, 1024, 1 << 40)
    """Of a cube that is loaded, segments included; without them ``max_body_bytes``."""
    body_timeout_s: float = _range(30.0, 0.05, 3600)
    keep_alive_s: float = _range(120.0, 1, 86_400)
    """How long an idle connection is kept: longer than clients and load balancers keep theirs."""
    drain_s: float = _range(10.0, 0, 3600)
    drain_min_s: float = _range(0.0, 0, 3600)
    """At SIGTERM, listen for so long at least, and answer 503: for load balancers to notice."""
    sse_ping_s: float = _range(15.0, 0.05, 3600)
    default_max_tokens: int = _range(256, 1, 1 << 20)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineConfig:
    """The model, who runs it, and its batching."""

    model: str = "demo"
    kind: Literal["transformers", "vllm"] = "transformers"
    served_name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    context: int | None = _range(None, 16, 1 << 24)
    threads: int | None = _range(None, 1, 1024)
    adapt_threads: bool = True
    """On a CPU, use fewer threads while fewer are quicker, as beside another process that computes. False: always as
    many, so that the same passes agree to the last bit."""
    native: bool = True
    """Compile attention: on a CPU where there is a C++ compiler, on a GPU by Triton where that is."""
    max_running: int = _range(16, 1, 4096)
    max_waiting: int = _range(256, 0, 1 << 20)
    prefill_chunk: int | None = _range(None, 1, 1 << 20)
    busy_prefill_chunk: int | None = _range(None, 1, 1 << 20)
    kv_gb: float | None = _range(None, 0, 1e6)
    """For the keys and values of running requests and of the device tier together, in GB: requests wait until theirs
    fit. None: on a GPU nine tenths of what is free beside the model; on a CPU no bound."""


@dataclass(frozen=True)
class CacheConfig:
    """Byte budgets of the segment tiers, in GB (1e9 bytes)."""

    device_gb: float = _range(2.0, 0, 1e6)
    host_gb: float = _range(4.0, 0, 1e6)
    disk_gb: float = _range(20.0, 0, 1e6)
    fsync: bool = True
    weigh_loading: bool = True
    """Load a segment only where that is quicker than computing its tokens, as measured at start."""
    codec: Literal["none", "zstd", "fp8", "int8", "int4"] = "none"
    """How pages are written to disk; chained segments stay exact whatever it says."""
    sessions: bool = True
    """Keep a conversation's turns and answers behind its memories, and its memories in their places, so that its next
    request computes only what is new."""
    max_kl: float = _range(0.25, 0, 1e6)
    """Nats: a page whose certificate says more is never composed."""
    high_repair: Literal["none", "first", "deviation", "attention", "lines"] = "deviation"
    high_share: float = _range(0.15, 0, 1)
    fast_repair: Literal["none", "first", "deviation", "attention", "lines"] = "none"
    fast_share: float = _range(0.0, 0, 1)
    """Which of the composed tokens are computed anew at each fidelity, and what share of them."""


@dataclass(frozen=True)
class MemoryConfig:
    """Retrieval and how memories enter the prompt."""

    mode: Literal["auto", "kv", "text", "off"] = "auto"
    fidelity: Literal["exact", "high", "fast"] = "high"
    top_k: int = _range(5, 0, 64)
    embedder: str = "bundled"
    """bundled, hash, a folder or Hugging Face id, or the URL of an OpenAI-style endpoint."""
    embedder_model: str | None = None
    embedder_api_key: str | None = _secret()
    reranker: str | None = None
    """The URL of a /rerank endpoint that puts search results in their final order."""
    reranker_model: str | None = None
    reranker_api_key: str | None = _secret()
    extractor: Literal["local", "model"] = "local"
    """Who finds memories in messages where the request does not say."""
    extractor_url: str | None = None
    """An OpenAI-style endpoint for the extractor ``model``; None: the served model."""
    extractor_model: str | None = None
    extractor_api_key: str | None = _secret()
    undelete_hours: float = _range(24.0, 0, 24 * 365)
    """How long a deleted memory can be brought back; 0: deleted is forgotten."""
    bundle_key_file: Path | None = None
    """32 secret bytes that segments in bundles are signed with, for servers that take each other's; None: bundle.key in
    the data folder, made when it is needed."""


@dataclass(frozen=True)
class SchedulerConfig:
    """Next-scene prediction: what is brought up before it is asked for."""

    predictor: Literal["blend", "recency", "frequency", "transition", "drift", "off"] = "blend"
    min_probability: float = _range(0.5, 0, 1)
    """Less likely segments are left where they are."""
    horizon_s: float = _range(1800.0, 1, 1e6)
    """How far ahead is predicted."""
    preload_mb_s: float = _range(0.0, 0, 1e6)
    """At most so many MB (1e6 bytes) a second are brought up; 0: as many as there is time for."""
    unused_share: float = _range(0.5, 0, 1)
    """At most so much of the memory tier may be taken up by segments that were brought up and not used yet."""


def default_data_dir() -> Path:
    """``$XDG_DATA_HOME/recallkv``."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "recallkv"


@dataclass(frozen=True)
class Config:
    """Everything the server is told."""

    data_dir: Path = field(default_factory=default_data_dir)
    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    cache: CacheConfig = CacheConfig()
    memory: MemoryConfig = MemoryConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    vllm: tuple[str, ...] = ()
    """vLLM's own flags, as name=value. In a file also a section, on the command line --vllm.NAME VALUE."""


@dataclass(frozen=True)
class Resolved:
    """A configuration, and for each key where its value came from."""

    config: Config
    origin: dict[str, str]

    def as_yaml(self) -> str:
        """YAML that reads back as this configuration, each value with its origin; secrets are masked."""
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
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no settings: it must be a mapping of sections.")
    flat: dict[str, Any] = {}
    sections = {key.partition(".")[0] for key in KEYS if "." in key}
    for head, value in content.items():
        if head == "vllm" and isinstance(value, dict):
            flat[head] = [f"{name}={_flag_value(setting)}" for name, setting in value.items()]
        elif head in sections and isinstance(value, dict | NoneType):
            flat |= {f"{head}.{name}": item for name, item in (value or {}).items()}
        else:
            flat[str(head)] = value
    for key in flat:
        _known(key, f"file {file}")
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
    """The known name that is most like ``name``, or whose last part is."""
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
