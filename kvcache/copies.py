"""Copies between a device and host memory. Every one of them is made here.

On a GPU a copy is queued, and the call returns before a byte has moved. Two rules keep anybody from reading what is not
there yet:

- *To the host* a copy is waited for by whoever asks for it, before the tensors are handed out. So host memory that
  others can see is always whole, and files, codecs and bundles need not know of streams.
- *To the device* the compute stream is made to wait, so that whatever is computed later finds the numbers there; the
  caller waits only where it says so. What is copied from is held until the copy has ended.

There are three lanes: ``compute``, the stream that the calling thread computes on (the device's default stream in every
thread of this project), ``up`` and ``down``. Memory on the device belongs to ``compute``: a copy begins only when all
that was queued there before has ended, and later work waits for the copy, so memory may be freed at any time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

Lane = Literal["compute", "up", "down"]
Allocate = Callable[[int], torch.Tensor]
"""Gives uninitialised host memory, uint8 [nbytes]."""
CPU = torch.device("cpu")


def fresh_memory(nbytes: int) -> torch.Tensor:
    """Give memory of its own, uint8 [nbytes]."""
    return torch.empty(nbytes, dtype=torch.uint8)


class Event(Protocol):
    """A mark in a stream, as ``torch.cuda.Event``."""

    def query(self) -> bool:
        """Say whether all work before it has ended."""
        ...

    def synchronize(self) -> None:
        """Wait for that."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Return the milliseconds on the device from here to a later event; both have come."""
        ...


class Streams(Protocol):
    """The streams of a device, as far as copies need them."""

    def record(self, lane: Lane) -> Event:
        """Mark the end of what was queued so far."""
        ...

    def wait(self, lane: Lane, event: Event) -> None:
        """Have all that is queued from now on wait for ``event``."""
        ...

    def copy(self, lane: Lane, source: torch.Tensor, target: torch.Tensor) -> None:
        """Queue a copy."""
        ...

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give uninitialised memory of the device that belongs to ``compute``."""
        ...


class CudaStreams:
    """``Streams`` of one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own: dict[Lane, torch.cuda.Stream] = {
            "up": torch.cuda.Stream(device),  # type: ignore[no-untyped-call]
            "down": torch.cuda.Stream(device),  # type: ignore[no-untyped-call]
        }

    def _stream(self, lane: Lane) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device) if lane == "compute" else self._own[lane]

    def record(self, lane: Lane) -> Event:
        # Blocking: a thread that waits must not take a core, and the interpreter, from the one that launches kernels.
        event: Any = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._stream(lane))
        marked: Event = event
        return marked

    def wait(self, lane: Lane, event: Any) -> None:
        self._stream(lane).wait_event(event)

    def copy(self, lane: Lane, source: torch.Tensor, target: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream(lane)):
            target.copy_(source, non_blocking=True)

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device=self._device)


@dataclass(frozen=True, eq=False)
class Copied:
    """A copy to the device that may still be under way: ``issued`` (of ``time.perf_counter``) says since when."""

    issued: float
    begin: Event
    end: Event

    @property
    def seconds(self) -> float:
        """Seconds that it took on the device. Waits for its end."""
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) / 1e3


class Copies:
    """Copies between host memory and one device. Thread-safe."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: Streams | None = CudaStreams(device) if device.type == "cuda" else None
        self._lock = threading.Lock()
        self._sources: list[tuple[Event, Sequence[torch.Tensor]]] = []

    def to_host(self, tensors: Sequence[torch.Tensor], allocate: Allocate = fresh_memory) -> tuple[torch.Tensor, ...]:
        """Return the tensors in host memory from ``allocate``, all of their bytes there; themselves where they are
        there already."""
        if tensors[0].device.type == "cpu":
            return tuple(tensors)
        if self._streams is None or tensors[0].device.type != "cuda":
            return tuple(tensor.to(CPU) for tensor in tensors)
        targets = tuple(_memory_for(tensor, allocate) for tensor in tensors)
        self._streams.wait("down", self._streams.record("compute"))
        try:
            for tensor, target in zip(tensors, targets, strict=True):
                self._streams.copy("down", tensor, target)
        finally:  # where a copy could not be queued, too: others must not land in memory that was given back
            self._streams.record("down").synchronize()
        return targets

    def to_device(
        self, tensors: Sequence[torch.Tensor], *, wait: bool
    ) -> tuple[tuple[torch.Tensor, ...], Copied | None]:
        """Return the tensors on the device, for what is computed from now on, and the copy (None where there was none
        to make). ``wait``: return when it has ended. Raises ``torch.OutOfMemoryError``."""
        if tensors[0].device == self._device:
            return tuple(tensors), None
        if self._streams is None:
            return tuple(tensor.to(self._device) for tensor in tensors), None
        issued = time.perf_counter()
        targets = tuple(self._streams.empty_like(tensor) for tensor in tensors)
        self._streams.wait("up", self._streams.record("compute"))
        begin = self._streams.record("up")
        try:
            for tensor, target in zip(tensors, targets, strict=True):
                self._streams.copy("up", tensor, target)
        finally:
            end = self._streams.record("up")
            self._hold(end, tensors)
            self._streams.wait("compute", end)
        if wait:
            end.synchronize()
        return targets, Copied(issued, begin, end)

    def _hold(self, until: Event, sources: Sequence[torch.Tensor]) -> None:
        with self._lock:
            ended = [held for held in self._sources if held[0].query()]
            self._sources = [held for held in self._sources if held not in ended]
            self._sources.append((until, sources))

    def settle(self) -> None:
        """Wait for all copies, and let go of what they were made from."""
        with self._lock:
            held, self._sources = self._sources, []
        for event, _ in held:
            event.synchronize()


def moved(tensors: Sequence[torch.Tensor], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return the tensors on ``device``, all of their bytes there."""
    return tuple(tensor.to(device) for tensor in tensors)


def indexed(device: torch.device) -> torch.device:
    """Return the device with its index, as tensors on it say it: ``cuda`` is the current one of this thread."""
    if device == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    return device


def use_device(device: torch.device) -> None:
    """Have this thread work on ``device``: each one begins on the first GPU, whatever others have chosen, and what it
    allocates or pins there would open a second context."""
    if device.type == "cuda":
        torch.cuda.set_device(indexed(device))


def _memory_for(tensor: torch.Tensor, allocate: Allocate) -> torch.Tensor:
    return allocate(tensor.nbytes).view(tensor.dtype).reshape(tensor.shape)
