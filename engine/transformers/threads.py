"""Who computes with how many CPU threads.

PyTorch's OpenMP gives every thread that computes a pool of workers of its own. Once all pools together have more
threads than there are CPUs, their workers no longer wait actively for what comes next but are put to sleep, and each
of the thousand small steps of a forward pass begins with waking them: on 2 cores, a pass of 64 tokens took 113 ms
instead of 63 beside one other pool, a single token 33 ms instead of 24. So there should be one pool, the engine's; a
pool is gone when its thread is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

T = TypeVar("T")

_PROBE_ROWS, _PROBE_WIDTH, _PROBE_LAYERS, _PROBE_ROUNDS = 16, 1024, 60, 5


def run_on_short_lived_thread(work: Callable[[], T], threads: int) -> T:
    """Do ``work`` with ``threads`` CPU threads in a thread that ends with it; returns what it gives."""

    def run() -> T:
        set_thread_count(threads)
        return work()

    with ThreadPoolExecutor(1, thread_name_prefix="short-lived") as pool:
        return pool.submit(run).result()


def set_thread_count(threads: int) -> None:
    """Have this thread compute with ``threads`` threads from now on, whatever others say later."""
    torch.get_num_threads()  # a thread takes over the process's number when it first asks, over one that was set before
    torch.set_num_threads(threads)


def use_one_thread() -> None:
    """Have this thread, and those that begin to compute later, do so without a pool from now on."""
    torch.set_num_threads(1)


def times_as_quick(threads: int) -> float:
    """Measure how many times as quick as one thread ``threads`` are just now, on linear layers as of a small model.

    Below 1 they are slower: another process computes, say, and each layer ends when its last thread has ended.
    """
    rows, weights = torch.randn(_PROBE_ROWS, _PROBE_WIDTH), torch.randn(_PROBE_WIDTH, _PROBE_WIDTH)

    def seconds(n: int) -> float:
        torch.set_num_threads(n)
        begin = time.perf_counter()
        for _ in range(_PROBE_LAYERS):
            rows @ weights
        return time.perf_counter() - begin

    def measure() -> float:
        seconds(threads), seconds(1)  # the first passes prepare the library's kernels
        pairs = [(seconds(1), seconds(threads)) for _ in range(_PROBE_ROUNDS)]
        return median(one for one, _ in pairs) / median(many for _, many in pairs)

    return run_on_short_lived_thread(measure, threads)


def others_running(least: int = 1, root: Path = Path("/")) -> int | None:
    """Count the threads of other processes that run or wait for a core just now, on all cores; None where the kernel
    does not tell.

    Threads of this process do not count: after a parallel region they spin for some milliseconds. To tell them apart
    takes a file per thread, so that is done from ``least`` on only: smaller results are upper bounds.
    """
    match _text(root / "proc/loadavg").split():
        case [_, _, _, counts, *_] if counts.partition("/")[0].isdigit():
            running = max(1, int(counts.partition("/")[0]))
            return running - 1 if running - 1 < least else max(0, running - _own_running(root))
    return None


def _own_running(root: Path) -> int:
    """Count this process's threads that run or wait for a core; the calling one is among them."""
    try:
        tasks = list((root / "proc/self/task").iterdir())
    except OSError:
        return 1
    # The state follows the name, which is in parentheses and may hold anything. A thread that has ended has no file.
    return max(1, sum(_text(task / "stat").rpartition(")")[2].split()[:1] == ["R"] for task in tasks))


def usable_threads(root: Path = Path("/")) -> int:
    """Give the number of threads to compute with: PyTorch's own choice (``OMP_NUM_THREADS``, else all cores), at most
    one per core that this process may run on, and at most its control groups' CPU quota, rounded down.

    Threads beyond a quota are stopped in the middle of a parallel region, and the others wait for them.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([torch.get_num_threads(), affinity, *(math.floor(cores) for cores in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Read the CPU quotas in cores of this process's control group and those above it, of version 1 and 2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:
            folder = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            folder = root / "sys/fs/cgroup" / controllers
        else:
            continue
        group = folder / name.strip("/")
        # In a container the group's path may be the host's; the folder itself is then the container's own group.
        for place in (group, *group.parents):
            yield from _quota(place)
            if place == folder:
                break


def _quota(group: Path) -> Iterator[float]:
    limit = _text(group / "cpu.max") or f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
    match limit.split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period) > 0:
            yield int(quota) / int(period)


def _text(file: Path) -> str:
    """Read a small file's text; empty where it cannot be read: not every system has control groups."""
    try:
        return file.read_text()
    except OSError:
        return ""
