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

from benchmarks.lab.architectures import Operation, Size
from benchmarks.lab.weights import Fp8Linear
from benchmarks.suites.ttft import drop_cached, read_raw
from engine.transformers.layers.packing import PackedLinear, can_pack

_MATRIX = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
_FILE_BYTES = 256 << 20
_BUFFER_BYTES = 8 << 20
_ROUNDS = 7


@dataclass(frozen=True)
class Ceilings:
    """Best rates found. ``flops``: operations a second of a large matrix product; the others bytes a second: reading
    the device's memory (half of what a copy moves), copying from pinned host memory to the device (None where the
    device is the host), and reading a file that is not in the page cache (None where no file is read).
    ``small_flops``: of a product of 8-bit floats (None where there are no such layers)."""

    flops: float
    device_bytes_s: float
    host_bytes_s: float | None
    disk_bytes_s: float | None
    small_flops: float | None = None


def measured(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Ceilings:
    """Takes some seconds; ``folder`` is on the drive that segments are read from (None: none are)."""
    return Ceilings(
        flops=_matrix_flops(device, dtype),
        device_bytes_s=_copy_rate(device) * 2,
        host_bytes_s=None if device.type == "cpu" else _host_rate(device),
        disk_bytes_s=None if folder is None else disk_rate(folder),
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


@torch.inference_mode()
def small_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large product of 8-bit floats, inputs and weights drawn as those of a model are."""
    n = _MATRIX[device.type]
    layer = Fp8Linear(nn.Linear(n, n, bias=False, device=device, dtype=dtype))
    small, scale = layer.scaled(torch.randn(n, n, device=device, dtype=dtype))
    return 2 * n**3 / timed(lambda: layer.product(small, scale, dtype), device)


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
    """Lower bounds in seconds from the ceilings: each operation takes as long as computing, or as reading its weights
    and the keys and values, at the best rate; one operation comes after the other.

    The embedding is looked up, not read. ``weight_bytes``: of a weight of the linear layers; ``head_bytes``: of the
    last one, which keeps the model's dtype.
    """

    size: Size
    ceilings: Ceilings
    weight_bytes: int
    head_bytes: int
    bytes_per_token: int

    def prefill(self, new: int, behind: int = 0) -> float:
        """Computing ``new`` tokens behind ``behind`` resident ones."""
        number_bytes = self.bytes_per_token / (2 * self.size.layers * self.size.kv_heads * self.size.head_dim)
        layer = sum(self._takes(one, number_bytes) for one in self.size.layer(new, behind))
        last = self.size.last()
        logits = self._longer(last.flops, self.ceilings.flops, last.weights * self.head_bytes)
        return self.size.layers * layer + logits

    def step(self, streams: int, behind: int) -> float:
        """One token of each of ``streams`` sequences, each behind ``behind`` tokens of its own."""
        number_bytes = self.bytes_per_token / (2 * self.size.layers * self.size.kv_heads * self.size.head_dim)
        *products, attention = self.size.layer(1, behind)
        both = Operation(attention.flops * streams, cached=attention.cached * streams)
        each = [*(Operation(one.flops * streams, one.weights) for one in products), both]
        last = self.size.last()
        logits = self._longer(last.flops * streams, self.ceilings.flops, last.weights * self.head_bytes)
        return self.size.layers * sum(self._takes(one, number_bytes) for one in each) + logits

    def _takes(self, one: Operation, number_bytes: float) -> float:
        """``number_bytes``: of a number in keys and values."""
        is_small = bool(one.weights) and self.weight_bytes == 1 and self.ceilings.small_flops is not None
        rate = self.ceilings.small_flops if is_small else self.ceilings.flops
        assert rate is not None
        return self._longer(one.flops, rate, one.weights * self.weight_bytes + one.cached * number_bytes)

    def _longer(self, flops: float, rate: float, nbytes: float) -> float:
        return max(flops / rate, nbytes / self.ceilings.device_bytes_s)

    def loaded(self, tier: str, context: int, query: int) -> float:
        """The query behind a context that lies in ``tier``: resident, host or disk."""
        nbytes = context * self.bytes_per_token
        copied = 0.0 if self.ceilings.host_bytes_s is None else nbytes / self.ceilings.host_bytes_s
        from_host = copied if tier in ("host", "disk") else 0.0
        from_disk = 0.0
        if tier == "disk":
            assert self.ceilings.disk_bytes_s is not None, "the drive is measured where files are read"
            from_disk = nbytes / self.ceilings.disk_bytes_s
        # Reading from the drive and copying to the device can go on side by side.
        return self.prefill(query, context) + max(from_host, from_disk)
