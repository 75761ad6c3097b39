"""In which order copies happen: everything here that waits for a device, or makes a device wait, is in this module.

A GPU does what it is told later, stream by stream. So bytes may be read on the host, and memory given back, only behind
an event: after the copies that concern them. On a CPU a call has happened when it returns, and there is nothing to do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch


class Event(Protocol):
    """A point in a stream; ``torch.cuda.Event`` is one."""

    def synchronize(self) -> None:
        """Wait, in the calling thread, until all before the point has happened."""

    def query(self) -> bool:
        """Say whether all before the point has happened."""


class _Happened:
    def synchronize(self) -> None:
        """Return at once."""

    def query(self) -> bool:
        return True


class Streams:
    """Order on a CPU, where all has happened when a call returns; :class:`LateStreams` has another."""

    is_late = False
    """Whether copies happen after the call that asks for them."""

    def mark(self) -> Event:
        """Return the point behind all that the calling thread has given its current stream."""
        return _Happened()

    @contextmanager
    def own(self, behind: Event) -> Iterator[None]:
        """Run a block on a stream of the calling thread's own, behind an event; when the block has ended, well or not,
        all that it asked for has happened."""
        yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run a block on the stream for copies to the host, behind what the calling thread's current stream was given.
        Nothing waits for it, unless the block fails: then all that it asked for has happened."""
        yield

    def hold(self, event: Event) -> None:
        """Have the current stream, not the calling thread, wait for an event."""

    def finish(self) -> None:
        """Wait, in the calling thread, until the current stream has done all that it was given."""


class LateStreams(Streams):
    """Order on a device that does things later. What such a device has is left to be filled in: ``new`` (a stream),
    ``on`` (a block on a stream), ``mark``, ``hold`` and ``finish``."""

    is_late = True

    def __init__(self) -> None:
        self._local = threading.local()
        self._aside = self.new()

    def new(self) -> Any:
        raise NotImplementedError

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        raise NotImplementedError

    @contextmanager
    def own(self, behind: Event) -> Iterator[None]:
        stream = getattr(self._local, "stream", None)
        if stream is None:
            stream = self._local.stream = self.new()
        with self.on(stream):
            self.hold(behind)
            try:
                yield
            finally:  # else memory and blocks would be given back while a copy may still read or write them
                self.mark().synchronize()

    @contextmanager
    def aside(self) -> Iterator[None]:
        behind = self.mark()
        with self.on(self._aside):
            self.hold(behind)
            try:
                yield
            except BaseException:
                self.mark().synchronize()
                raise


class CudaStreams(LateStreams):
    """Order on one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        super().__init__()

    def new(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)  # makes the stream's device the thread's, too

    def mark(self) -> Event:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def hold(self, event: Event) -> None:
        torch.cuda.current_stream(self._device).wait_event(event)  # type: ignore[arg-type]

    def finish(self) -> None:
        torch.cuda.current_stream(self._device).synchronize()


def sent(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring a host tensor to a device, without waiting for what the current stream has to do before."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def streams_of(device: torch.device) -> Streams:
    """Return the order of a device."""
    return CudaStreams(device) if device.type == "cuda" else Streams()


class Staging:
    """Device memory that copies to the host start from, of at most ``budget`` bytes at a time or of one piece.

    Used by one thread, on one stream: memory that is given back is handed out again in that stream's order.
    """

    def __init__(self, streams: Streams, device: torch.device, budget: int) -> None:
        self._streams = streams
        self._device = device
        self._budget = budget
        self._used: deque[tuple[torch.Tensor, Event]] = deque()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Uninitialised memory. Where the budget is used up, what the current stream does next waits for the oldest
        copies to have happened; the calling thread does not."""
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        while self._used and (self._used[0][1].query() or self._in_use() + nbytes > self._budget):
            _, copied = self._used.popleft()
            self._streams.hold(copied)
        return self._fresh(shape, dtype)

    def use(self, memory: torch.Tensor, copied: Event) -> None:
        """Keep memory from :meth:`take` until an event."""
        self._used.append((memory, copied))

    def _fresh(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _in_use(self) -> int:
        return sum(memory.nbytes for memory, _ in self._used)
