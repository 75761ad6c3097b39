"""The plaintext side store: cubes, messages, memories, search, jobs, keys."""

from memory.cubes import Grant, Group
from memory.embed import Embedder, EndpointEmbedder, FolderEmbedder, HashEmbedder
from memory.errors import (
    Conflict,
    EmbedderError,
    Forbidden,
    InvalidMemory,
    MemoryStoreError,
    NotFound,
    StorageFull,
    StoreCorrupt,
)
from memory.extract import Extractor, LocalExtractor, Unit
from memory.intake import Said, new_message
from memory.jobs import Job, JobQueue
from memory.keeping import Page
from memory.keys import KeyInfo, KeyStore
from memory.placing import Placed
from memory.proof import Proof
from memory.store import MemoryStore
from memory.types import KINDS, Access, Change, Cube, Hit, Memory, MemoryKind, MemoryStatus, Message

__all__ = [
    "KINDS",
    "Access",
    "Change",
    "Conflict",
    "Cube",
    "Embedder",
    "EmbedderError",
    "EndpointEmbedder",
    "Extractor",
    "FolderEmbedder",
    "Forbidden",
    "Grant",
    "Group",
    "HashEmbedder",
    "Hit",
    "InvalidMemory",
    "Job",
    "JobQueue",
    "KeyInfo",
    "KeyStore",
    "LocalExtractor",
    "Memory",
    "MemoryKind",
    "MemoryStatus",
    "MemoryStore",
    "MemoryStoreError",
    "Message",
    "NotFound",
    "Page",
    "Placed",
    "Proof",
    "Said",
    "StorageFull",
    "StoreCorrupt",
    "Unit",
    "new_message",
]
