"""C++ to a shared library, once for each source, compiler and CPU."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine.folders import cache_folder

_COMPILERS = ("c++", "g++", "clang++")
_OPTIONS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_TIMEOUT_S = 120.0
_WRITABLE_BY_OTHERS = 0o022


class NotCompiled(Exception):
    """There is no compiler here, or it fails, or what it makes could not be kept safely."""


def compiled(source: Path, folder: Path | None = None) -> Path:
    """The library made of ``source``, from ``folder`` (default: ``native`` in the cache folder) where it was made
    before. Raises ``NotCompiled``."""
    folder = cache_folder() / "native" if folder is None else folder
    compiler = _compiler()
    text = source.read_bytes()
    said = "\0".join([compiler, _run([compiler, "--version"]), *_OPTIONS, platform.machine(), _cpu()])
    name = hashlib.blake2b(text + said.encode(), digest_size=16).hexdigest()
    target = folder / f"{source.stem}-{name}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owned(folder)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=folder) as made:
                fresh = Path(made) / target.name
                _run([compiler, *_OPTIONS, "-o", str(fresh), str(source)])
                fresh.replace(target)  # several processes may do this at once: the last one's stays
    except OSError as error:
        raise NotCompiled(f"{folder} cannot be used: {error.strerror or error}") from error
    return target


def _compiler() -> str:
    for name in (os.environ.get("CXX"), *_COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise NotCompiled("there is no C++ compiler (CXX, c++, g++ or clang++)")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiled(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise NotCompiled(f"{command[0]} fails: {lines[0]}")
    return done.stdout


def _cpu() -> str:
    """What ``-march=native`` stands for: folders may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _check_owned(folder: Path) -> None:
    """What is loaded from here is run."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & _WRITABLE_BY_OTHERS:
        raise NotCompiled(f"others may write to {folder}")
