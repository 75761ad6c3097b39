"""The memory store: its parts, put together over one storage backend."""

from __future__ import annotations

from pathlib import Path

from memory.domain.adding import Adding
from memory.domain.bundles import Bundles
from memory.domain.cubes import CubeStore
from memory.domain.discretion import Discretion
from memory.domain.documents import DocumentStore
from memory.domain.erasing import DAY_S, Erasing
from memory.domain.feedback import FeedbackStore
from memory.domain.jobs import JobQueue
from memory.domain.judging import Judging
from memory.domain.keys import KeyStore
from memory.domain.lifecycle import Lifecycle
from memory.domain.retries import KeyedRequests
from memory.judge.base import Judge
from memory.search.api import MemorySearch, Rerank
from memory.search.embed import Embedder
from memory.search.index import SearchIndex
from memory.storage.opening import open_storage


class MemoryStore:
    """Memories of all tenants in one SQLite file. Every method is bound to the tenant it is given: another tenant's id
    is ``NotFound``. May be called from any thread; blocks while it works.

    Each part can be had, tested and replaced alone; the verbs that everybody needs stand on the store as well.
    """

    def __init__(
        self,
        path: Path,
        embedder: Embedder,
        *,
        undelete_s: float = DAY_S,
        rerank: Rerank | None = None,
        judge: Judge | None = None,
        discretion: Discretion | None = None,
    ) -> None:
        """Open the file, or make it. ``judge`` decides what new statements mean for older ones; None: the local one.
        Raises ``StoreCorrupt``."""
        self.storage = open_storage(path)
        self.index = SearchIndex(self.storage, embedder, path.with_suffix(".vectors"))
        self.cubes = CubeStore(self.storage, self.index)
        discretion = discretion or Discretion()
        self.judging = Judging(self.storage, self.index, judge)
        self.erasing = Erasing(self.storage, self.index, undelete_s)
        self.adding = Adding(self.storage, self.index, self.erasing, self.judging, discretion)
        self.searching = MemorySearch(self.storage, self.index, rerank)
        self.lifecycle = Lifecycle(self.storage, self.index, self.erasing, discretion)
        self.documents = DocumentStore(self.storage, self.index, self.erasing, discretion)
        self.bundles = Bundles(self.storage, self.index)
        self.feedback = FeedbackStore(self.storage, self.index, self.adding, self.searching, self.erasing)
        self.keys = KeyStore(self.storage)
        self.jobs = JobQueue(self.storage)
        self.keyed = KeyedRequests(self.storage)

        self.cube = self.cubes.get
        self.default_cube = self.cubes.default
        self.add = self.adding.add
        self.add_noted = self.adding.add_noted
        self.add_many = self.adding.add_many
        self.add_messages = self.adding.add_messages
        self.search = self.searching.search
        self.around = self.searching.around
        self.embed = self.searching.embed
        self.get = self.lifecycle.get
        self.list_memories = self.lifecycle.list_memories
        self.standing = self.lifecycle.standing
        self.update = self.lifecycle.update
        self.change = self.lifecycle.change
        self.delete = self.lifecycle.delete
        self.undelete = self.lifecycle.undelete
        self.forget = self.erasing.forget
        self.history = self.lifecycle.history
        self.sources = self.lifecycle.sources
        self.messages = self.lifecycle.messages
        self.count = self.lifecycle.count
        self.labels_of = self.lifecycle.labels_of
        self.active_labels = self.lifecycle.active_labels

    @property
    def undelete_s(self) -> float:
        """The time in which a deleted memory can be brought back, in seconds."""
        return self.erasing.undelete_s

    def check(self) -> None:
        """Verify the whole file. Raises ``StoreCorrupt`` when its structure is damaged."""
        self.storage.check()

    def close(self) -> None:
        """Save the graphs of large cubes, and close the file."""
        self.index.close()
        self.storage.close()
