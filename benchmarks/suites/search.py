"""How search grows with the number of memories: latency, memory, build time, agreement with an exact scan.

Texts are seeded sentences; vectors are seeded too (clustered, 384 numbers), because embedding a million texts takes an
hour and says nothing of search. What embedding a query costs is measured with the real embedder, and shown beside it,
as is adding messages with it. Searches run on one core.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.data.text import sentence
from memory import AS_IT_IS, Calibration, Embedder, MemoryStore, Role, Said, new_message

_TENANT = "bench"
_BATCH = 2_000
_QUERIES = 100
# A shared machine is slow for seconds at a time: the questions are asked several times over.
_ROUNDS = 5
_TOPICS = 2_000
_CONVERSATION = 20
Vectors = npt.NDArray[np.float32]


class SeededEmbedder:
    """Clustered vectors that depend on the text alone: a topic by its hash, and noise. Not a model."""

    def __init__(self, dim: int = 384) -> None:
        self._dim = dim
        self._topics = np.random.default_rng(0).standard_normal((_TOPICS, dim)).astype(np.float32)

    @property
    def name(self) -> str:
        return f"seeded-{self._dim}"

    @property
    def prompts(self) -> Mapping[Role, str]:
        return {}

    @property
    def calibration(self) -> Calibration | None:
        return AS_IT_IS

    def embed(self, texts: Sequence[str], role: Role = "passage") -> Vectors:
        vectors = np.empty((len(texts), self._dim), dtype=np.float32)
        for i, text in enumerate(texts):
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
            rng = np.random.default_rng(seed)
            vectors[i] = self._topics[seed % _TOPICS] + 1.2 * rng.standard_normal(self._dim, dtype=np.float32)
        norms: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / norms


def measure(
    folder: Path, sizes: Sequence[int], embedder: Embedder, add: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """A row for each size, in one growing cube; then ``add`` messages to a cube of its own, with the real embedder."""
    rows = []
    store = MemoryStore(folder / "scale.sqlite", SeededEmbedder())
    cube = store.default_cube(_TENANT).id
    rng = random.Random(1)
    n = 0
    before = _resident()
    for size in sorted(sizes):
        begin = time.perf_counter()
        while n < size:
            batch = min(_BATCH, size - n)
            store.add_many(_TENANT, cube, [_text(rng, n + i) for i in range(batch)])
            n += batch
        store.search(_TENANT, "warm", cube_ids=[cube])
        built = time.perf_counter() - begin
        row = _row(store, cube, size, embedder) | {
            "build_s": round(built, 2),
            "memory_mb": round((_resident() - before) / 1e6, 1),
            "file_mb": round((folder / "scale.sqlite").stat().st_size / 1e6, 1),
        }
        rows.append(row)
        say(f"{size:>9,}: search p50 {row['search_ms']['p50']} ms, built in {row['build_s']} s")
    begin = time.perf_counter()
    store.close()
    closed = time.perf_counter()
    store = MemoryStore(folder / "scale.sqlite", SeededEmbedder())
    store.search(_TENANT, "warm", cube_ids=[cube])
    reopen = {"close_s": round(closed - begin, 3), "first_search_s": round(time.perf_counter() - closed, 3)}
    store.close()
    return {"rows": rows, "restart": reopen, "adding": _adding(folder, embedder, add, say)}


def _text(rng: random.Random, number: int) -> str:
    return f"{sentence(rng)} Receipt {number}."


def _row(store: MemoryStore, cube: str, size: int, embedder: Embedder) -> dict[str, Any]:
    rng = random.Random(2)
    queries = [" ".join(sentence(rng).split()[:8]) for _ in range(_QUERIES)]
    search, embed = [], []
    with _one_core():
        for query in queries * _ROUNDS:
            begin = time.perf_counter()
            embedder.embed([query])
            embed.append(time.perf_counter() - begin)
            store.embed([query])
            begin = time.perf_counter()
            store.search(_TENANT, query, cube_ids=[cube], top_k=10)
            search.append(time.perf_counter() - begin)
    times = np.array(search) * 1e3
    return {
        "n": size,
        "search_ms": {"p50": round(float(np.median(times)), 3), "p99": round(float(np.percentile(times, 99)), 3)},
        "embed_query_ms": round(float(np.median(embed)) * 1e3, 3),
        "vector_recall@10": _agreement(store, cube, queries),
    }


def _agreement(store: MemoryStore, cube: str, queries: Sequence[str]) -> float:
    """Share of the ten nearest vectors by an exact scan of the rows that the index finds."""
    with store.storage.read() as tx:
        index = store.index.cube(cube)
        wanted = np.stack(store.embed(list(queries)))
        best: list[list[tuple[float, int]]] = [[] for _ in queries]
        for chunk in tx.vectors.of_cube(cube):
            numbers = np.array([number for number, _ in chunk])
            matrix = np.stack([vector for _, vector in chunk])
            for i, cosines in enumerate(wanted @ matrix.T):
                top = np.argsort(-cosines)[:10]
                both = best[i] + [(float(cosines[j]), int(numbers[j])) for j in top]
                best[i] = sorted(both, reverse=True)[:10]
        shared = [
            len({row for _, row in exact} & {row for row, _ in index.nearest(query, 10, -1.0)}) / max(1, len(exact))
            for exact, query in zip(best, wanted, strict=True)
        ]
    return round(float(np.mean(shared)), 4)


def _adding(folder: Path, embedder: Embedder, n: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Messages a second through extraction, embedding, merging and the disk, in conversations and one by one."""
    store = MemoryStore(folder / "adding.sqlite", embedder)
    rng = random.Random(3)

    def added(cube: str, count: int, at_once: int) -> float:
        id = store.cubes.create(_TENANT, cube).id
        texts = [_text(rng, i) for i in range(count)]
        begin = time.perf_counter()
        for i in range(0, count, at_once):
            messages = [new_message(text, "user", 1.7e9 + i) for text in texts[i : i + at_once]]
            store.add_messages(_TENANT, id, messages, Said(session=f"s{i // _CONVERSATION}"))
        return round(count / (time.perf_counter() - begin), 1)

    result = {
        "messages": n,
        "conversations_of_20_per_s": added("conversations", n, _CONVERSATION),
        "one_by_one_per_s": added("single", max(1, n // 10), 1),
        "memories": store.count(_TENANT),
    }
    store.close()
    say(f"adding: {result['conversations_of_20_per_s']} messages a second")
    return result


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


@contextmanager
def _one_core() -> Iterator[None]:
    import torch

    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
