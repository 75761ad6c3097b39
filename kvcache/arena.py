"""Host memory for segments that is reserved, and touched or pinned, once.

Fresh memory is slow: the first write to each page costs more than reading the page from a fast drive, and pinning
costs more still. So the memory of the host tier is one block, from which segments get their place. PyTorch's own pinned
memory is rounded up to a power of two (20 GB would pin 32 GiB); a block here is as large as was asked for.
"""

from __future__ import annotations

import logging
import mmap
import threading
import weakref
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from kvcache.copies import fresh_memory, use_device
from kvcache.segment import Segment

log = logging.getLogger(__name__)

_ALIGNMENT = 4096


def pinned_block(nbytes: int) -> torch.Tensor:
    """Give host memory that a GPU copies from and to directly, uint8 [nbytes], pinned for as long as a tensor lies in
    it, and not a page more than that. Where the driver does not pin it, it is ordinary memory, and the log says so:
    copies are slower then, and right. Raises ``OSError`` where there is not so much memory.

    Takes a quarter of a second per GiB or more, in one call: not for a thread that others wait for.
    """
    if not nbytes:
        return fresh_memory(0)
    memory = np.frombuffer(mmap.mmap(-1, nbytes), dtype=np.uint8)
    address, device = memory.ctypes.data, torch.device("cuda", torch.cuda.current_device())
    try:
        # In a thread that ends: a refusal stays behind as the thread's last error, for the next kernel to fall over.
        with ThreadPoolExecutor(1, "pinning", use_device, (device,)) as thread:
            thread.submit(_register, address, nbytes).result()
    except RuntimeError as error:
        log.warning("%d bytes of host memory could not be pinned, copies will be slower: %s", nbytes, error)
    else:
        # Before the memory is unmapped: it goes with the array.
        weakref.finalize(memory, _unregister, address).atexit = False
    return torch.from_numpy(memory)


def _register(address: int, nbytes: int) -> None:
    """Pin memory. Raises ``RuntimeError`` where the driver refuses."""
    portable = 1  # pinned for every device of the process
    error = int(torch.cuda.cudart().cudaHostRegister(address, nbytes, portable))  # type: ignore[no-untyped-call]
    if error:
        raise RuntimeError(f"cudaHostRegister gave error {error}")


def _unregister(address: int) -> None:
    error = int(torch.cuda.cudart().cudaHostUnregister(address))  # type: ignore[no-untyped-call]
    if error:
        log.error("%#x could not be unpinned: cudaHostUnregister gave error %d", address, error)


class Arena:
    """First fit over one block of ``nbytes``. Not thread-safe."""

    def __init__(self, nbytes: int, *, pin: bool = False) -> None:
        nbytes = nbytes // _ALIGNMENT * _ALIGNMENT
        self._memory = pinned_block(nbytes) if pin else fresh_memory(nbytes)
        self._free = [(0, self._memory.numel())] if self._memory.numel() else []

    @property
    def nbytes(self) -> int:
        return self._memory.numel()

    def owns(self, memory: torch.Tensor) -> bool:
        """Say whether ``memory`` was taken from here."""
        return memory.untyped_storage().data_ptr() == self._memory.untyped_storage().data_ptr()

    def touch(self) -> None:
        """Write to every page of what is free."""
        for begin, end in self._free:
            self._memory[begin:end:_ALIGNMENT].zero_()

    def take(self, nbytes: int) -> torch.Tensor | None:
        """Give uninitialised bytes, uint8 [nbytes]; None where no gap is large enough."""
        size = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        for i, (begin, end) in enumerate(self._free):
            if end - begin >= size:
                self._free[i : i + 1] = [(begin + size, end)] if end - begin > size else []
                return self._memory[begin : begin + nbytes]
        return None

    def give_back(self, taken: torch.Tensor) -> None:
        """Take back what :meth:`take` gave."""
        begin = int(taken.storage_offset())
        gaps = sorted([*self._free, (begin, begin + -(-taken.numel() // _ALIGNMENT) * _ALIGNMENT)])
        merged: list[tuple[int, int]] = []
        for gap in gaps:
            if merged and merged[-1][1] == gap[0]:
                merged[-1] = (merged[-1][0], gap[1])
            else:
                merged.append(gap)
        self._free = merged


class PinnedMemory:
    """Pinned host memory in pieces that come back by themselves when the last tensor in them is gone. Thread-safe.

    The block is reserved once, in a thread of its own that is started here; who asks for memory before waits for it.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._lock = threading.Lock()
        self._returned: deque[torch.Tensor] = deque()  # may be appended to at any moment, by the garbage collector
        self._arena = Arena(0)
        self._reserving = threading.Thread(target=self._reserve, args=(nbytes, device), name="pinning", daemon=True)
        self._reserving.start()

    def _reserve(self, nbytes: int, device: torch.device) -> None:
        use_device(device)
        try:
            self._arena = Arena(nbytes, pin=True)
        except OSError as error:
            log.warning("there are no %d bytes of host memory to be pinned: %s", nbytes, error.strerror)

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Give uninitialised memory, uint8 [nbytes]; ordinary memory where no gap of the block is large enough."""
        self._reserving.join()
        with self._lock:
            while self._returned:
                self._arena.give_back(self._returned.popleft())
            taken = self._arena.take(nbytes)
        if taken is None:
            return fresh_memory(nbytes)
        piece = taken.numpy()  # the storage of the tensor that is handed out holds on to this very object
        weakref.finalize(piece, self._returned.append, taken).atexit = False
        return torch.from_numpy(piece)


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
        """Give memory for a segment, uint8 [nbytes]: from the arena, where need be by dropping what was least recently
        used; fresh memory where that is not enough."""
        with self._lock:
            while (taken := self._arena.take(nbytes)) is None:
                if nbytes > self._arena.nbytes or not self._drop_oldest():
                    return torch.empty(nbytes, dtype=torch.uint8)
            return taken

    def discard(self, memory: torch.Tensor) -> None:
        """Take back memory from :meth:`allocate` that was not put to use."""
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
        """Return the segment, not to be dropped before :meth:`release`; None where it is not held."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            held.users += 1
            self._held.move_to_end(key)
            return held.segment

    def release(self, segment: Segment) -> None:
        """End one use of a segment from :meth:`put` or :meth:`acquire`."""
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
