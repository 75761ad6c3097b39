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
    """Return the library made of ``source``, from ``folder`` (default: ``native`` in the cache folder) where it was
    made before. Raises ``NotCompiled``."""
    folder = _kept() if folder is None else folder
    failed = NotCompiled("there is no C++ compiler (CXX, c++, g++ or clang++)")
    for compiler in _compilers():
        try:
            return _compiled_by(compiler, source, folder)
        except NotCompiled as error:  # the next one may do
            failed = error
        except OSError as error:
            raise NotCompiled(f"{folder} cannot be used: {error.strerror or error}") from error
    raise failed


def _kept() -> Path:
    try:
        return cache_folder() / "native"
    except RuntimeError as error:  # a user without a home
        raise NotCompiled(f"there is no cache folder: {error}") from error


def _compilers() -> list[str]:
    names = (os.environ.get("CXX"), *_COMPILERS)
    return list(dict.fromkeys(found for name in names if name and (found := shutil.which(name))))


def _compiled_by(compiler: str, source: Path, folder: Path) -> Path:
    said = "\0".join([compiler, _run([compiler, "--version"]), *_OPTIONS, platform.machine(), _cpu()])
    name = hashlib.blake2b(source.read_bytes() + said.encode(), digest_size=16).hexdigest()
    target = folder / f"{source.stem}-{name}.so"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_owned(folder)
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as made:
        fresh = Path(made) / target.name
        _run([compiler, *_OPTIONS, "-o", str(fresh), str(source)])
        if not fresh.exists():
            raise NotCompiled(f"{compiler} makes nothing")
        with fresh.open("rb") as stream:
            os.fsync(stream.fileno())  # loading a library that is there in part would end the process
        fresh.replace(target)  # several processes may do this at once: the last one's stays
    return target


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiled(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise NotCompiled(f"{command[0]} fails: {lines[0]}")
    return done.stdout


def _cpu() -> str:
    """Describe what ``-march=native`` stands for: folders may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _check_owned(folder: Path) -> None:
    """Refuse a folder that others may write to: what is loaded from it is run."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & _WRITABLE_BY_OTHERS:
        raise NotCompiled(f"others may write to {folder}")
