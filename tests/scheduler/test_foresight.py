"""Prediction and preloading behind real requests, on a tiny model."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine.base import Started
from engine.config import CompositionConfig
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import ModelView, TieredStore
from memory import HashEmbedder, MemoryStore
from scheduler import Foresight, ForesightConfig, Plan, Planner, PreloadConfig, Upkeep
from scheduler.prediction.foresight import Scene
from tests.scheduler.test_planner import T
from tests.scheduler.test_upkeep import Clock, Kept

PETS = [f"My dog number {i} is called Rex and sleeps in basket {i} beside the stove" for i in range(12)]
WORK = [f"The invoice {i} of the office is due on day {i} and goes to the accountant" for i in range(12)]


class Foreseen(Kept):
    """A room whose memory tiers hold nothing but what is brought up, and whose turns are foreseen."""

    def __init__(self, model: LoadedModel, folder: Path, config: ForesightConfig | None = None) -> None:
        composing = CompositionConfig(max_kl=float("inf"), min_saved_tokens=0)
        store = TieredStore(folder / "segments", device_bytes=0, host_bytes=1 << 30, fsync=False)
        self.engine = TransformersEngine(model, store, model_id="tiny", composing=composing)
        self.stored = ModelView(store.catalogue, self.engine.fingerprint)
        self.memories = MemoryStore(folder / "m.sqlite", HashEmbedder())
        self.cube = self.memories.default_cube(T).id
        self.planner = Planner(self.engine, self.stored, self.memories, sessions=True)
        self.clock = Clock()
        self.clock.now = 1e9
        self.upkeep = Upkeep(self.engine, self.stored, self.memories, clock=self.clock)
        self.foresight = Foresight(
            self.engine,
            self.stored,
            self.memories,
            self.upkeep,
            config or ForesightConfig(preload=PreloadConfig(min_probability=0.2)),
            clock=self.clock,
        )

    async def turn(self, *ids: str, text: str = "Rex the dog") -> tuple[Plan, Started]:
        self.clock.now += 20
        plan, started = await self.ask(*ids)
        self.foresight.observe(T, [self.cube], plan, started, text)
        await self.upkeep.settled()
        await self.foresight.settled()
        return plan, started

    def in_host(self) -> set[str]:
        """Memories with a page in host memory."""
        found = set()
        for entry in self.engine.catalogue.entries():
            if entry.kind == "standalone" and self.engine.catalogue.tier_of(entry.key) == "host":
                found |= {(part.label or "").partition("@")[0] for part in entry.parts}
        return found


def foresee(
    model: LoadedModel,
    folder: Path,
    test: Callable[[Foreseen], Awaitable[None]],
    config: ForesightConfig | None = None,
) -> None:
    async def run() -> None:
        room = Foreseen(model, folder, config)
        try:
            await test(room)
        finally:
            await room.foresight.close()
            await room.upkeep.close()
            await room.engine.close()
            room.memories.close()

    asyncio.run(run())


def test_what_a_conversation_is_about_is_brought_up_before_it_is_asked_for(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        pets, work = room.add(*PETS), room.add(*WORK)
        for ids in (pets[:3], work[:3]):
            await room.turn(*ids)
        room.engine.store.demote("disk")
        assert not room.in_host()
        await room.turn(*pets[:2], text="the dog Rex sleeps in a basket beside the stove")
        assert set(pets[:3]) <= room.in_host()
        preloads = room.engine.catalogue.stats().preloads
        assert preloads.bytes > 0
        _, started = await room.turn(*pets[:2])  # the same chain again
        assert [(report.source, report.fidelity) for report in started.pieces[1:-1]] == [("host", "exact")] * 2
        report = room.foresight.report()
        assert report["scenes"] == 4
        assert room.foresight.stats()[0].failures == 0

    foresee(model, tmp_path, test)


def test_likely_memories_get_a_page_before_they_were_ever_used(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = room.add(*PETS[:4])
        await room.turn(ids[0], text=PETS[2])
        await room.upkeep.settled()
        await room.turn(ids[0], text=PETS[2])
        assert ids[2] in room.in_host() | {
            (part.label or "").partition("@")[0] for entry in room.engine.catalogue.entries() for part in entry.parts
        }

    foresee(model, tmp_path, test)


def test_hints_and_typing_bring_up(model: LoadedModel, tmp_path: Path) -> None:
    config = ForesightConfig(preload=PreloadConfig(min_probability=0.6))

    async def test(room: Foreseen) -> None:
        pets, work = room.add(*PETS), room.add(*WORK)
        await room.turn(*pets[:3], text="unrelated words only")
        await room.turn(*work[:3], text="unrelated words only")
        room.engine.store.demote("disk")
        assert await room.foresight.hint(T, room.cube, WORK[0]) > 0
        await room.foresight.settled()
        assert work[0] in room.in_host()
        room.engine.store.demote("disk")
        assert await room.foresight.typing(T, room.cube, PETS[0][:40], 3) > 0
        await room.foresight.settled()
        assert room.in_host() & set(pets)

    foresee(model, tmp_path, test, config)


def test_a_deleted_memory_is_expected_no_more(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = room.add(*PETS[:3])
        await room.turn(*ids)
        gone = room.memories.delete(T, ids[0])
        await room.engine.forget([gone.label])
        room.foresight.tick()
        await room.turn(*ids[1:])
        assert ids[0] not in room.in_host()

    foresee(model, tmp_path, test)


def test_a_deleted_cube_is_no_failure(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        room.foresight.see(Scene(T, "cube_gone", None, (), "hello", 1.0))
        await room.foresight.settled()
        assert room.foresight.stats()[0].failures == 0

    foresee(model, tmp_path, test)


def test_a_conversation_that_paused_gives_way(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = room.add(*PETS[:3])
        for _ in range(4):
            await room.turn(*ids)
        entries = [entry for entry in room.engine.catalogue.entries() if entry.kind == "standalone"]
        at_once = room.foresight.ranking.worth(entries)
        room.clock.now += 7 * 86_400
        assert max(room.foresight.ranking.worth(entries)) < 0.3 * max(at_once)

    foresee(model, tmp_path, test)


def test_a_restart_goes_on_where_it_was(model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    kept: dict[str, object] = {}

    async def before(room: Foreseen) -> None:
        room.foresight.start(path)
        pets = room.add(*PETS)
        for _ in range(3):
            await room.turn(*pets[:3])
        kept.update(pets=pets[:3], likely=room.foresight.likely(T, room.cube), at=room.clock.now)

    async def after(room: Foreseen) -> None:
        room.clock.now = kept["at"]  # type: ignore[assignment]
        assert not room.in_host()
        room.foresight.start(path)
        await asyncio.sleep(0.05)
        await room.foresight.settled()
        assert set(kept["pets"]) <= room.in_host()  # type: ignore[call-overload]
        assert room.foresight.likely(T, room.cube) == pytest.approx(kept["likely"], abs=1e-3)

    foresee(model, tmp_path, before)
    state = json.loads(path.read_text())
    assert not any(text[:20] in path.read_text() for text in PETS)  # ids and numbers only
    assert path.stat().st_mode & 0o777 == 0o600
    foresee(model, tmp_path, after)
    path.write_text(json.dumps(replace_cubes(state)))
    foresee(model, tmp_path, lambda room: started(room, path))
    path.write_text("{")
    foresee(model, tmp_path, lambda room: started(room, path))


def replace_cubes(state: dict[str, object]) -> dict[str, object]:
    return {**state, "cubes": [{"tenant": 3}]}


async def started(room: Foreseen, path: Path) -> None:
    """What cannot be read is left aside."""
    room.foresight.start(path)
    await asyncio.sleep(0.01)
    assert room.foresight.likely(T, room.cube) == {}


def test_too_many_turns_at_once_are_counted(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        for i in range(400):
            room.foresight.see(Scene(T, room.cube, None, (), f"turn {i}", float(i)))
        await room.foresight.settled()
        scenes, _ = room.foresight.stats()
        assert scenes.dropped > 0
        assert scenes.dropped + scenes.scenes == 400

    foresee(model, tmp_path, test)


def test_text_mode_teaches_nothing(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = room.add(*PETS[:3])
        plan, started_ = await room.ask(*ids)
        room.foresight.observe(T, [room.cube], replace(plan, mode="text"), started_, "hello")
        await room.foresight.settled()
        assert room.foresight.stats()[0].scenes == 0

    foresee(model, tmp_path, test)


def test_an_edited_memory_gets_its_page_again(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = room.add(*PETS[:3])
        for _ in range(3):
            await room.turn(*ids)
        old, new = room.memories.get(T, ids[0]), room.memories.update(T, ids[0], text="My dog is called Max now")
        await room.engine.forget([old.label])
        assert new.label != old.label
        await room.turn(*ids[1:])  # it was used often, whatever it said
        await room.upkeep.settled()
        pages = [entry for entry in room.engine.catalogue.entries() if entry.kind == "standalone"]
        assert new.label in {part.label for entry in pages for part in entry.parts}

    foresee(model, tmp_path, test)


def test_predictions_of_a_conversation_that_ended_are_settled(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = room.add(*PETS[:3])
        for _ in range(3):
            await room.turn(*ids)
        before = room.foresight.report()
        room.clock.now += 100_000
        room.foresight.tick()
        after = room.foresight.report()
        settled = sum(row["examples"] for row in after["calibration"])
        assert settled > sum(row["examples"] for row in before["calibration"])
        room.foresight.tick()
        assert room.foresight.report() == after

    foresee(model, tmp_path, test)


def test_only_what_has_changed_is_written_out_anew(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = room.add(*PETS[:3])
        await room.turn(*ids)
        first = room.foresight.state()
        again = room.foresight.state()
        assert again == first
        assert again["cubes"][0] is first["cubes"][0]
        await room.turn(*ids)
        assert room.foresight.state()["cubes"][0]["history"]["turn"] == 2

    foresee(model, tmp_path, test)


@pytest.mark.slow
def test_segments_are_ranked_from_any_thread_while_turns_are_taken_in(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Foreseen) -> None:
        ids = [room.memories.add(T, room.cube, text).id for text in PETS]
        await room.turn(*ids[:3])
        entries = room.engine.catalogue.entries()
        assert entries
        over = threading.Event()

        def asking() -> None:
            while not over.is_set():
                values = room.foresight.ranking.worth(entries)
                assert len(values) == len(entries)
                assert min(values) >= 0

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(asking) for _ in range(2)]
            try:
                for i in range(20):
                    await room.turn(*ids[i % 9 : i % 9 + 3])
                    room.foresight.tick()
                    room.foresight.state()
            finally:
                over.set()
                sys.setswitchinterval(before)
            for future in running:
                future.result()
        assert room.engine.catalogue.stats().failed_ranks == 0

    foresee(model, tmp_path, test)
