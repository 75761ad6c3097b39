"""The memory store: plaintext cubes, messages, memories, search, jobs, keys."""

from memory.domain.adding import Said, new_message
from memory.domain.bundles import Attach, Attached, Loaded, Stored
from memory.domain.documents import Imported
from memory.domain.jobs import JobQueue
from memory.domain.keys import KeyStore
from memory.domain.lifecycle import Changed, Overlay, Page
from memory.domain.merging import AddOutcome
from memory.domain.proof import Proof
from memory.domain.retries import KeyedRequests
from memory.errors import (
    CompletionError,
    Conflict,
    CutOff,
    EmbedderError,
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
from memory.judge.model import JudgeLimits, ModelJudge
from memory.language.completion import EndpointCompleter
from memory.language.extract import Extractor, LocalExtractor, Unit
from memory.language.extract_model import ModelExtractor
from memory.search.api import Surroundings
from memory.search.calibration import AS_IT_IS, Calibration
from memory.search.embed import Embedder, EndpointEmbedder, FolderEmbedder, HashEmbedder, Role, WholeEmbedder
from memory.search.rerank import EndpointRerank
from memory.storage.base import Transaction
from memory.storage.ticket import Ticket
from memory.store import MemoryStore
from memory.types import (
    KINDS,
    Access,
    Change,
    Cube,
    Document,
    FeedbackAction,
    FeedbackOutcome,
    Grant,
    Group,
    Hit,
    Job,
    KeyInfo,
    Memory,
    MemoryKind,
    MemoryStatus,
    Message,
    Reply,
    Subject,
)

__all__ = [
    "AS_IT_IS",
    "KINDS",
    "Access",
    "AddOutcome",
    "Attach",
    "Attached",
    "Calibration",
    "Change",
    "Changed",
    "CompletionError",
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
    "JudgeLimits",
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
    "ModelJudge",
    "NotFound",
    "Overlay",
    "Page",
    "Proof",
    "Reply",
    "ReplyGone",
    "RerankError",
    "Role",
    "Said",
    "Stale",
    "StillRunning",
    "StorageFull",
    "StoreCorrupt",
    "Stored",
    "Subject",
    "Surroundings",
    "Ticket",
    "Transaction",
    "Unit",
    "UnreadableDocument",
    "WholeEmbedder",
    "new_message",
]
