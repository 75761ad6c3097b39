"""The plaintext side store: cubes, messages, memories, search, jobs, keys."""

from memory.domain.adding import Said, new_message
from memory.domain.bundles import Attach, Attached, Loaded, Stored
from memory.domain.cubes import Grant, Group
from memory.domain.documents import Document, Imported
from memory.domain.erasing import Subject
from memory.domain.feedback import FeedbackAction, FeedbackOutcome
from memory.domain.jobs import Job, JobQueue
from memory.domain.keys import KeyInfo, KeyStore
from memory.domain.lifecycle import Changed, Overlay, Page
from memory.domain.merging import Placed
from memory.domain.proof import Proof
from memory.domain.retries import KeyedRequests, Reply
from memory.errors import (
    Conflict,
    CutOff,
    EmbedderError,
    ExtractorError,
    Forbidden,
    InvalidMemory,
    JobEnded,
    KeyReused,
    MemoryStoreError,
    NotFound,
    ReplyGone,
    RerankError,
    Stale,
    StillRunning,
    StorageFull,
    StoreCorrupt,
    UnreadableDocument,
)
from memory.language.extract import Extractor, LocalExtractor, Unit
from memory.language.extract_model import EndpointCompleter, ModelExtractor
from memory.search.api import Surroundings
from memory.search.embed import Embedder, EndpointEmbedder, FolderEmbedder, HashEmbedder, WholeEmbedder
from memory.search.rerank import EndpointRerank
from memory.storage.sqlite.database import Ticket
from memory.store import MemoryStore
from memory.types import KINDS, Access, Change, Cube, Hit, Memory, MemoryKind, MemoryStatus, Message

__all__ = [
    "KINDS",
    "Access",
    "Attach",
    "Attached",
    "Change",
    "Changed",
    "Conflict",
    "Cube",
    "CutOff",
    "Document",
    "Embedder",
    "EmbedderError",
    "EndpointCompleter",
    "EndpointEmbedder",
    "EndpointRerank",
    "Extractor",
    "ExtractorError",
    "FeedbackAction",
    "FeedbackOutcome",
    "FolderEmbedder",
    "Forbidden",
    "Grant",
    "Group",
    "HashEmbedder",
    "Hit",
    "Imported",
    "InvalidMemory",
    "Job",
    "JobEnded",
    "JobQueue",
    "KeyInfo",
    "KeyReused",
    "KeyStore",
    "KeyedRequests",
    "Loaded",
    "LocalExtractor",
    "Memory",
    "MemoryKind",
    "MemoryStatus",
    "MemoryStore",
    "MemoryStoreError",
    "Message",
    "ModelExtractor",
    "NotFound",
    "Overlay",
    "Page",
    "Placed",
    "Proof",
    "Reply",
    "ReplyGone",
    "RerankError",
    "Said",
    "Stale",
    "StillRunning",
    "StorageFull",
    "StoreCorrupt",
    "Stored",
    "Subject",
    "Surroundings",
    "Ticket",
    "Unit",
    "UnreadableDocument",
    "WholeEmbedder",
    "new_message",
]
