"""Who computes with how many CPU threads.

PyTorch's OpenMP gives every thread that computes a pool of workers of its own. Once all pools together have more
threads than there are CPUs, their workers no longer wait actively for what comes next but are put to sleep, and each
of the thousand small steps of a forward pass begins with waking them: on 2 cores, a pass of 64 tokens took 113 ms
instead of 63 beside one other pool, a single token 33 ms instead of 24. So there should be one pool, the engine's; a
pool is gone when its thread is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def in_passing(work: Callable[[], T], threads: int) -> T:
    """What ``work`` gives, done with ``threads`` in a thread that ends with it."""

    def run() -> T:
        compute_with(threads)
        return work()

    with ThreadPoolExecutor(1, thread_name_prefix="passing") as pool:
        return pool.submit(run).result()


def compute_with(threads: int) -> None:
    """This thread computes with so many from now on, whatever others say later."""
    torch.get_num_threads()  # a thread takes over the process's number when it first asks, over one that was set before
    torch.set_num_threads(threads)


def leave_to_engine() -> None:
    """From now on this thread, and those that begin to compute later, do so without a pool."""
    torch.set_num_threads(1)
