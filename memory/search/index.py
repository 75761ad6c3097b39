"""The search index: entries in storage, and the vectors of each cube in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memory.language.names import names_in
from memory.search.calibration import Calibration
from memory.search.embed import Embedder
from memory.search.embedding import Embeddings
from memory.search.graph_files import GraphFiles
from memory.search.scripts import ScriptWatch
from memory.search.vectors import CubeIndex
from memory.storage.access import find_cube
from memory.storage.base import Storage, Transaction
from memory.types import Memory, Vector

log = logging.getLogger(__name__)

_BATCH = 256


@dataclass(frozen=True)
class IndexChange:
    """A memory that was made findable (or, without a vector, no longer is) in a transaction, for the vectors in memory
    once that is kept."""

    cube_id: str
    number: int
    vector: Vector | None


class SearchIndex:
    """The search entries of all cubes. The vectors in memory follow what is kept on disk."""

    def __init__(self, storage: Storage, embedder: Embedder, folder: Path) -> None:
        """Use ``folder`` for the graphs of large cubes."""
        self.embeddings = Embeddings(embedder, folder / "calibration.json")
        self.erasures = 0
        """Counts erasures of text: what was read before one is not to be written after it."""
        self._storage = storage
        self._cubes: dict[str, CubeIndex] = {}
        self._files = GraphFiles(folder)
        self._scripts = ScriptWatch()

    def cube(self, cube_id: str) -> CubeIndex:
        """Return the cube's vectors in memory; read, and embedded again where another embedder made them, at first
        use."""
        calibration = self.embeddings.calibration
        with self._storage.read() as tx:
            index = self._cubes.get(cube_id)
            if index is not None:
                return index
            self._embed_missing(tx, cube_id)
            index = self._files.load(tx, cube_id, self.embeddings.name, calibration)
            index = index or _read(tx, cube_id, calibration)
            self._cubes[cube_id] = index
            if calibration.english:
                self._scripts.look(tx, cube_id)
            return index

    def _embed_missing(self, tx: Transaction, cube_id: str) -> None:
        name = self.embeddings.name
        missing = tx.vectors.missing(cube_id, name)
        if missing:
            log.info("embedding %d memories anew: the embedder has changed", len(missing))
        for begin in range(0, len(missing), _BATCH):
            batch = missing[begin : begin + _BATCH]
            fresh = self.embeddings.in_context([item.text for item in batch], [item.before for item in batch])
            with self._storage.write() as writable:
                for item, vector in zip(batch, fresh, strict=True):
                    writable.vectors.put(item.number, name, vector)

    # -- vectors of single memories --------------------------------------------------------------------------

    def vector_in_place(self, tx: Transaction, memory: Memory) -> Vector:
        """Return a memory's vector, with what was said before it. In a transaction, everybody waits for it: let
        ``embed_ahead`` come first."""
        return self.embeddings.in_context([memory.text], [tx.memories.texts_before(memory)])[0]

    def embed_ahead(self, memory: Memory) -> None:
        """Embed what ``vector_in_place`` will need, outside of a transaction: there it is then remembered, but for
        texts that were changed in between. Raises ``EmbedderError``."""
        with self._storage.read() as tx:
            before = tx.memories.texts_before(memory)
        self.embeddings.of([memory.text, *before])

    # -- writing ---------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[tuple[Transaction, list[IndexChange]]]:
        """Begin a transaction, with a list for what it makes findable or not. The vectors in memory are brought up to
        that before anybody else reads or writes: of two changes, the later one is what a search finds."""
        changed: list[IndexChange] = []
        with self._storage.read():
            with self._storage.write() as tx:
                yield tx, changed
            self._settle(changed)

    def add(
        self, tx: Transaction, number: int, memory: Memory, vector: Vector, context: str | None = None
    ) -> IndexChange:
        """Make a memory findable. ``context`` is what was said just before (None: to be looked up)."""
        said_before = tx.sources.context(memory.id) if context is None else context
        _add_words(tx, number, memory, said_before)
        tx.vectors.put(number, self.embeddings.name, vector)
        return IndexChange(memory.cube_id, number, vector)

    @staticmethod
    def remove(tx: Transaction, number: int, cube_id: str) -> IndexChange:
        """Make a memory unfindable."""
        tx.texts.remove(number)
        tx.vectors.remove(number)
        tx.names.unlink(number)
        return IndexChange(cube_id, number, None)

    def _settle(self, changed: Iterable[IndexChange]) -> None:
        """Bring the vectors in memory up to what was just kept on disk."""
        puts: dict[str, dict[int, Vector]] = {}
        for item in changed:
            index = self._cubes.get(item.cube_id)
            if index is None:
                continue
            if item.vector is None:
                puts.get(item.cube_id, {}).pop(item.number, None)
                index.remove(item.number)
            else:
                puts.setdefault(item.cube_id, {})[item.number] = item.vector
        with self._storage.read() as tx:
            for cube_id, vectors in puts.items():
                there = tx.vectors.known(vectors)  # what was deleted since it was kept stays out
                self._cubes[cube_id].put([(number, vectors[number]) for number in there])
                self._scripts.added(tx, cube_id, len(there))

    # -- upkeep ----------------------------------------------------------------------------------------------

    def rebuild(self, tenant: str, cube_id: str) -> int:
        """Rebuild a cube's full text, vectors and names from its memories; return how many there are. Raises
        ``NotFound``, ``EmbedderError``."""
        cube = find_cube(self._storage, tenant, cube_id)
        with self._storage.write() as tx:
            active = tx.lists.active(cube.id)
            for item in active:
                self.remove(tx, item.number, cube.id)
                _add_words(tx, item.number, item.memory, tx.sources.context(item.memory.id))
            self.forget(cube.id)
        self.cube(cube.id)
        return len(active)

    def forget(self, cube_id: str) -> None:
        """Invalidate a cube's vectors in memory: they are read again at next use."""
        with self._storage.read():
            self._cubes.pop(cube_id, None)
            self._files.drop(cube_id)

    def drop_files(self, cube_ids: Iterable[str]) -> None:
        """Remove the graphs of cubes from disk: they hold what is to be forgotten."""
        for cube_id in cube_ids:
            self._files.drop(cube_id)

    def overwrite_deleted(self) -> None:
        """Overwrite what was removed, wherever it is still held."""
        self._storage.overwrite_deleted()
        self.embeddings.forget()

    def close(self) -> None:
        """Save the graphs of large cubes."""
        with self._storage.read():
            for cube_id, index in self._cubes.items():
                if index.graph is not None:
                    self._files.save(cube_id, index.graph, self.embeddings.name, index.graph.dim)
            self._cubes.clear()


def _read(tx: Transaction, cube_id: str, calibration: Calibration) -> CubeIndex:
    index = CubeIndex(calibration=calibration)
    for batch in tx.vectors.of_cube(cube_id):
        index.put(batch)
    return index


def _add_words(tx: Transaction, number: int, memory: Memory, context: str) -> None:
    """Let a memory be found without its vector: by words and names."""
    tx.texts.add(number, memory, context)
    tx.names.link(memory.cube_id, number, names_in(memory.said))
