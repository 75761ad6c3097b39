"""``recallkv key``: API keys, in the data folder itself; a running server knows of them at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from memory.domain.keys import KeyStore
from memory.storage.opening import open_storage
from server.cli.text import plain
from server.lock import default_data_dir, make_data_dir

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")

DataDir = Annotated[Path | None, typer.Option(envvar="RECALLKV_DATA_DIR", help="The server's data folder.")]


def _keys(data_dir: Path | None) -> KeyStore:
    folder = data_dir or default_data_dir()
    make_data_dir(folder)
    return KeyStore(open_storage(folder / "memories.sqlite"))


@app.command()
def create(
    name: str,
    tenant: Annotated[str, typer.Option(help="Whose memories the key opens.")] = "default",
    data_dir: DataDir = None,
) -> None:
    """Create a key; it is printed this once."""
    print(_keys(data_dir).create(tenant, name))


@app.command("ls")
def list_(data_dir: DataDir = None) -> None:
    """List keys by name (never the keys themselves)."""
    table = Table("name", "tenant", "created")
    for key in _keys(data_dir).all():
        created = datetime.fromtimestamp(key.created_at, UTC).isoformat(timespec="seconds")
        table.add_row(plain(key.name), plain(key.tenant), created)
    Console(highlight=False).print(table)


@app.command()
def revoke(name: str, data_dir: DataDir = None) -> None:
    """Revoke a key."""
    _keys(data_dir).revoke(name)
