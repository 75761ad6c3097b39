"""The side store: plaintext memories in cubes, with hybrid search."""

from __future__ import annotations

from pathlib import Path

from memory.domain.adding import IntakeMethods
from memory.domain.bundles import BundleMethods
from memory.domain.cubes import CubeMethods
from memory.domain.documents import DocumentMethods
from memory.domain.erasing import DAY_S
from memory.domain.feedback import FeedbackMethods
from memory.domain.jobs import JobQueue
from memory.domain.keys import KeyStore
from memory.domain.lifecycle import KeepingMethods
from memory.domain.retries import KeyedRequests
from memory.search.api import Rerank, SearchMethods
from memory.search.embed import Embedder


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
