"""What the machine is, and what it does at best: every later figure stands beside these."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.job import Job
from benchmarks.lab.architectures import ARCHITECTURES, Size
from benchmarks.lab.ceilings import small_flops, timed
from benchmarks.suites.ttft import drop_cached, read_raw
from benchmarks.support.machine import manifest
from kvcache import hashing

_ROWS = {"full": (1, 16, 167, 953, 6231), "rehearsal": (1, 16)}
_BLOCK = 8 << 20
_GB = 1e9


def measure(job: Job) -> None:
    """Versions, memory, copies, products, the drive and the hash."""
    record, device = job.record, job.device
    record.cell("machine", lambda: manifest(device, str(job.dtype).removeprefix("torch.")))
    record.cell("software", lambda: _software(device))
    record.cell("system", lambda: _system(job.folder))
    copies = record.cell("copies", lambda: _copies(device, job.plan.copied))
    large = record.cell("large_product_tflops", lambda: _large_product(device, job.dtype, job.plan.product))
    record.cell("products", lambda: _products(job))
    if device.type == "cuda":
        record.cell("fp8_tflops", lambda: round(small_flops(device, job.dtype) / 1e12, 1))
    drive = record.cell("drive", lambda: _drive(job.folder, job.plan.written))
    hashed = record.cell("hash", lambda: {"name": hashing.NAME, "gb_s": _hash_rate()})
    gist = []
    if large is not None:
        gist.append(f"{large:.4g} TFLOP/s in {job.plan.dtype}")
    if copies is not None:
        gist.append(
            f"memory {copies['memory_gb_s']:.4g} GB/s, host to device {copies['to_device_pinned_gb_s']:.3g} GB/s"
        )
    if drive is not None:
        gist.append(f"drive reads {drive['read_gb_s']:.3g} GB/s")
    if hashed is not None:
        gist.append(f"{hashed['name']} {hashed['gb_s']:.2g} GB/s")
    record.put("gist", gist)


def _software(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {name: _version(name) for name in ("triton", "numpy", "safetensors", "accelerate")}
    if device.type == "cuda":
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        found["bfloat16"] = torch.cuda.is_bf16_supported()
        order = getattr(torch._C, "_get_sdp_priority_order", None)
        found["attention_order"] = None if order is None else [str(one) for one in order()]
        found["cudnn_attention"] = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
        found["nvidia_smi"] = _told(["nvidia-smi", "-q", "-d", "CLOCK,PERFORMANCE,POWER"])
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _system(folder: Path) -> dict[str, Any]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {
        "memory_total": memory.get("MemTotal"),
        "memory_available": memory.get("MemAvailable"),
        "cpus": len(os.sched_getaffinity(0)),
        "folder": str(folder),
        "folder_free_gb": round(shutil.disk_usage(folder).free / _GB, 1),
        "file_system": _told(["df", "-T", str(folder)]),
    }


def _told(command: list[str]) -> str | None:
    """Run a program and return its output; None where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _copies(device: torch.device, nbytes: int) -> dict[str, float]:
    """Bytes a second, in GB/s: ``memory`` is reading (and as much writing beside it)."""
    on_device = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    other = torch.empty_like(on_device)
    found = {"memory_gb_s": 2 * nbytes / timed(lambda: other.copy_(on_device), device, 5) / _GB}
    is_cuda = device.type == "cuda"
    begin = time.perf_counter()
    pinned = torch.empty(nbytes, dtype=torch.uint8, pin_memory=is_cuda)
    found["reserving_pinned_s"] = time.perf_counter() - begin
    pageable = torch.zeros(nbytes, dtype=torch.uint8)
    for name, host in (("pinned", pinned), ("pageable", pageable)):
        to_device = timed(lambda host=host: on_device.copy_(host, non_blocking=True), device, 3)  # type: ignore[misc]
        to_host = timed(lambda host=host: host.copy_(on_device, non_blocking=True), device, 3)  # type: ignore[misc]
        found[f"to_device_{name}_gb_s"] = nbytes / to_device / _GB
        found[f"to_host_{name}_gb_s"] = nbytes / to_host / _GB
    return {name: round(value, 4) for name, value in found.items()}


@torch.inference_mode()
def _large_product(device: torch.device, dtype: torch.dtype, n: int) -> float:
    left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return round(2 * n**3 / timed(lambda: left @ right, device, 5) / 1e12, 4)


@torch.inference_mode()
def _products(job: Job) -> list[dict[str, Any]]:
    """The linear layers of each model at the numbers of rows that its cells have: TFLOP/s, and GB/s of weights."""
    found = []
    for name in dict.fromkeys((job.plan.small, job.plan.middle, job.plan.large)):
        size = Size.of(ARCHITECTURES[name].config(1024))
        wide, narrow = size.heads * size.head_dim, size.kv_heads * size.head_dim
        layers = {
            "qkv": (size.hidden, wide + 2 * narrow),
            "o": (wide, size.hidden),
            "gate_up": (size.hidden, 2 * size.intermediate),
            "down": (size.intermediate, size.hidden),
        }
        for layer, (inputs, outputs) in layers.items():
            # So many that no cache holds them all: each product reads its weights from memory.
            copies = max(1, min(8, (256 << 20) // (inputs * outputs * job.dtype.itemsize) + 1))
            linears = [
                nn.Linear(inputs, outputs, bias=False, device=job.device, dtype=job.dtype) for _ in range(copies)
            ]
            for rows in _ROWS[job.plan.name]:
                left = torch.randn(rows, inputs, device=job.device, dtype=job.dtype)

                def work(left: torch.Tensor = left, linears: list[nn.Linear] = linears) -> None:
                    for linear in linears:
                        linear(left)

                seconds = timed(work, job.device, 3) / copies
                found.append(
                    {
                        "model": name,
                        "layer": layer,
                        "rows": rows,
                        "tflops": round(2 * rows * inputs * outputs / seconds / 1e12, 4),
                        "weights_gb_s": round(inputs * outputs * job.dtype.itemsize / seconds / _GB, 2),
                    }
                )
    return found


def _drive(folder: Path, nbytes: int) -> dict[str, float]:
    """Writing a file with its fsync, and reading it with nothing of it in the page cache, in GB/s."""
    block = os.urandom(_BLOCK)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        begin = time.perf_counter()
        for _ in range(nbytes // _BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - begin
        path = Path(file.name)
        drop_cached(path)
        read = read_raw(path, bytearray(_BLOCK))
    return {"write_gb_s": round(nbytes / written / _GB, 4), "read_gb_s": round(nbytes / read / _GB, 4)}


def _hash_rate() -> float:
    data = os.urandom(_BLOCK) * 8
    hasher = hashing.hasher(threads=True)
    begin = time.perf_counter()
    hasher.update(data)
    hasher.hexdigest()
    return round(len(data) / (time.perf_counter() - begin) / _GB, 3)
