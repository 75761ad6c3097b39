"""Host memory that serves one segment after another.

Memory that a process gives back comes to it as fresh pages the next time, and the first write to each page costs more
than reading the page from a fast drive: on a virtual machine whose host takes free memory back, ten times more.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch

_GRAIN = 64 << 10
# A block may be larger by this than what is put into it.
_SLACK = 1.25


class Recycler:
    """Blocks of memory that come back by themselves when the last tensor in them is gone; at most ``budget`` bytes are
    kept unused, those that came back first are let go first. Thread-safe."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._spare: list[np.ndarray] = []
        # Reentrant: taking the lock may run the collector, and that a block's end, in the same thread.
        self._lock = threading.RLock()

    @property
    def spare_bytes(self) -> int:
        """Bytes that are kept and not in use."""
        with self._lock:
            return sum(block.nbytes for block in self._spare)

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Give uninitialised memory, uint8 [nbytes]."""
        block = self._fitting(nbytes)
        if block is None:
            block = torch.empty(-(-nbytes // _GRAIN) * _GRAIN, dtype=torch.uint8).numpy()
        taken = block[:nbytes]  # the tensor's storage holds on to this very object
        weakref.finalize(taken, self._give_back, block).atexit = False
        return torch.from_numpy(taken)

    def _fitting(self, nbytes: int) -> np.ndarray | None:
        with self._lock:
            fitting = [block for block in self._spare if nbytes <= block.nbytes <= nbytes * _SLACK + _GRAIN]
            if not fitting:
                return None
            best = min(fitting, key=lambda block: block.nbytes)
            # By identity, since the list may have changed: see the lock.
            self._spare = [block for block in self._spare if block is not best]
            return best

    def _give_back(self, block: np.ndarray) -> None:
        with self._lock:
            self._spare.append(block)
            while self._spare and self.spare_bytes > self._budget:
                del self._spare[0]
