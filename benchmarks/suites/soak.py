"""A day of use, on the index alone: thousands of turns in hundreds of cubes, with what runs beside them.

Looked for: does memory grow with the turns, is the preloader's queue bounded, does anything wait for ever, has every
job ended, and does a run that was cut off go on where it was.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.scenes import TENANT, Cube, Scenes, Turn, pages_of
from benchmarks.data.text import sentence
from benchmarks.suites.preload import Clock, IndexEngine, total_bytes
from engine.base import ChatMessage, MemoryText, Piece, Prompt
from memory import HashEmbedder, Job, MemoryStore, Message, Said, new_message
from scheduler import Foresight, ForesightConfig, JobRunner, Upkeep
from scheduler.prediction.foresight import Scene
from scheduler.prediction.saved import read_state, write_state

_HEADER = tuple(range(1, 40))
_REMEMBER_EVERY = 10
_SAVE_EVERY = 250
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Size:
    """Of the day. ``share``: the host budget as a share of all pages."""

    cubes: int = 200
    turns: int = 10_000
    memories: int = 24
    share: float = 0.25
    seed: int = 0


def render(messages: list[ChatMessage], memories: list[MemoryText]) -> Prompt:
    """A prompt whose tokens are its bytes."""
    lines = [Piece("memory", tuple(f"- {m.text}\n".encode()), m.label, storable=True) for m in memories]
    return Prompt((Piece("header", _HEADER, storable=True), *lines, Piece("turns", (1,))))


def open_cubes(store: MemoryStore, size: Size) -> Scenes:
    """The day's cubes; those of an earlier run over the same store."""
    rng = random.Random(size.seed)
    known = {cube.name: cube.id for cube in store.cubes.all(TENANT)}
    cubes = []
    for number in range(size.cubes):
        texts = [sentence(rng) for _ in range(size.memories)]
        name = f"cube-{number}"
        if name not in known:
            known[name] = store.cubes.create(TENANT, name).id
            store.add_many(TENANT, known[name], texts)
        memories = tuple(store.list_memories(TENANT, known[name], limit=size.memories).items)
        pieces = render([], [MemoryText(memory.label, memory.text) for memory in memories]).pieces
        cubes.append(Cube(known[name], memories, pages_of(pieces[1:-1]), pieces[0]))
    return Scenes(tuple(cubes), ())


def arrivals(size: Size) -> list[tuple[float, int, int]]:
    """Time (seconds of the day), cube and memory of each turn: sessions of some turns, some cubes more often."""
    rng = random.Random(size.seed + 1)
    found: list[tuple[float, int, int]] = []
    while len(found) < size.turns:
        cube = min(int(rng.paretovariate(0.7)) - 1, size.cubes - 1) if rng.random() < 0.7 else rng.randrange(size.cubes)
        at, topic = rng.uniform(0, _DAY_S), rng.randrange(size.memories)
        for _ in range(rng.randint(3, 20)):
            found.append((at, cube, (topic + rng.choice((0, 0, 1, 2))) % size.memories))
            at += 5 + rng.expovariate(1 / 30)
    return sorted(found)[: size.turns]


async def live(folder: Path, size: Size, report: Callable[[str], None]) -> dict[str, Any]:
    """Live through the day, or through what is left of it."""
    store = MemoryStore(folder / "memories.sqlite", HashEmbedder())
    clock = Clock()
    scenes = open_cubes(store, size)
    engine = IndexEngine(scenes, int(size.share * total_bytes(scenes)), clock)
    foresight = Foresight(engine, engine, store, Upkeep(engine, engine, store), ForesightConfig(), clock=clock)
    jobs = JobRunner(store.jobs, {"messages": lambda job: _remember(store, job)})
    begin = time.perf_counter()
    try:
        day = _Day(folder, size, scenes, engine, foresight, store, jobs, clock)
        day.go_on()
        jobs.start()
        await day.run(report)
        await _ended(store, jobs)
        return {**day.result(), "seconds": round(time.perf_counter() - begin, 1)}
    finally:
        await foresight.close()
        await jobs.close()
        store.close()


