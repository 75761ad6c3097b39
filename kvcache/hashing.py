"""The hash behind keys, fingerprints and checksums: BLAKE3, which hashes as fast as drives read.

Where the package ``blake3`` is not installed it is BLAKE2b from the standard library, several times slower. Keys and
fingerprints are others then, so nothing stored with the one hash is ever found with the other; a file says in its
header which one it was written with.
"""

from __future__ import annotations

from typing import Any

try:
    from blake3 import blake3 as _blake3
except ImportError:  # a bare machine, to measure on
    _blake3 = None  # type: ignore[assignment, misc]

from hashlib import blake2b

NAME = "blake2b" if _blake3 is None else "blake3"
NAMES = ("blake3", "blake2b")


def hasher(*, threads: bool = False) -> Any:
    """Make an object with ``update`` and ``hexdigest`` (64 digits). ``threads``: large updates may use all cores."""
    if _blake3 is None:
        return blake2b(digest_size=32)
    return _blake3(max_threads=_blake3.AUTO) if threads else _blake3()


def digest(data: bytes) -> str:
    """Return the hash of ``data``, 64 hexadecimal digits."""
    found = hasher()
    found.update(data)
    return str(found.hexdigest())
