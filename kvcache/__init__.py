"""Keys and values as things: segments, their files, their tiers.

This package knows tensors and bytes, not memories or requests, and runs alone beside plain transformers.
"""

from kvcache.errors import (
    FingerprintMismatch,
    KVCacheError,
    SegmentCorrupt,
    SegmentMissing,
    StoreClosed,
    UnsupportedCache,
)
from kvcache.file import read_segment, write_segment
from kvcache.fingerprint import Fingerprint, Layout, layout_of
from kvcache.hf import cache_from_segments, segment_from_cache
from kvcache.index import Entry
from kvcache.segment import Segment, chain_key, root_key
from kvcache.store import Loaded, SegmentStore, StoreStats
from kvcache.tiers import TIERS, TierName
from kvcache.verify import BadFile, VerifyReport, list_folder, verify_folder

__all__ = [
    "TIERS",
    "BadFile",
    "Entry",
    "Fingerprint",
    "FingerprintMismatch",
    "KVCacheError",
    "Layout",
    "Loaded",
    "Segment",
    "SegmentCorrupt",
    "SegmentMissing",
    "SegmentStore",
    "StoreClosed",
    "StoreStats",
    "TierName",
    "UnsupportedCache",
    "VerifyReport",
    "cache_from_segments",
    "chain_key",
    "layout_of",
    "list_folder",
    "read_segment",
    "root_key",
    "segment_from_cache",
    "verify_folder",
    "write_segment",
]
