"""Host memory for segments that is reserved, and touched or pinned, once.

Fresh memory is slow: the first write to each page costs more than reading the page from a fast drive, and pinning
costs more still. So the memory of the host tier is one block, from which segments get their place.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch

from kvcache.segment import Segment

_ALIGNMENT = 4096


class Arena:
    """First fit over one block of ``nbytes``. Not thread-safe."""

    def __init__(self, nbytes: int, *, pin: bool = False) -> None:
        self._memory = torch.empty(nbytes // _ALIGNMENT * _ALIGNMENT, dtype=torch.uint8, pin_memory=pin)
        self._free = [(0, self._memory.numel())] if self._memory.numel() else []

    @property
    def nbytes(self) -> int:
        return self._memory.numel()

    def owns(self, memory: torch.Tensor) -> bool:
        """Whether ``memory`` was taken from here."""
        return memory.untyped_storage().data_ptr() == self._memory.untyped_storage().data_ptr()

    def touch(self) -> None:
        """Write to every page of what is free."""
        for begin, end in self._free:
            self._memory[begin:end:_ALIGNMENT].zero_()

    def take(self, nbytes: int) -> torch.Tensor | None:
        """Uninitialised bytes, uint8 [nbytes]; None where no gap is large enough."""
        size = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        for i, (begin, end) in enumerate(self._free):
            if end - begin >= size:
                self._free[i : i + 1] = [(begin + size, end)] if end - begin > size else []
                return self._memory[begin : begin + nbytes]
        return None

    def give_back(self, taken: torch.Tensor) -> None:
        """The opposite of :meth:`take`."""
        begin = int(taken.storage_offset())
        gaps = sorted([*self._free, (begin, begin + -(-taken.numel() // _ALIGNMENT) * _ALIGNMENT)])
        merged: list[tuple[int, int]] = []
        for gap in gaps:
            if merged and merged[-1][1] == gap[0]:
                merged[-1] = (merged[-1][0], gap[1])
            else:
                merged.append(gap)
        self._free = merged


@dataclass(eq=False)
class _Held:
    segment: Segment
    memory: torch.Tensor
    users: int = 0


class HostTier:
    """Segments in an arena of ``budget`` bytes; the least recently used leave first. Thread-safe."""

    def __init__(self, budget: int, *, pin: bool = False) -> None:
        self._arena = Arena(budget, pin=pin)
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._strays: list[_Held] = []  # dropped while in use
        self._lock = threading.Lock()
        self.nbytes = 0

    def touch(self) -> None:
        """Write to every page once. Before the first use only, and not beside a running model: it takes the machine's
        memory for itself."""
        with self._lock:
            self._arena.touch()

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Memory for a segment, uint8 [nbytes]: from the arena, where need be by dropping what was least recently
        used; fresh memory where that is not enough."""
        with self._lock:
            while (taken := self._arena.take(nbytes)) is None:
                if nbytes > self._arena.nbytes or not self._drop_oldest():
                    return torch.empty(nbytes, dtype=torch.uint8)
            return taken

    def discard(self, memory: torch.Tensor) -> None:
        """Memory from :meth:`allocate` that was not put to use."""
        with self._lock:
            self._release(memory)

    def put(self, segment: Segment, memory: torch.Tensor) -> None:
        """Keep a segment whose tensors lie in ``memory``, and count one use of it (see :meth:`release`)."""
        with self._lock:
            old = self._held.pop(segment.key, None)
            if old is not None:
                self._let_go(old)
            self._held[segment.key] = _Held(segment, memory, users=1)
            self.nbytes += segment.nbytes
            if not self._arena.owns(memory):  # too large for the tier: gone with its last user
                self._drop(segment.key)

    def acquire(self, key: str) -> Segment | None:
        """The segment, not to be dropped before :meth:`release`; None where it is not held."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            held.users += 1
            self._held.move_to_end(key)
            return held.segment

    def release(self, segment: Segment) -> None:
        """One use of a segment from :meth:`put` or :meth:`acquire` has ended."""
        with self._lock:
            held = self._held.get(segment.key)
            if held is not None and held.segment is segment:
                held.users -= 1
                return
            for stray in self._strays:
                if stray.segment is segment:
                    stray.users -= 1
                    if stray.users == 0:
                        self._strays.remove(stray)
                        self._release(stray.memory)
                    return

    def drop(self, key: str) -> None:
        """Forget a segment; its memory is free once nobody uses it."""
        with self._lock:
            if key in self._held:
                self._drop(key)

    def clear(self) -> None:
        """Forget all segments."""
        with self._lock:
            for key in list(self._held):
                self._drop(key)

    def _drop_oldest(self) -> bool:
        key = next((key for key, held in self._held.items() if held.users == 0), None)
        if key is not None:
            self._drop(key)
        return key is not None

    def _drop(self, key: str) -> None:
        self._let_go(self._held.pop(key))

    def _let_go(self, held: _Held) -> None:
        self.nbytes -= held.segment.nbytes
        if held.users:
            self._strays.append(held)
        else:
            self._release(held.memory)

    def _release(self, memory: torch.Tensor) -> None:
        if self._arena.owns(memory):
            self._arena.give_back(memory)
