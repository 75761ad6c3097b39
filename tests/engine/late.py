"""A device that does everything as late as it may, on the CPU.

What touches the device's memory, or memory that it copies from and to, is put aside instead of done, stream by stream,
and done only when somebody waits for an event behind it (or when a test says so). Until then memory that is to be
written holds what it held, and results hold poison: whoever reads too early, or gives memory back too early, is caught
by what is in it in the end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from engine.vllm.streams import Event, LateStreams, Staging

POISON = -7777.0


class LateEvent:
    def __init__(self, device: LateDevice, stream: Stream) -> None:
        self._device = device
        self.stream = stream
        self.happened = False

    def synchronize(self) -> None:
        with self._device.lock:
            while not self.happened:
                self._device.do_next(self.stream)

    def query(self) -> bool:
        return self.happened


Stream = deque[Callable[[], None]]


class LateDevice(LateStreams):
    """Streams of a device whose memory is said by :meth:`owns`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.streams: list[Stream] = []
        self._current = threading.local()
        self._memory: list[torch.Tensor] = []
        self._staging: list[torch.Tensor] = []
        self.main = self.new()
        super().__init__()

    # -- memory ----------------------------------------------------------------------------------------------

    def owns(self, memory: torch.Tensor) -> None:
        """From now on operations on this memory are late."""
        self._memory.append(memory)  # keeps it: its address stands for it

    def is_late_memory(self, tensor: torch.Tensor) -> bool:
        pointer = tensor.untyped_storage().data_ptr()
        return any(memory.untyped_storage().data_ptr() == pointer for memory in self._memory)

    def staging(self, staging: Staging, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """In place of ``Staging._fresh``: memory that is given back is handed out again, as an allocator does."""
        used = {memory.untyped_storage().data_ptr() for memory, _ in staging._used}
        n = torch.Size(shape).numel()
        for memory in self._staging:
            if memory.untyped_storage().data_ptr() not in used and memory.numel() >= n and memory.dtype == dtype:
                return memory[:n].view(shape)
        memory = torch.full((n,), POISON, dtype=dtype)
        self._staging.append(memory)
        self.owns(memory)
        return memory.view(shape)

    # -- streams ---------------------------------------------------------------------------------------------

    def new(self) -> Stream:
        stream: Stream = deque()
        with self.lock:
            self.streams.append(stream)
        return stream

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before = getattr(self._current, "stream", self.main)
        self._current.stream = stream
        try:
            with _Late(self):
                yield
        finally:
            self._current.stream = before

    @property
    def current(self) -> Stream:
        stream: Stream = getattr(self._current, "stream", self.main)
        return stream

    def put(self, work: Callable[[], None]) -> None:
        with self.lock:
            self.current.append(work)

    def mark(self) -> Event:
        event = LateEvent(self, self.current)

        def happen() -> None:
            event.happened = True

        self.put(happen)
        return event

    def hold(self, event: Event) -> None:
        self.put(event.synchronize)

    def finish(self) -> None:
        self.mark().synchronize()

    def do_next(self, stream: Stream) -> None:
        """Do what is next in one stream, and what that waits for."""
        with self.lock, _disable_current_modes():
            if stream:
                stream[0]()
                stream.popleft()

    def do_all(self) -> None:
        for stream in self.streams:
            while stream:
                self.do_next(stream)


class _Late(TorchDispatchMode):
    """Puts operations on the device's memory aside, on the current stream."""

    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func.is_view or not any(self._device.is_late_memory(tensor) for tensor in tensors):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self._device.put(lambda: func(*args, **kwargs))
            return kwargs.get("out", args[0])
        result = func(*args, **kwargs)  # for its shape; what is in it, is seen later
        result.fill_(POISON)
        self._device.owns(result)
        self._device.put(lambda: result.copy_(func(*args, **kwargs)))
        return result
