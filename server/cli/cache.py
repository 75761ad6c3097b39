"""``recallkv cache``: the segments in the data folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.cli.memory import Format, Output
from server.cli.text import plain
from server.config import default_data_dir

app = typer.Typer(no_args_is_help=True, help="Look at stored segments.")
console = Console(highlight=False)

DataDir = Annotated[Path | None, typer.Option(envvar="RECALLKV_DATA_DIR", help="The server's data folder.")]


def _folder(data_dir: Path | None) -> Path:
    return (data_dir or default_data_dir()) / "segments"


@app.command("ls")
def list_(data_dir: DataDir = None, format: Output = Format.terminal) -> None:
    """List stored segments, oldest first."""
    from kvcache import list_folder

    entries = list_folder(_folder(data_dir))
    if format is Format.json:
        fields = ("key", "parent", "start", "n_tokens", "nbytes", "created_at", "last_used_at", "uses")
        print(json.dumps([{f: getattr(e, f) for f in fields} | {"labels": sorted(e.labels)} for e in entries]))
        return
    table = Table("segment", "tokens", "MiB", "uses", "last used", "memory")
    for entry in entries:
        used = datetime.fromtimestamp(entry.last_used_at, UTC).isoformat(timespec="seconds")
        span = f"{entry.start}-{entry.start + entry.n_tokens}"
        labels = ", ".join(sorted(entry.labels)) or "-"
        table.add_row(entry.key[:12], span, f"{entry.nbytes / 2**20:.1f}", str(entry.uses), used, plain(labels))
    console.print(table)
    console.print(f"{len(entries)} segments, {sum(entry.nbytes for entry in entries) / 2**20:.1f} MiB")


@app.command()
def verify(data_dir: DataDir = None, format: Output = Format.terminal) -> None:
    """Read every segment file and check it. Exits with 1 when one is bad; changes nothing."""
    from kvcache import verify_folder

    report = verify_folder(_folder(data_dir))
    if format is Format.json:
        bad = [{"path": str(item.path), "reason": item.reason} for item in report.bad]
        print(json.dumps({"checked": report.checked, "bytes": report.bytes, "bad": bad}))
    else:
        for item in report.bad:
            console.print(f"bad: {item.path.name}: {item.reason}", markup=False)
        console.print(f"{report.checked} files, {report.bytes / 2**20:.1f} MiB, {len(report.bad)} bad")
    raise typer.Exit(1 if report.bad else 0)
