"""Errors of the segment store.

KVCacheError
├── SegmentCorrupt       a file is truncated, altered or absurd; it goes to quarantine
├── FingerprintMismatch  a segment of another model, tokenizer, template or dtype
├── SegmentMissing       nothing is stored under that key (evicted, deleted or never built)
├── NoRoom               the disk's budget has no room for a file
├── IndexUnwritable      the index beside the files takes no row, on a full disk say
├── ReadInterrupted      whoever wanted a segment read has more urgent things to do
├── UnsupportedCache     a cache whose layers are not plain attention over all tokens
├── UnsupportedRotation  a model whose keys cannot be moved to other positions
└── StoreClosed          the store has been closed
"""

from __future__ import annotations


class KVCacheError(Exception):
    """Base of everything this package raises on purpose."""


class SegmentCorrupt(KVCacheError):
    """A segment file is truncated, altered or absurd."""


class FingerprintMismatch(KVCacheError):
    """A segment's numbers belong to another model, tokenizer, chat template or dtype."""


class SegmentMissing(KVCacheError):
    """Nothing is stored under that key."""


class NoRoom(KVCacheError):
    """The disk's budget has no room for a file, or for nothing that is worth less."""


class IndexUnwritable(KVCacheError):
    """The index beside the files takes no row, on a full disk say. What it said before stays."""


class ReadInterrupted(KVCacheError):
    """Reading a segment was given up half way because its reader was told to."""


class UnsupportedCache(KVCacheError):
    """A cache whose layers are not plain attention over all tokens."""


class UnsupportedRotation(KVCacheError):
    """A model whose keys cannot be moved to other positions."""


class StoreClosed(KVCacheError):
    """The store has been closed."""
