"""The ``recallkv`` command."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version

import typer
from rich.console import Console

from server.cli import cache, chat, doctor, keys, mcp, memory, scheduler, serve
from server.cli.text import clean

app = typer.Typer(
    name="recallkv",
    help="A memory server for language models: memories come in as KV cache, not as prompt tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command(
    "serve",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": True},
)(serve.serve)
app.command("chat")(chat.chat)
app.command("doctor")(doctor.doctor)
app.command("mcp")(mcp.mcp)
app.command("plan")(scheduler.plan)
app.command("top")(scheduler.top)
app.add_typer(memory.app, name="memory")
app.add_typer(keys.app, name="key")
app.add_typer(cache.app, name="cache")

NAMED_ERRORS = (
    ("engine.errors", "EngineError"),
    ("kvcache.errors", "KVCacheError"),
    ("memory.errors", "MemoryStoreError"),
    ("server.assets", "AssetError"),
    ("server.cli.client", "ServerError"),
    ("server.config_values", "ConfigError"),
    ("server.core.signing", "BundleKeyError"),
    ("server.lock", "DataDirError"),
    ("server.run", "PortTaken"),
)


@app.callback(invoke_without_command=True)
def _root(show_version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if show_version:
        print(version("recallkv"))
        raise typer.Exit


def _add_plugins(argv: list[str]) -> None:
    """Add command groups of other packages. They are loaded only when one is called or all are listed: they are slow to
    import, and ``recallkv memory ls`` should not wait for them."""
    for entry in entry_points(group="recallkv.commands"):
        if entry.name in argv[:1]:
            app.add_typer(entry.load(), name=entry.name)
        else:
            app.command(entry.name, help=f"See: recallkv {entry.name} --help")(_placeholder)


def _placeholder() -> None:
    raise AssertionError("replaced when called by name")


def named_errors() -> tuple[type[Exception], ...]:
    """List the errors that are an answer to the user: one line, no traceback. Only those of modules in use: others
    cannot have been raised, and importing them would keep the user waiting."""
    return tuple(getattr(sys.modules[module], name) for module, name in NAMED_ERRORS if module in sys.modules)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its status: 0, 1 for a failure, 2 for wrong usage."""
    arguments = sys.argv[1:] if argv is None else argv
    _add_plugins(arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    try:
        app(arguments, prog_name="recallkv")
    except Exception as error:
        if isinstance(error, named_errors()):
            errors.print(clean(f"recallkv: {error}"), markup=False)
            sys.exit(1)
        raise
