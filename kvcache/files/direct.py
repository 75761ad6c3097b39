"""Reading from the drive past the system's page cache (Linux).

A file that is not in the page cache is read into fresh pages of it first and copied from there. On a virtual machine
whose host takes free memory back that costs several times what the drive takes (189 MB: 300 ms instead of 125, and 230
ms of a core instead of 17). What is read here has a cache of its own already, the tiers. A file that is in the page
cache is read from there, which is quicker still.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np

ALIGNMENT = 4096
"""Addresses in memory, places in the file and lengths are multiples of this (a drive may ask for less)."""
_PROBES = 32
_ENOUGH = 0.5


def open_direct(descriptor: int) -> int | None:
    """Open a second descriptor of the same file that reads past the page cache; None where there can be none, or where
    most of the file is in the page cache."""
    if not hasattr(os, "O_DIRECT") or _share_cached(descriptor) >= _ENOUGH:
        return None
    try:
        # Not by its path, which may be another file's by now.
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:  # no /proc, or a file system that cannot do it, such as one in memory
        return None


def read_direct(descriptor: int, view: memoryview, address: int, offset: int) -> tuple[int, int]:
    """Read what of the file's ``offset`` and on can be read directly into ``view``, which lies at ``address``: bytes at
    the beginning and at the end of it that are to be read otherwise, all of them (len(view), 0) where nothing can."""
    first = -offset % ALIGNMENT
    n = (len(view) - first) // ALIGNMENT * ALIGNMENT
    if (address + first) % ALIGNMENT or n <= 0:
        return len(view), 0
    done = 0
    while done < n:
        try:
            got = os.preadv(descriptor, [view[first + done : first + n]], offset + first + done)
        except OSError:  # a drive that wants it otherwise
            break
        done += got // ALIGNMENT * ALIGNMENT
        if got % ALIGNMENT or not got:  # the file's end
            break
    return first, len(view) - first - done


def _share_cached(descriptor: int) -> float:
    """Return the share of the file that is in the page cache, by looking at some of its pages; 1 where nobody knows."""
    size = os.fstat(descriptor).st_size
    pages = -(-size // mmap.PAGESIZE)
    try:
        mincore = ctypes.CDLL(None).mincore
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped:
            whole = np.frombuffer(mapped, dtype=np.uint8)
            begin, held = whole.ctypes.data, ctypes.c_ubyte()
            del whole  # it would keep the mapping open
            probes = sorted({pages * i // _PROBES for i in range(_PROBES)})
            cached = 0
            for page in probes:
                where = ctypes.c_void_p(begin + page * mmap.PAGESIZE)
                if mincore(where, ctypes.c_size_t(1), ctypes.byref(held)):
                    return 1.0
                cached += held.value & 1
    except (OSError, ValueError, AttributeError):
        return 1.0
    return cached / len(probes)
