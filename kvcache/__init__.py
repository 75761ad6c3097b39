"""Keys and values as things: segments, their files, their tiers.

This package knows tensors and bytes, not memories or requests, and runs alone beside plain transformers.
"""

from kvcache.catalogue import Catalogue
from kvcache.codecs import CODECS, Codec, CodecName
from kvcache.config import StoreConfig
from kvcache.entry import Entry
from kvcache.errors import (
    FingerprintMismatch,
    IndexUnwritable,
    KVCacheError,
    NoRoom,
    ReadInterrupted,
    SegmentCorrupt,
    SegmentMissing,
    StoreClosed,
    UnsupportedCache,
    UnsupportedRotation,
)
from kvcache.exchange import Exchange, SegmentFile
from kvcache.files.check import BadFile, VerifyReport, list_folder, verify_folder
from kvcache.files.quarantine import list_quarantine
from kvcache.files.reader import read_segment
from kvcache.files.writer import write_segment
from kvcache.fingerprint import Fingerprint, Layout, layout_of
from kvcache.hf import cache_from_segments, segment_from_cache
from kvcache.ledger import PreloadStats
from kvcache.opening import open_store
from kvcache.ranking import Worth
from kvcache.repair import STRATEGIES, Composed, Repair, StrategyName
from kvcache.rotary import Rotation, rotation_of
from kvcache.segment import Certificate, Lead, Part, Segment, chain_key, cut_parts, page_root, root_key, standalone_root
from kvcache.stats import ModelShare, StoreStats, shares
from kvcache.store import Loaded, TieredStore
from kvcache.tiers import TIERS, Holder, MemoryTierName, Rank, Tier, TierName
from kvcache.view import ModelView, Prefix, SegmentView

__all__ = [
    "CODECS",
    "STRATEGIES",
    "TIERS",
    "BadFile",
    "Catalogue",
    "Certificate",
    "Codec",
    "CodecName",
    "Composed",
    "Entry",
    "Exchange",
    "Fingerprint",
    "FingerprintMismatch",
    "Holder",
    "IndexUnwritable",
    "KVCacheError",
    "Layout",
    "Lead",
    "Loaded",
    "MemoryTierName",
    "ModelShare",
    "ModelView",
    "NoRoom",
    "Part",
    "Prefix",
    "PreloadStats",
    "Rank",
    "ReadInterrupted",
    "Repair",
    "Rotation",
    "Segment",
    "SegmentCorrupt",
    "SegmentFile",
    "SegmentMissing",
    "SegmentView",
    "StoreClosed",
    "StoreConfig",
    "StoreStats",
    "StrategyName",
    "Tier",
    "TierName",
    "TieredStore",
    "UnsupportedCache",
    "UnsupportedRotation",
    "VerifyReport",
    "Worth",
    "cache_from_segments",
    "chain_key",
    "cut_parts",
    "layout_of",
    "list_folder",
    "list_quarantine",
    "open_store",
    "page_root",
    "read_segment",
    "root_key",
    "rotation_of",
    "segment_from_cache",
    "shares",
    "standalone_root",
    "verify_folder",
    "write_segment",
]
