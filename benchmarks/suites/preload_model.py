"""The replay of scenes with a model: time to first token under each policy.

Every policy has an engine and a segment store of its own over the same model and the same files, and each turn is asked
of all of them, one after the other in a changing order, so that what the machine does beside it befalls all alike. The
drive's cache in memory is emptied before each turn: host memory is what the budget says, no more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.data.scenes import TENANT, Scenes, Turn
from benchmarks.suites.preload import Clock, Contrary, Future, PolicyName, Row
from benchmarks.suites.ttft import drop_page_cache
from benchmarks.support.stats import quantile_ratio
from engine.base import ChatMessage, Fidelity, GenerateRequest, PageRequest, Sampling, Started
from engine.transformers import LoadedModel, TransformersEngine
from engine.transformers.cost import CostModel, calibrated
from kvcache import Entry, ModelView, TieredStore, list_folder
from memory import MemoryStore
from scheduler import Ask, Plan, Planner
from scheduler.prediction.foresight import Foresight, ForesightConfig
from scheduler.upkeep import Upkeep

_SAMPLING = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)


@dataclass(eq=False)
class _Lane:
    """One policy with its engine."""

    policy: PolicyName
    budget: int
    engine: TransformersEngine
    planner: Planner
    foresight: Foresight | None = None
    ttft_s: list[float] = field(default_factory=list)
    hits: int = 0
    asked: int = 0


async def build_pages(model: LoadedModel, folder: Path, scenes: Scenes, report: Callable[[str], None]) -> int:
    """Build every page of the scenes into ``folder``; their bytes in memory."""
    store = TieredStore(folder, fsync=False)
    engine = TransformersEngine(model, store, model_id="bench")
    try:
        pages = [(cube, plan) for cube in scenes.cubes for plan in cube.pages]
        for i, (cube, plan) in enumerate(pages):
            report(f"page {i + 1} of {len(pages)}")
            await engine.build_page(PageRequest(cube.header, plan.members, plan.lead, plan.context), TENANT)
        store.flush()
        return _bytes_of(store.catalogue.entries())
    finally:
        await engine.close()


def bytes_of(folder: Path) -> int:
    """Of all pages in a folder, in memory."""
    return _bytes_of(list_folder(folder))


def _bytes_of(entries: Iterable[Entry]) -> int:
    return sum(entry.nbytes for entry in entries if entry.kind == "standalone")


async def replay_model(
    model: LoadedModel,
    folder: Path,
    scenes: Scenes,
    memories: MemoryStore,
    lanes: list[tuple[PolicyName, int]],
    *,
    top_k: int,
    fidelity: Fidelity,
    config: ForesightConfig | None,
    report: Callable[[str], None],
) -> list[Row]:
    """A row for each policy and host budget. ``folder`` holds the pages that :func:`build_pages` made."""
    clock = Clock()
    cost = calibrated(model)
    async with AsyncExitStack() as stack:
        running = []
        for number, (policy, budget) in enumerate(lanes):
            lane = _lane(model, _copy(folder, number), memories, policy, budget, cost, config, clock)
            stack.push_async_callback(lane.engine.close)
            if lane.foresight is not None:
                stack.push_async_callback(lane.foresight.close)
            running.append(lane)
        future = Future(scenes, lambda turn: _needed(running[0].engine, scenes, turn))
        for lane in running:  # the first pass through a model is slower than those after it
            await _ask(lane, scenes.turns[0], top_k, fidelity, counted=False)
            lane.engine.store.demote("disk")
        for lane in running:
            if lane.policy == "resident":
                for entry in lane.engine.catalogue.entries():
                    await lane.engine.preload(entry.key)
        for i, turn in enumerate(scenes.turns):
            clock.now = turn.at
            report(f"turn {i + 1} of {len(scenes.turns)}")
            for lane in [*running[i % len(running) :], *running[: i % len(running)]]:
                await _prepare(lane, scenes, i, future)
                drop_page_cache(folder)
                plan, started = await _ask(lane, turn, top_k, fidelity)
                if lane.foresight is not None:
                    lane.foresight.observe(TENANT, (turn.cube_id,), plan, started, turn.text)
                    await lane.foresight.settled()
        plain = next((lane for lane in running if lane.policy == "lru"), None)
        return [_row(lane, plain) for lane in running]


def _copy(folder: Path, number: int) -> Path:
    """The same files once more, without copying what is in them: a store may have one user at a time."""
    target = folder.with_name(f"{folder.name}-{number}")
    for path in sorted(folder.rglob("*")):
        to = target / path.relative_to(folder)
        if path.is_dir():
            to.mkdir(parents=True, exist_ok=True)
        elif path.suffix == ".safetensors":
            to.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, to)
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    return target


def _lane(
    model: LoadedModel,
    folder: Path,
    memories: MemoryStore,
    policy: PolicyName,
    budget: int,
    cost: CostModel,
    config: ForesightConfig | None,
    clock: Clock,
) -> _Lane:
    host = {"none": 0, "resident": 1 << 40}.get(policy, budget)
    store = TieredStore(folder, device_bytes=0, host_bytes=host, fsync=False)
    engine = TransformersEngine(model, store, model_id="bench", cost=replace(cost, bandwidth=dict(cost.bandwidth)))
    stored = ModelView(store.catalogue, engine.fingerprint)
    lane = _Lane(policy, budget, engine, Planner(engine, stored, memories, sessions=True))
    if policy == "lfu":
        stored.rank_by(lambda entries: [float(entry.uses) for entry in entries])
    if policy in ("predictor", "adversary"):
        upkeep = Upkeep(engine, stored, memories)
        predictor = Contrary("blend") if policy == "adversary" else None
        lane.foresight = Foresight(engine, stored, memories, upkeep, config, clock=clock, predictor=predictor)
    return lane


def _needed(engine: TransformersEngine, scenes: Scenes, turn: Turn) -> list[Entry]:
    header = next(cube.header.token_ids for cube in scenes.cubes if cube.id == turn.cube_id)
    behind = ModelView(engine.catalogue, engine.fingerprint).behind(TENANT, header)
    pages = behind.holding([memory.label for memory in turn.found])
    found = {memory.label for memory in turn.found}
    return [page for page in pages if any(part.label in found for part in page.parts)]


async def _prepare(lane: _Lane, scenes: Scenes, i: int, future: Future) -> None:
    """Do what a policy does in the pause before a turn."""
    if lane.foresight is not None:
        lane.foresight.tick()
        await lane.foresight.settled()
    if lane.policy == "oracle":
        lane.engine.catalogue.ranker.use(future.worth(i))
        for entry in _needed(lane.engine, scenes, scenes.turns[i]):
            await lane.engine.preload(entry.key)


async def _ask(
    lane: _Lane, turn: Turn, top_k: int, fidelity: Fidelity, *, counted: bool = True
) -> tuple[Plan, Started]:
    """One turn, from the question to the first token."""
    begin = time.perf_counter()
    messages = (ChatMessage("user", turn.text),)
    plan = await lane.planner.plan(Ask(TENANT, (turn.cube_id,), messages, top_k=top_k, fidelity=fidelity))
    started: Started | None = None
    ttft_s = 0.0
    request = GenerateRequest("bench", plan.prompt, _SAMPLING, salt=TENANT, fidelity=fidelity)
    async for event in lane.engine.generate(request):
        if isinstance(event, Started):
            started, ttft_s = event, time.perf_counter() - begin
    assert started is not None, "every request starts"
    if counted:
        lane.ttft_s.append(ttft_s)
        sources = [started.pieces[p.piece].source for p in plan.memories if p.piece is not None]
        lane.asked += len(sources)
        lane.hits += sum(source in ("resident", "host") for source in sources)
    return plan, started


def _row(lane: _Lane, plain: _Lane | None) -> Row:
    done = lane.engine.catalogue.stats().preloads
    p50, p95, p99 = (round(float(np.percentile(lane.ttft_s, q)), 4) for q in (50, 95, 99))
    counts = lane.policy not in ("none", "lru", "lfu", "resident") and done.bytes > 0
    wasted = round(1 - done.used_bytes / done.bytes, 4) if counts else None
    hit_rate = round(lane.hits / max(1, lane.asked), 4)
    of_lru = [
        None if plain is None or plain is lane else quantile_ratio(lane.ttft_s, plain.ttft_s, q) for q in (0.5, 0.99)
    ]
    return Row(lane.policy, lane.budget, hit_rate, wasted, done.bytes, 0, p50, p95, p99, *of_lru)
