"""The side store: plaintext memories in cubes, with hybrid search."""

from __future__ import annotations

from pathlib import Path

from memory.bundle import BundleMethods
from memory.cubes import CubeMethods
from memory.documents import DocumentMethods
from memory.embed import Embedder
from memory.erasing import DAY_S
from memory.feedback import FeedbackMethods
from memory.finding import Rerank, SearchMethods
from memory.intake import IntakeMethods
from memory.jobs import JobQueue
from memory.keeping import KeepingMethods
from memory.keys import KeyStore
from memory.retries import KeyedRequests


class MemoryStore(
    FeedbackMethods, CubeMethods, IntakeMethods, DocumentMethods, BundleMethods, KeepingMethods, SearchMethods
):
    """Memories of all tenants in one SQLite file."""

    def __init__(
        self, path: Path, embedder: Embedder, *, undelete_s: float = DAY_S, rerank: Rerank | None = None
    ) -> None:
        super().__init__(path, embedder)
        self.undelete_s = undelete_s
        self.rerank = rerank
        self.keys = KeyStore(self._database)
        self.jobs = JobQueue(self._database)
        self.keyed = KeyedRequests(self._database)
