"""``recallkv serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from server.config import KEYS, load_config
from server.config_values import ConfigError

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


def serve(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(envvar="RECALLKV_CONFIG", help="YAML file of settings.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every setting and where it came from, and exit.")
    ] = False,
) -> None:
    """Serve a model with memory: recallkv serve [MODEL], where MODEL is demo (the default) or any Hugging Face id or
    folder.

    Any setting can be given as a flag: --server.port 9000, or short: --port, --host, --data-dir, --device, --dtype,
    --mode, --top-k, --embedder, --engine, --api-keys, --log-level, --log-format,
    --context, --served-name. --vllm.NAME VALUE is passed on to vLLM. See --print-config.
    """
    flags = parse_flags(context.args)
    resolved = load_config(config, os.environ, flags)
    if print_config:
        print(resolved.as_yaml(), end="")
        return
    from server.run import run

    raise typer.Exit(run(resolved))


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
