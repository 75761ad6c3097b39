"""The groups of a storage backend that propose candidates for a search: by words, by vectors, by names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from memory.storage.conditions import Condition
from memory.storage.records import Candidate, Former, Unembedded
from memory.types import Memory, Vector


class Texts(Protocol):
    """Candidates by words. What is added is found; archived memories that have expired only with ``past``."""

    def add(self, number: int, memory: Memory, context: str) -> None:
        """Let a memory be found by its words, and, with less weight, by the words before it (``context``)."""
        ...

    def remove(self, number: int) -> None:
        """Let a memory no longer be found by words."""
        ...

    def retire(self, number: int, cube_id: str) -> None:
        """Let a memory be found with ``past`` only."""
        ...

    def scores(
        self, query: str, cube_ids: Sequence[str], depth: int, *, in_cubes: int | None = None, past: bool = False
    ) -> dict[int, float]:
        """Return about the best ``depth`` memories that hold words of the query, with a score above 0 by the words'
        rarity (bm25 or alike), in a bounded time. ``in_cubes`` is how many memories the cubes have, where that is
        known; some of other cubes may be among them, and are the caller's to leave out."""
        ...


class Vectors(Protocol):
    """Vectors of active memories, as they are kept (float16 is enough), each with its embedder's name."""

    def put(self, number: int, embedder: str, vector: Vector) -> None:
        """Write a memory's vector, in the place of one that there was."""
        ...

    def remove(self, number: int) -> None:
        """Remove a memory's vector."""
        ...

    def of_cube(self, cube_id: str) -> Iterator[list[tuple[int, Vector]]]:
        """Return vectors of a cube's active memories by number, in batches."""
        ...

    def by_memory(self, cube_id: str) -> dict[str, Vector]:
        """Return vectors of a cube's active memories, by the memories' ids."""
        ...

    def of(self, numbers: Iterable[int]) -> Iterator[tuple[int, Vector]]:
        """Return the vectors of these memories."""
        ...

    def known(self, numbers: Collection[int]) -> list[int]:
        """Return those of these memories that have a vector."""
        ...

    def numbers(self, cube_id: str) -> list[int]:
        """Return the numbers of a cube's active memories."""
        ...

    def written_since(self, cube_id: str, at: float) -> set[int]:
        """Return the active memories of a cube whose vectors were written at this time or later."""
        ...

    def missing(self, cube_id: str, embedder: str) -> list[Unembedded]:
        """Return a cube's active memories without a vector of this embedder, in order."""
        ...

    def expired(self, cube_ids: Sequence[str], at: float, dim: int, limit: int) -> dict[int, Vector]:
        """Return vectors of ``dim`` numbers of memories that held at this time and have expired since, the first to
        expire first."""
        ...


class NearestVectors(Protocol):
    """The vectors of one cube, as a search asks for them. ``memory.search.vectors`` holds them in memory, read from
    ``Vectors``; a backend that finds neighbours itself has its own."""

    def __len__(self) -> int: ...

    def nearest(self, query: Vector, n: int) -> list[tuple[int, float]]:
        """Return up to ``n`` memories with their cosine, best first, without those that are unrelated."""
        ...

    def cosines(self, query: Vector, rows: Sequence[int]) -> dict[int, float]:
        """Return the cosine of each of these memories that has a vector."""
        ...

    def scaled(self, query: Vector, cosine: float) -> float:
        """Return a cosine with ``query`` on the scale that ``nearest`` and ``cosines`` have."""
        ...

    def between(self, vectors: Vector) -> Vector:
        """Return the cosines of vectors [n, dim] to each other, float32 [n, n], on that scale."""
        ...

    def vectors_of(self, rows: Sequence[int]) -> dict[int, Vector]:
        """Return the vectors of those of these memories that have one, about as exact as 8 bits a number are."""
        ...


class Names(Protocol):
    """Names that memories mention: what mentions the same one is near."""

    def link(self, cube_id: str, number: int, names: Iterable[str]) -> None:
        """Say which names a memory mentions."""
        ...

    def unlink(self, number: int) -> None:
        """Forget what a memory mentions, and names that nothing else mentions."""
        ...

    def known(self, cube_ids: Sequence[str], names: Collection[str]) -> list[int]:
        """Return the numbers of those of these names that memories of the cubes mention."""
        ...

    def of_memories(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of the names that memories mention."""
        ...

    def mentions(self, names: Sequence[int], limit: int) -> list[list[int]]:
        """Return for each name the memories that mention it; none for one that more than ``limit`` mention."""
        ...


class Candidates(Protocol):
    """The candidates of a search, with what is known of them. ``past``: also archived memories that have expired."""

    def matching(self, cube_ids: Sequence[str], condition: Condition, limit: int, *, past: bool) -> list[int]:
        """Return up to ``limit`` active memories of the cubes that meet a condition."""
        ...

    def of(
        self, numbers: Collection[int], cube_ids: Sequence[str], at: float, condition: Condition, *, past: bool
    ) -> list[Candidate]:
        """Return those of these memories that are active, of the cubes, not expired at this time, and meet a
        condition."""
        ...

    def former(self, cube_ids: Sequence[str], at: float, condition: Condition, limit: int) -> list[Former]:
        """Return up to ``limit`` memories of the cubes that held until another took their place, the latest first:
        archived, not expired at this time, with a slot or an end of their time (what was corrected has neither, since
        it never held), and meeting a condition."""
        ...

    def authors(self, cube_id: str) -> set[str]:
        """Return the names of up to 200 authors of a cube."""
        ...

    def memories(self, numbers: Collection[int]) -> dict[int, Memory]:
        """Return memories by number."""
        ...

    def numbers(self, cube_id: str, memory_ids: Sequence[str]) -> list[int]:
        """Return the numbers of a cube's memories."""
        ...

    def labels(self, cube_id: str, numbers: Collection[int]) -> list[tuple[int, str, str]]:
        """Return number, id and label of those of these memories of a cube that are live."""
        ...
