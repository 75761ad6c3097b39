"""``recallkv serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


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
    # Only here: with the settings come the packages that own them, and torch with these.
    from server.config import load_config
    from server.config.flags import parse_flags

    resolved = load_config(config, os.environ, parse_flags(context.args))
    if print_config:
        print(resolved.as_yaml(), end="")
        return
    from server.run import run

    raise typer.Exit(run(resolved))
