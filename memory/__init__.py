"""The plaintext side store: cubes, messages, memories, search, jobs, keys."""

from memory.bundle import Attach, Attached, Loaded, Stored
from memory.cubes import Grant, Group
from memory.database import Ticket
from memory.documents import Document, Imported
from memory.embed import Embedder, EndpointEmbedder, FolderEmbedder, HashEmbedder, WholeEmbedder
from memory.erasing import Subject
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
from memory.extract import Extractor, LocalExtractor, Unit
from memory.extract_model import EndpointCompleter, ModelExtractor
from memory.feedback import FeedbackAction, FeedbackOutcome
from memory.finding import Surroundings
from memory.intake import Said, new_message
from memory.jobs import Job, JobQueue
from memory.keeping import Changed, Overlay, Page
from memory.keys import KeyInfo, KeyStore
from memory.placing import Placed
from memory.proof import Proof
from memory.rerank import EndpointRerank
from memory.retries import KeyedRequests, Reply
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
