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
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from server.cli.client import Client, ServerError
from server.cli.memory import Format, Output
from server.cli.text import plain
from server.lock import default_data_dir

_PROBE_BYTES = 256 << 20
_TEXTS = 5_000


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
    checks: dict[str, Callable[[], Finding]] = {
        "versions": _versions,
        "device": _device,
        "attention": _attention,
        "threads": lambda: _threads(port),
        "demo model": _demo_model,
        "embedder": _embedder,
        "languages": lambda: _languages(folder),
        "data folder": lambda: _data_dir(folder),
        "disk read": lambda: _disk(folder),
        "port": lambda: _port(port),
    }
    findings = [_outcome(name, check) for name, check in checks.items()]
    if format is Format.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("check", "", "detail")
        colours = {"ok": "green", "note": "yellow", "problem": "red"}
        for finding in findings:
            table.add_row(finding.name, f"[{colours[finding.state]}]{finding.state}[/]", plain(finding.detail))
        Console(highlight=False).print(table)
    raise typer.Exit(1 if any(finding.state == "problem" for finding in findings) else 0)


def _outcome(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except OSError as error:
        return Finding(name, "problem", str(error))


def _versions() -> Finding:
    packages = ("recallkv", "torch", "transformers", "safetensors", "fastapi")
    return Finding("versions", "ok", ", ".join(f"{name} {version(name)}" for name in packages))


def _device() -> Finding:
    import torch

    from engine.dtype import choose_dtype
    from engine.transformers.loading import choose_device

    device = choose_device("auto")
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return Finding("device", "ok", f"{device} ({name}), {dtype}")


def _threads(port: int) -> Finding:
    """Warn of more threads than the machine has time for: they make a model slower."""
    from engine.transformers import usable_threads
    from engine.transformers.threads import times_as_quick

    threads = usable_threads()
    server = _threads_of_server(port)
    if threads == 1:
        return Finding("threads", "ok", f"1 is used{server}")
    quick = times_as_quick(threads)
    now = f"{threads} are {quick:.1f} times as quick as 1"
    if quick >= 1:
        return Finding("threads", "ok", f"{now}{server}")
    return Finding("threads", "note", f"{now}: another process computes; a server uses fewer meanwhile{server}")


def _threads_of_server(port: int) -> str:
    """Ask a server that runs here what it has found out."""
    page = BytesIO()
    try:
        Client(f"http://127.0.0.1:{port}", os.environ.get("RECALLKV_API_KEY"), timeout_s=5.0).save("/metrics", page)
    except ServerError:
        return ""
    found = dict(line.rsplit(" ", 1) for line in page.getvalue().decode().splitlines() if line.startswith("recallkv_"))
    if "recallkv_engine_threads" not in found:
        return ""
    in_use, down = (int(float(found[f"recallkv_engine_thread{name}"])) for name in ("s", "_steps_down_total"))
    return f"; the server on {port} computes with {in_use} and has stepped down {down} times"


def _attention() -> Finding:
    import torch

    from engine.dtype import choose_dtype
    from engine.transformers.attention.choose import quick_native
    from engine.transformers.loading import choose_device

    device = choose_device("auto")
    if device.type != "cpu" or choose_dtype("auto", device) != torch.float32:
        return Finding("attention", "ok", "PyTorch's")
    found = quick_native()
    if isinstance(found, str):
        return Finding("attention", "note", f"PyTorch's, which may be slower: {found}")
    return Finding("attention", "ok", "compiled for this CPU (engine.native)")


def _demo_model() -> Finding:
    from server import assets

    target = assets.demo_model_target()
    if assets.complete(target):
        return Finding("demo model", "ok", str(target))
    if assets.installed(assets.DEMO_MODEL) is not None:
        return Finding("demo model", "note", "installed; converted at first use, in about half a minute")
    return Finding("demo model", "note", f"fetched at first use: {assets.DEMO_MODEL.distribution}")


def _embedder() -> Finding:
    from server import assets

    file = assets.installed(assets.EMBEDDER)
    if file is not None:
        return Finding("embedder", "ok", f"all-MiniLM-L6-v2 in {file.parent}")
    if assets.complete(assets.embedder_target()):
        return Finding("embedder", "ok", f"all-MiniLM-L6-v2 in {assets.embedder_target()}")
    return Finding("embedder", "note", f"fetched at first use: {assets.EMBEDDER.distribution}")


def _languages(folder: Path) -> Finding:
    """Look for cubes whose text an English embedder was given though it is in other scripts."""
    from memory import HashEmbedder, StoreCorrupt
    from memory.search.scripts import OTHER_SHARE, other_share
    from memory.storage.opening import open_storage
    from server.assets import bundled_embedder_name

    path = folder / "memories.sqlite"
    if not path.is_file():
        return Finding("languages", "ok", "no memories yet")
    try:
        storage = open_storage(path)
        with storage.read() as tx:
            newest = tx.lists.newest(_TEXTS)
        storage.close()
    except StoreCorrupt as error:
        return Finding("languages", "problem", str(error))
    texts: dict[str, list[str]] = {}
    for found in newest:
        if found.embedder in (bundled_embedder_name(), HashEmbedder().name):
            texts.setdefault(found.cube_id, []).append(found.text)
    foreign = [cube for cube, theirs in texts.items() if other_share(theirs) > OTHER_SHARE]
    if not foreign:
        return Finding("languages", "ok", "the embedder fits the text of the newest memories")
    named = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
    return Finding(
        "languages",
        "note",
        f"more than a fifth of the letters of {named} are not Latin, and the embedder is for English:"
        " serve with --embedder multilingual",
    )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest existing one above it."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _data_dir(folder: Path) -> Finding:
    existing = _existing(folder)
    if not existing.is_dir():
        return Finding("data folder", "problem", f"{existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data folder", "problem", f"{folder} cannot be written")
    free = shutil.disk_usage(existing).free / 1e9
    return Finding("data folder", "ok" if free > 5 else "note", f"{folder}, {free:.0f} GB free")


def _disk(folder: Path) -> Finding:
    existing = _existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("disk read", "note", "not measured: the data folder cannot be written")
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
            return _holder(port)
    return Finding("port", "ok", f"{port} is free")


def _holder(port: int) -> Finding:
    """Find who has the port: our server is as it should be, anyone else keeps ours from starting."""
    try:
        live = Client(f"http://127.0.0.1:{port}", None, timeout_s=5.0).call("GET", "/health/live") == {"status": "ok"}
    except ServerError:
        live = False
    if live:
        return Finding("port", "ok", f"a server is running on {port}")
    return Finding("port", "problem", f"{port} is in use by a program that is no server of ours: serve with --port")
