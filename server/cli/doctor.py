"""``recallkv doctor``: would it run here, and how."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from server.cli.memory import Format, Output
from server.config import default_data_dir

_PROBE_BYTES = 256 << 20


@dataclass(frozen=True)
class Finding:
    """One check's outcome."""

    name: str
    state: Literal["ok", "note", "problem"]
    detail: str


def doctor(
    data_dir: Annotated[Path | None, typer.Option(envvar="RECALLKV_DATA_DIR")] = None,
    port: Annotated[int, typer.Option(help="Port to look at.")] = 8000,
    format: Output = Format.terminal,
) -> None:
    """Check versions, device, models, data folder, disk and port. Exits with 1 when something would not work."""
    folder = data_dir or default_data_dir()
    checks: list[Callable[[], Finding]] = [
        _versions,
        _device,
        _demo_model,
        _embedder,
        lambda: _data_dir(folder),
        lambda: _disk(folder),
        lambda: _port(port),
    ]
    findings = [check() for check in checks]
    if format is Format.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("check", "", "detail")
        colours = {"ok": "green", "note": "yellow", "problem": "red"}
        for finding in findings:
            table.add_row(finding.name, f"[{colours[finding.state]}]{finding.state}[/]", finding.detail)
        Console(highlight=False).print(table)
    raise typer.Exit(1 if any(finding.state == "problem" for finding in findings) else 0)


def _versions() -> Finding:
    packages = ("recallkv", "torch", "transformers", "safetensors", "fastapi")
    return Finding("versions", "ok", ", ".join(f"{name} {version(name)}" for name in packages))


def _device() -> Finding:
    import torch

    from engine.transformers.loading import choose_device, choose_dtype

    device = choose_device("auto")
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return Finding("device", "ok", f"{device} ({name}), {dtype}")


def _demo_model() -> Finding:
    from server import assets

    target = assets.cache_folder() / "models" / f"smollm2-135m-instruct-{assets.DEMO_MODEL.sha256[:12]}"
    if (target / "recallkv.json").is_file():
        return Finding("demo model", "ok", str(target))
    if assets.installed(assets.DEMO_MODEL) is not None:
        return Finding("demo model", "note", "installed; converted at first use, in about half a minute")
    return Finding("demo model", "note", f"fetched at first use: {assets.DEMO_MODEL.distribution}")


def _embedder() -> Finding:
    from server import assets

    if assets.installed(assets.EMBEDDER) is not None:
        return Finding("embedder", "ok", "all-MiniLM-L6-v2, installed")
    return Finding("embedder", "note", f"fetched at first use: {assets.EMBEDDER.distribution}")


def _data_dir(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Finding("data folder", "problem", f"{folder} cannot be written")
    free = shutil.disk_usage(existing).free / 1e9
    return Finding("data folder", "ok" if free > 5 else "note", f"{folder}, {free:.0f} GB free")


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if shutil.disk_usage(existing).free < 2 * _PROBE_BYTES:
        return Finding("disk read", "note", "too little space to measure")
    with tempfile.NamedTemporaryFile(dir=existing) as probe:
        for _ in range(_PROBE_BYTES >> 20):
            probe.write(os.urandom(1 << 20))
        probe.flush()
        os.fsync(probe.fileno())
        os.posix_fadvise(probe.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        probe.seek(0)
        begin = time.perf_counter()
        while probe.read(8 << 20):
            pass
        rate = _PROBE_BYTES / (time.perf_counter() - begin) / 1e9
    return Finding("disk read", "ok", f"{rate:.1f} GB/s, page cache dropped")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Finding("port", "note", f"{port} is in use: a server may be running")
    return Finding("port", "ok", f"{port} is free")
