"""What this machine can do at best, measured before anything else: the lab's floors stand on these."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.lab.architectures import Size
from benchmarks.ttft import drop_cached, read_raw
from engine.transformers.packing import PackedLinear, can_pack

_MATRIX = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
_FILE_BYTES = 256 << 20
_BUFFER_BYTES = 8 << 20
_ROUNDS = 7


@dataclass(frozen=True)
class Ceilings:
    """Best rates found. ``flops``: operations a second of a large matrix product; the others bytes a second: reading
    the device's memory (half of what a copy moves), copying from pinned host memory to the device (None where the
    device is the host), and reading a file that is not in the page cache."""

    flops: float
    device_bytes_s: float
    host_bytes_s: float | None
    disk_bytes_s: float


def measured(device: torch.device, dtype: torch.dtype, folder: Path) -> Ceilings:
    """Takes some seconds; ``folder`` is on the drive that segments are read from."""
    return Ceilings(
        flops=_matrix_flops(device, dtype),
        device_bytes_s=_copy_rate(device) * 2,
        host_bytes_s=None if device.type == "cpu" else _host_rate(device),
        disk_bytes_s=disk_rate(folder),
    )


def timed(work: Callable[[], object], device: torch.device, rounds: int = _ROUNDS) -> float:
    """Median seconds of ``work`` after two warm-ups; on a GPU between two events in its own stream."""
    times = [_once(work, device) for _ in range(rounds + 2)]
    return statistics.median(times[2:])


def _once(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


@torch.inference_mode()
def _matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    n = _MATRIX[device.type]
    # Random numbers: on zeros some GPUs run faster than on anything they meet in practice.
    left = torch.randn(n, n, device=device, dtype=dtype)
    linear = nn.Linear(n, n, bias=False, device=device, dtype=dtype)
    rates = [2 * n**3 / timed(lambda: linear(left), device)]
    if can_pack(linear):
        packed = PackedLinear(linear)
        rates.append(2 * n**3 / timed(lambda: packed(left), device))
    return max(rates)


def _copy_rate(device: torch.device) -> float:
    data = torch.empty(_COPY_BYTES[device.type], dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(data)
    return data.nbytes / timed(lambda: target.copy_(data), device)


def _host_rate(device: torch.device) -> float:
    data = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True).fill_(1)
    target = torch.empty_like(data, device=device)
    return data.nbytes / timed(lambda: target.copy_(data, non_blocking=True), device)


def disk_rate(folder: Path) -> float:
    """Sequential reads of a file that is not in the page cache, the best of three."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        block = os.urandom(_BUFFER_BYTES)
        for _ in range(_FILE_BYTES // _BUFFER_BYTES):
            file.write(block)
        file.flush()
        path, buffer = Path(file.name), bytearray(_BUFFER_BYTES)
        times = []
        for _ in range(3):
            drop_cached(path)
            times.append(read_raw(path, buffer))
        return _FILE_BYTES / min(times)


@dataclass(frozen=True)
class Floors:
    """Lower bounds in seconds from the ceilings: operations and bytes as if each ran alone at its best rate."""

    size: Size
    ceilings: Ceilings
    weight_bytes: int
    bytes_per_token: int

    def prefill(self, new: int, behind: int = 0) -> float:
        """Computing ``new`` tokens behind ``behind`` resident ones: the longer of computing, and of reading the weights
        and the keys and values once."""
        moved = self.weight_bytes + behind * self.bytes_per_token
        return max(self.size.flops(new, behind) / self.ceilings.flops, moved / self.ceilings.device_bytes_s)

    def loaded(self, tier: str, context: int, query: int) -> float:
        """The query behind a context that lies in ``tier``: resident, host or disk."""
        nbytes = context * self.bytes_per_token
        copied = 0.0 if self.ceilings.host_bytes_s is None else nbytes / self.ceilings.host_bytes_s
        from_host = copied if tier in ("host", "disk") else 0.0
        from_disk = nbytes / self.ceilings.disk_bytes_s if tier == "disk" else 0.0
        # Reading from the drive and copying to the device can go on side by side.
        return self.prefill(query, context) + max(from_host, from_disk)
