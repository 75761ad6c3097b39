"""Read settings from a command line."""

from __future__ import annotations

from server.config import KEYS, load_config
from server.config.values import ConfigError

# Short forms of the settings that are said most.
_SHORT = {
    "host": "server.host",
    "port": "server.port",
    "api-keys": "server.api_keys",
    "log-level": "server.log_level",
    "log-format": "server.log_format",
    "data-dir": "data_dir",
    "engine": "engine.kind",
    "device": "engine.device",
    "dtype": "engine.dtype",
    "context": "engine.context",
    "served-name": "engine.served_name",
    "embedder": "memory.embedder",
    "mode": "memory.mode",
    "top-k": "memory.top_k",
}


def parse_flags(arguments: list[str]) -> dict[str, str | list[str]]:
    """Read ``--key value`` and ``--key=value`` as dotted keys; dashes and underscores are the same. A first argument
    that is no flag is the model. Raises ``ConfigError``."""
    flags: dict[str, str | list[str]] = {}
    vllm: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("-") and not argument.startswith("--"):
            raise ConfigError(f"There is no flag '{argument}'; flags begin with two dashes.")
        if not argument.startswith("--"):
            if "engine.model" in flags:
                raise ConfigError(f"'{argument}' is one argument too many.")
            flags["engine.model"] = argument
            continue
        name, given, value = argument[2:].partition("=")
        key = _SHORT.get(name.replace("_", "-"), name.replace("-", "_"))
        if key not in KEYS and not key.startswith("vllm."):
            load_config(None, {}, {key: ""})  # words the error
        if not given:
            value = next(rest, "")
        if not value:
            raise ConfigError(f"--{name} needs a value.")
        if key.startswith("vllm."):
            vllm.append(f"{name.removeprefix('vllm.')}={value}")
        else:
            flags[key] = value
    return flags | ({"vllm": vllm} if vllm else {})
