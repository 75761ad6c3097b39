"""``recallkv cache``: the segments in the data folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from server.cli.memory import Format, Output
from server.cli.text import plain
from server.lock import DataDirLock, default_data_dir

if TYPE_CHECKING:  # imported where used: torch takes seconds
    from kvcache import Catalogue, Entry

app = typer.Typer(no_args_is_help=True, help="Look at and tidy up stored segments.")
console = Console(highlight=False)

DataDir = Annotated[Path | None, typer.Option(envvar="RECALLKV_DATA_DIR", help="The server's data folder.")]
Key = Annotated[str, typer.Argument(help="A segment's key, or how it begins.")]


def _folder(data_dir: Path | None) -> Path:
    return (data_dir or default_data_dir()) / "segments"


@app.command("ls")
def list_(data_dir: DataDir = None, format: Output = Format.terminal) -> None:
    """List stored segments, oldest first."""
    from kvcache import list_folder, shares

    entries = list_folder(_folder(data_dir))
    if format is Format.json:
        print(json.dumps([_entry_json(entry) for entry in entries]))
        return
    table = Table("segment", "model", "kind", "tokens", "MiB", "uses", "last used", "memory")
    for entry in entries:
        used = datetime.fromtimestamp(entry.last_used_at, UTC).isoformat(timespec="seconds")
        span = f"{entry.start}-{entry.start + entry.n_tokens}"
        labels = ", ".join(sorted(entry.labels)) or "-"
        kind = entry.kind + (" (pinned)" if entry.protected else "")
        size = f"{entry.disk_bytes / 2**20:.1f}"
        table.add_row(entry.key[:12], entry.fingerprint[:8], kind, span, size, str(entry.uses), used, plain(labels))
    console.print(table)
    for share in shares(entries):
        console.print(f"model {share.fingerprint[:8]}: {share.segments} segments, {_mib(share.bytes)}")
    console.print(f"{len(entries)} segments, {_mib(sum(entry.disk_bytes for entry in entries))}{_quarantine(data_dir)}")


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"


def _quarantine(data_dir: Path | None) -> str:
    from kvcache import list_quarantine

    refused = list_quarantine(_folder(data_dir))
    return f"; in quarantine {len(refused)}, {_mib(sum(each.nbytes for each in refused))}" if refused else ""


def _entry_json(entry: Entry) -> dict[str, Any]:
    fields = ("key", "fingerprint", "kind", "parent", "start", "n_tokens", "nbytes", "disk_bytes")
    times = ("created_at", "last_used_at", "uses")
    shown = {name: getattr(entry, name) for name in fields} | {"pinned": entry.protected}
    shown |= {name: getattr(entry, name) for name in times}
    parts = [{"tokens": part.n_tokens, "memory": part.label} for part in entry.parts]
    certificate = None if entry.certificate is None else asdict(entry.certificate)
    return shown | {"labels": sorted(entry.labels), "parts": parts, "certificate": certificate}


def _found(entries: list[Entry], key: str) -> Entry:
    """Find the one entry whose key begins so."""
    matching = [entry for entry in entries if entry.key.startswith(key)]
    if len(matching) != 1:
        raise typer.BadParameter(f"{len(matching)} segments have a key that begins with '{key}'")
    return matching[0]


@app.command()
def show(key: Key, data_dir: DataDir = None) -> None:
    """All that is known of a segment: what it holds, how exact it is, how much it is used."""
    from kvcache import list_folder

    print(json.dumps(_entry_json(_found(list_folder(_folder(data_dir)), key)), indent=1))


@app.command()
def pin(
    key: Key,
    off: Annotated[bool, typer.Option("--off", help="Let it be evicted again.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Keep a segment on disk whatever its value. The server must not be running."""
    with _own_store(data_dir) as catalogue:
        entry = _found(catalogue.entries(), key)
        catalogue.protect(entry.key, on=not off)
    console.print(f"{entry.key[:12]} {'may be evicted again' if off else 'is kept'}")


@app.command()
def gc(data_dir: DataDir = None) -> None:
    """Remove what cannot be used: files without an entry, segments behind a gap, what is in quarantine. Segments of
    other models stay. The server must not be running."""
    with _own_store(data_dir) as catalogue:
        garbage = catalogue.collect_garbage()
        left = len(catalogue.entries())
    console.print(
        f"removed {garbage.unreachable} unreachable segments and {garbage.quarantined} in quarantine; {left} left"
    )


@contextmanager
def _own_store(data_dir: Path | None) -> Iterator[Catalogue]:
    """The folder's catalogue, with no server at work in it. Raises ``DataDirLocked``."""
    from kvcache import Catalogue

    lock = DataDirLock(data_dir or default_data_dir())
    try:
        catalogue = Catalogue(_folder(data_dir), disk_bytes=1 << 62)
        try:
            yield catalogue
        finally:
            catalogue.close()
    finally:
        lock.release()


@app.command()
def verify(data_dir: DataDir = None, format: Output = Format.terminal) -> None:
    """Read every segment file and check it. Exits with 1 when one is bad; changes nothing."""
    from kvcache import list_quarantine, verify_folder

    report = verify_folder(_folder(data_dir))
    if format is Format.json:
        bad = [{"path": str(item.path), "reason": item.reason} for item in report.bad]
        refused = [asdict(each) for each in list_quarantine(_folder(data_dir))]
        print(json.dumps({"checked": report.checked, "bytes": report.bytes, "bad": bad, "quarantine": refused}))
    else:
        for item in report.bad:
            console.print(f"bad: {item.path.name}: {item.reason}", markup=False)
        console.print(f"{report.checked} files, {_mib(report.bytes)}, {len(report.bad)} bad{_quarantine(data_dir)}")
    raise typer.Exit(1 if report.bad else 0)
