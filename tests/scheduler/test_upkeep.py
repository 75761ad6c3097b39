"""Pages and healing behind real requests, on a tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

from engine.base import ChatMessage, GenerateRequest, Sampling, Started
from engine.config import CompositionConfig
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import ModelView, TieredStore
from memory import HashEmbedder, MemoryStore
from scheduler import Plan, Planner, Upkeep
from tests.scheduler.test_planner import Room, T

TEXTS = [f"Person number {i} keeps the key to room {i * 7} in a box" for i in range(10)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept(Room):
    """A room with upkeep, whose engine composes whatever it can."""

    def __init__(self, model: LoadedModel, folder: Path) -> None:
        composing = CompositionConfig(max_kl=float("inf"), min_saved_tokens=0)
        store = TieredStore(folder / "segments")
        self.engine = TransformersEngine(model, store, model_id="tiny", composing=composing)
        self.stored = ModelView(store.catalogue, self.engine.fingerprint)
        self.memories = MemoryStore(folder / "m.sqlite", HashEmbedder())
        self.cube = self.memories.default_cube(T).id
        self.planner = Planner(self.engine, self.stored, self.memories, sessions=True)
        self.clock = Clock()
        self.upkeep = Upkeep(self.engine, self.stored, self.memories, clock=self.clock)

    async def ask(self, *ids: str, fidelity: str = "high") -> tuple[Plan, Started]:
        plan = await self.plan(memory_ids=tuple(ids), fidelity=fidelity)
        return plan, await self.generate(plan)

    async def generate(self, plan: Plan) -> Started:
        request = GenerateRequest("r", plan.prompt, Sampling(max_tokens=1), salt=T, fidelity=plan.fidelity)
        started, *_ = [event async for event in self.engine.generate(request)]
        assert isinstance(started, Started)
        self.upkeep.observe(T, plan, started)
        return started

    def pages(self) -> int:
        return sum(entry.kind == "standalone" for entry in self.engine.catalogue.entries())


def in_room(model: LoadedModel, folder: Path, test: Callable[[Kept], Awaitable[None]]) -> None:
    async def run() -> None:
        room = Kept(model, folder)
        try:
            await test(room)
        finally:
            await room.upkeep.close()
            await room.engine.close()
            room.memories.close()

    asyncio.run(run())


def fidelities(started: Started) -> list[str]:
    return [report.fidelity for report in started.pieces[1:-1]]


def test_what_was_retrieved_is_composed_in_another_order(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        a, b, c, *_ = room.add(*TEXTS)
        _, started = await room.ask(a, b, c)
        assert fidelities(started) == ["exact"] * 3
        await room.upkeep.settled()
        assert room.pages() >= 1
        _, started = await room.ask(c, a)
        assert fidelities(started) == ["high"] * 2
        _, started = await room.ask(c, a, fidelity="exact")
        assert fidelities(started) == ["exact"] * 2

    in_room(model, tmp_path, test)


def test_a_composition_used_twice_within_the_window_is_healed(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        a, b, c, *_ = room.add(*TEXTS)
        await room.ask(a, b, c)
        await room.upkeep.settled()
        await room.ask(c, b)
        room.clock.now += 4000
        _, started = await room.ask(c, b)
        await room.upkeep.settled()
        assert room.upkeep.stats().healed == 0, "twice, but not within the window"
        assert fidelities(started) == ["high"] * 2
        await room.ask(c, b)
        await room.upkeep.settled()
        assert room.upkeep.stats().healed == 1
        _, started = await room.ask(c, b)
        assert fidelities(started) == ["exact"] * 2
        assert started.cached_tokens == started.prompt_tokens - started.pieces[-1].n_tokens

    in_room(model, tmp_path, test)


def test_a_changed_member_takes_its_page_along_and_the_rest_get_another(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        a, b, c, *_ = room.add(*TEXTS)
        await room.ask(a, b, c)
        await room.upkeep.settled()
        before = room.pages()
        gone = room.memories.delete(T, b)
        assert len(room.engine.catalogue.remove_label(gone.label)) >= 1
        room.upkeep.changed(T, gone.cube_id)
        await room.upkeep.settled()
        assert room.pages() == before
        _, started = await room.ask(c, a)
        assert fidelities(started) == ["high"] * 2
        labels = {label for entry in room.engine.catalogue.entries() for label in entry.labels}
        assert gone.label not in labels

    in_room(model, tmp_path, test)


def test_the_same_text_in_two_cubes_is_built_once(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        a, b, c, *_ = room.add(*TEXTS)
        await room.ask(a, b, c)
        await room.upkeep.settled()
        before = room.pages()
        other = room.memories.cubes.create(T, "other").id
        again = [room.memories.add(T, other, text).id for text in TEXTS[:3]]
        _, started = await room.ask(again[2], again[0])
        assert fidelities(started) == ["high"] * 2, "found at once: the key stands for the text"
        await room.upkeep.settled()
        assert room.pages() == before

    in_room(model, tmp_path, test)


def test_exact_requests_build_nothing(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        a, b, *_ = room.add(*TEXTS)
        await room.ask(a, b, fidelity="exact")
        await room.upkeep.settled()
        assert room.pages() == 0

    in_room(model, tmp_path, test)


def test_a_cube_that_is_gone_is_let_go(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        a, b, *_ = room.add(*TEXTS)
        plan, started = await room.ask(a, b)
        await room.upkeep.settled()
        room.memories.cubes.delete(T, room.cube)
        room.upkeep.changed(T, room.cube)
        room.upkeep.observe(T, plan, started)
        await room.upkeep.settled()
        assert room.upkeep.stats().failures == 0

    in_room(model, tmp_path, test)


def test_retrieved_members_of_a_page_stand_side_by_side(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        ids = room.add(*TEXTS)
        await room.ask(*ids)
        await room.upkeep.settled()
        plan = await room.plan("Person number keeps the key to room", top_k=6, fidelity="high")
        header, *memories, _ = plan.prompt.pieces
        places = []
        for piece in memories:
            place = room.stored.behind(T, header.token_ids).page_of(piece.token_ids)
            assert place is not None
            places.append(place)
        pages = [page for page, _ in places]
        assert len(memories) == 6
        assert sum(a != b for a, b in pairwise(pages)) == len(set(pages)) - 1
        for page in set(pages):
            begins = [begin for p, begin in places if p == page]
            assert begins == sorted(begins)

    in_room(model, tmp_path, test)


def test_standing_memories_need_no_page(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        room.add("I am called Ann, and this stands in every prompt.", pinned=True)
        plan = await room.plan("hello", fidelity="high")
        assert len(plan.memories) == 1
        await room.generate(plan)
        await room.upkeep.settled()
        assert room.pages() == 0

    in_room(model, tmp_path, test)


def test_the_beginning_of_a_conversation_heals_while_it_grows(model: LoadedModel, tmp_path: Path) -> None:
    """Each request has one block more, so that no composition but the first block's comes twice."""

    async def test(room: Kept) -> None:
        a, b, c = room.add("the red dog " * 3, "the blue cat " * 3, "the grey cow " * 3)
        await room.ask(a, b, c)
        await room.upkeep.settled()
        messages: tuple[ChatMessage, ...] = ()
        told = []
        for text in ("cat", "dog", "cow"):
            messages = (*messages, ChatMessage("user", text))
            plan = await room.plan(messages=messages, top_k=1, fidelity="high")
            told.append(await room.generate(plan))
            await room.upkeep.settled()
            messages = (*messages, ChatMessage("assistant", "Yes."))
        assert [len(started.pieces) for started in told] == [3, 5, 7]
        assert [piece.kind for piece in plan.prompt.pieces] == ["header", *["memory", "turns"] * 3]
        assert [started.pieces[1].fidelity for started in told] == ["high", "high", "exact"]
        assert (room.upkeep.stats().healed, room.upkeep.stats().failures) == (2, 0)  # the second block, too

    in_room(model, tmp_path, test)


def test_without_a_header_there_is_nothing_to_keep_up(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: Kept) -> None:
        hello = (ChatMessage("user", "hello"),)
        await room.generate(await room.plan(messages=hello, fidelity="high"))
        room.add("the red dog")
        more = (*hello, ChatMessage("assistant", "Yes."), ChatMessage("user", "dog"))
        plan = await room.plan(messages=more, fidelity="high")
        assert [piece.kind for piece in plan.prompt.pieces] == ["turns", "memory", "turns"]
        await room.generate(plan)
        await room.upkeep.settled()
        assert (room.pages(), room.upkeep.stats().failures) == (0, 0)

    in_room(model, tmp_path, test)