async def _remember(store: MemoryStore, job: Job) -> None:
    messages = [Message(**fields) for fields in job.payload["messages"]]
    finish = store.jobs.finishing(job.id)
    await asyncio.to_thread(
        lambda: store.add_messages(
            job.tenant, job.payload["cube"], messages, Said(), finish=lambda db, done: finish(db, [])
        )
    )


async def _ended(store: MemoryStore, jobs: JobRunner) -> None:
    while any(store.jobs.counts().get(status, 0) for status in ("waiting", "running")):
        jobs.wake()
        await asyncio.sleep(0.02)


class _Day:
    """The turns, one after the other."""

    def __init__(
        self,
        folder: Path,
        size: Size,
        scenes: Scenes,
        engine: IndexEngine,
        foresight: Foresight,
        store: MemoryStore,
        jobs: JobRunner,
        clock: Clock,
    ) -> None:
        self._path = folder / "scheduler.json"
        self._size = size
        self._scenes = scenes
        self._engine = engine
        self._foresight = foresight
        self._store = store
        self._jobs = jobs
        self._clock = clock
        self._done = 0
        self._resumed_at = 0
        self._hits = self._asked = 0
        self._memory_mb: dict[int, float] = {}

    def go_on(self) -> None:
        """From what a run before this one has left."""
        state = read_state(self._path)
        if state is not None:
            self._foresight.restore(state["scheduler"])
            self._done = self._resumed_at = int(state["turns"])

    async def run(self, report: Callable[[str], None]) -> None:
        marks = {self._size.turns * share // 10 for share in (2, 4, 6, 8, 10)}
        for number, (at, cube, memory) in enumerate(arrivals(self._size)[self._done :], start=self._done + 1):
            await self._turn(number, at, self._scenes.cubes[cube], memory)
            self._done = number
            if number % _SAVE_EVERY == 0:
                write_state(self._path, {"turns": number, "scheduler": self._foresight.state()})
                report(f"turn {number} of {self._size.turns}")
            if number in marks:
                self._memory_mb[number] = resident_mb()

    async def _turn(self, number: int, at: float, cube: Cube, memory: int) -> None:
        self._clock.now = at
        text = cube.memories[memory].text
        hits = await asyncio.to_thread(lambda: self._store.search(TENANT, text, cube_ids=[cube.id], top_k=5))
        turn = Turn(at, cube.id, text, tuple(hit.memory for hit in hits))
        for entry in self._engine.needed(turn):
            self._asked += 1
            self._hits += self._engine.use(entry)
        self._foresight.see(Scene(TENANT, cube.id, _HEADER, tuple(m.id for m in turn.found), text, at))
        if number % _REMEMBER_EVERY == 0:
            said = asdict(new_message(f"In turn {number}: {text}", "user", at))
            payload = {"cube": cube.id, "messages": [said]}
            await asyncio.to_thread(self._store.jobs.put, TENANT, "messages", payload, f"job_{number}")
            self._jobs.wake()
        if number % 50 == 0:
            self._foresight.tick()
        await self._foresight.settled()

    def result(self) -> dict[str, Any]:
        scenes, preloader = self._foresight.stats()
        done = self._engine.preloads()
        return {
            "size": asdict(self._size),
            "resumed_at": self._resumed_at,
            "turns": self._done,
            "memory_mb": self._memory_mb,
            "most_queued": self._foresight.preloader.most_queued,
            "scenes": scenes.scenes,
            "scene_failures": scenes.failures,
            "preloader": asdict(preloader),
            "jobs": self._store.jobs.counts(),
            "hit_rate": round(self._hits / max(1, self._asked), 4),
            "wasted_share": round(1 - done.used_bytes / done.bytes, 4) if done.bytes else None,
            "report": self._foresight.report(),
        }


def resident_mb() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6, 1)
