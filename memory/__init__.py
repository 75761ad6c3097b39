"""The plaintext side store: cubes, memories, search, keys."""

from memory.embed import Embedder, EndpointEmbedder, FolderEmbedder, HashEmbedder
from memory.errors import (
    Conflict,
    EmbedderError,
    InvalidMemory,
    MemoryStoreError,
    NotFound,
    StorageFull,
    StoreCorrupt,
)
from memory.keys import KeyInfo, KeyStore
from memory.store import MemoryStore, Page
from memory.types import KINDS, Cube, Hit, Memory, MemoryKind, MemoryStatus

__all__ = [
    "KINDS",
    "Conflict",
    "Cube",
    "Embedder",
    "EmbedderError",
    "EndpointEmbedder",
    "FolderEmbedder",
    "HashEmbedder",
    "Hit",
    "InvalidMemory",
    "KeyInfo",
    "KeyStore",
    "Memory",
    "MemoryKind",
    "MemoryStatus",
    "MemoryStore",
    "MemoryStoreError",
    "NotFound",
    "Page",
    "StorageFull",
    "StoreCorrupt",
]
