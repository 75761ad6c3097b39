"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from engine.transformers import TransformersEngine


def measured_on(engine: TransformersEngine) -> dict[str, Any]:
    """The head of every result: machine, model and its fingerprint."""
    model = engine.model
    return {
        "machine": manifest(model.device, model.fingerprint.layout.dtype),
        "model": engine.model_id,
        "fingerprint": engine.fingerprint.digest,
    }


def manifest(device: torch.device, dtype: str) -> dict[str, Any]:
    """Hardware, versions and commit, for the ``machine`` field of a result."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": dtype,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "recallkv": _version("recallkv"),
        "commit": os.environ.get("RECALLKV_COMMIT") or _commit(),
        **(_gpu(device) if device.type == "cuda" else {}),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return "not installed"


def _gpu(device: torch.device) -> dict[str, Any]:
    """Memory, driver and clocks of a GPU; what ``nvidia-smi`` does not tell is left out."""
    found: dict[str, Any] = {
        "gpu_memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }
    fields = ("driver_version", "clocks.max.sm", "clocks.max.memory", "power.limit")
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    except (OSError, subprocess.CalledProcessError):
        return found
    return {**found, **dict(zip(fields, told, strict=False))}


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    """Short hash of the checkout, with a ``+`` when it has been changed; ``unknown`` outside a checkout."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
