"""The core without HTTP: memories, chat, and what they do to segments."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.base import ChatMessage, Sampling, Started
from engine.config import BatchingConfig, CompositionConfig
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import ModelView, TieredStore
from memory import HashEmbedder, LocalExtractor, Memory, MemoryStore, Message, Said, Subject
from scheduler import Planner, Upkeep
from server.core.chat import ChatDefaults, ChatService
from server.core.checks import message_of
from server.core.errors import InvalidValue, ModelUnknown, Unsupported
from server.core.generation import AnswerOptions, Followers, RecallOptions
from server.core.invalidation import Invalidation
from server.core.memories import MemoryService
from server.core.messages import Extractors

pytestmark = pytest.mark.transformers
T = "default"


@dataclass
class Noted:
    """An observer that keeps what it is told."""

    started: list[int] = field(default_factory=list)
    tokens: int = 0
    gaps: int = 0
    finished: list[str] = field(default_factory=list)
    ended: int = 0

    def observe_started(self, started: Started, ttft_s: float) -> None:
        assert ttft_s > 0
        self.started.append(started.prompt_tokens)

    def observe_tokens(self, n: int, gap_s: float | None) -> None:
        self.tokens += n
        self.gaps += gap_s is not None

    def observe_finished(self, reason: str) -> None:
        self.finished.append(reason)

    def observe_ended(self, total_s: float) -> None:
        assert total_s > 0
        self.ended += 1


@dataclass
class Core:
    """The parts of a server that has no HTTP."""

    memories: MemoryService
    chat: ChatService
    store: TieredStore
    noted: Noted

    async def ask(self, text: str, *ids: str, n: int = 1) -> dict[str, object] | None:
        """Chat with exactly these memories, and return the receipt."""
        answer = AnswerOptions("tiny", "r", Sampling(temperature=0, ignore_eos=True), max_tokens=4, n=n)
        recall = RecallOptions(ids=ids, fidelity="exact")
        async with self.chat.chat(T, (ChatMessage("user", text),), recall, answer) as generation:
            assert [event async for event in generation.events]
            return generation.receipt()

    async def segments_of(self, memory: Memory) -> int:
        """Have segments of a memory computed, and return how many there are."""
        await self.ask("What do you know?", memory.id)
        return sum(memory.label in entry.labels for entry in self.store.catalogue.entries())


@asynccontextmanager
async def core(model: LoadedModel, folder: Path) -> AsyncIterator[Core]:
    store = TieredStore(folder / "segments")
    composing = CompositionConfig(max_kl=float("inf"), min_saved_tokens=0)
    engine = TransformersEngine(
        model, store, model_id="tiny", batching=BatchingConfig(16, 128, 32, max_waiting=4), composing=composing
    )
    memories = MemoryStore(folder / "memories.sqlite", HashEmbedder())
    stored = ModelView(store.catalogue, engine.fingerprint)
    upkeep = Upkeep(engine, stored, memories)
    door = MemoryService(memories, Invalidation(engine, upkeep), Extractors({"local": LocalExtractor()}, "local"))
    noted = Noted()
    defaults = ChatDefaults("tiny", max_tokens=8, mode="kv", top_k=5, fidelity="exact", sessions=True)
    chat = ChatService(
        engine, door, Planner(engine, stored, memories, sessions=True), Followers(noted, upkeep), defaults
    )
    door.start()
    try:
        yield Core(door, chat, store, noted)
    finally:
        await door.stop()
        await upkeep.close()
        await engine.close()
        await door.close()


def in_core(model: LoadedModel, folder: Path, test: Callable[[Core], Awaitable[None]]) -> None:
    async def run() -> None:
        async with core(model, folder) as parts:
            await test(parts)

    asyncio.run(run())


def test_the_core_imports_no_web_framework() -> None:
    code = (
        "import importlib, pkgutil, sys, server.core\n"
        "for found in pkgutil.iter_modules(server.core.__path__, 'server.core.'):\n"
        "    importlib.import_module(found.name)\n"
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'typer'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_generation_is_told_of_as_it_runs(model: LoadedModel, tmp_path: Path) -> None:
    async def test(parts: Core) -> None:
        placed = await parts.memories.add(T, None, "The kite is red.")
        receipt = await parts.ask("Which colour?", placed.memory.id, n=2)
        assert receipt is not None
        assert receipt["prompt_tokens"] == parts.noted.started[0]
        noted = parts.noted
        assert (len(noted.started), noted.tokens, noted.finished, noted.ended) == (1, 8, ["length", "length"], 1)
        assert noted.gaps == 6

    in_core(model, tmp_path, test)


def test_the_core_refuses_in_its_own_words(model: LoadedModel, tmp_path: Path) -> None:
    async def refused(parts: Core, answer: AnswerOptions) -> None:
        async with parts.chat.chat(T, (ChatMessage("user", "hello"),), None, answer):
            raise AssertionError("it was not refused")

    async def test(parts: Core) -> None:
        with pytest.raises(ModelUnknown) as unknown:
            await refused(parts, AnswerOptions("other", "r", Sampling()))
        assert unknown.value.param == "model"
        with pytest.raises(Unsupported, match="json_schema: not supported") as unsupported:
            await refused(parts, AnswerOptions("tiny", "r", Sampling(), structured_field="json_schema"))
        assert unsupported.value.param == "json_schema"
        with pytest.raises(InvalidValue, match="logit_bias: token ids go from 0"):
            await refused(parts, AnswerOptions("tiny", "r", Sampling(logit_bias={1 << 20: 1.0})))

    in_core(model, tmp_path, test)


async def _changed(parts: Core, memory: Memory) -> None:
    await parts.memories.update(T, memory.id, text="Another text.")


async def _archived(parts: Core, memory: Memory) -> None:
    await parts.memories.update(T, memory.id, status="archived")


async def _deleted(parts: Core, memory: Memory) -> None:
    assert (await parts.memories.delete(T, memory.id))[1] > 0


async def _forgotten(parts: Core, memory: Memory) -> None:
    proof, removed, left = await parts.memories.forget(T, memory.id)
    assert (proof.scan.total, removed > 0, left) == (0, True, 0)


async def _removed(parts: Core, memory: Memory) -> None:
    assert await parts.memories.remove(T, [memory, memory]) == [memory]


async def _erased(parts: Core, memory: Memory) -> None:
    assert [gone.id for gone in await parts.memories.erase(T, Subject(owner="ana"))] == [memory.id]


async def _cube_deleted(parts: Core, memory: Memory) -> None:
    memories, removed = await parts.memories.cubes.delete(T, memory.cube_id)
    assert ([gone.id for gone in memories], removed > 0) == ([memory.id], True)


async def _denied(parts: Core, memory: Memory) -> None:
    await parts.memories.feedback.give(T, None, "That is wrong.", memory_ids=[memory.id])


@pytest.mark.parametrize(
    "change", [_changed, _archived, _deleted, _forgotten, _removed, _erased, _cube_deleted, _denied]
)
def test_whatever_changes_a_memory_drops_its_segments(
    change: Callable[[Core, Memory], Awaitable[None]], model: LoadedModel, tmp_path: Path
) -> None:
    async def test(parts: Core) -> None:
        placed = await parts.memories.add(T, None, "The kite is red.", kind="fact", owner="ana")
        assert await parts.segments_of(placed.memory) > 0
        await change(parts, placed.memory)
        assert [entry for entry in parts.store.catalogue.entries() if placed.memory.label in entry.labels] == []

    in_core(model, tmp_path, test)


@pytest.mark.parametrize("replaced", [True, False])
def test_a_document_goes_with_its_segments(replaced: bool, model: LoadedModel, tmp_path: Path) -> None:
    async def test(parts: Core) -> None:
        documents = parts.memories.documents
        added, _ = await documents.add(T, "default", "a.txt", b"The kite is red.", None)
        (memory,) = await parts.memories.everything(T, None, {"kind": "document"})
        assert await parts.segments_of(memory) > 0
        if replaced:
            _, removed = await documents.add(T, "default", "a.txt", b"The kite is blue.", None)
        else:
            _, removed = await documents.delete(T, "default", added.document.id)
        assert removed > 0
        assert [entry for entry in parts.store.catalogue.entries() if memory.label in entry.labels] == []

    in_core(model, tmp_path, test)


def test_what_replaces_a_memory_drops_its_segments(model: LoadedModel, tmp_path: Path) -> None:
    def said(text: str) -> list[Message]:
        return [message_of(text)]

    async def test(parts: Core) -> None:
        (first,) = await parts.memories.messages.add(T, None, said("I live in Lisbon."), Said())
        assert await parts.segments_of(first.memory) > 0
        job = await parts.memories.messages.queue(T, None, said("I live in Porto now."), Said())
        ended = await parts.memories.jobs.wait(T, job.id, 30)
        assert (ended.status, [unit["replaced"] for unit in ended.result]) == ("completed", [[first.memory.id]])
        assert [entry for entry in parts.store.catalogue.entries() if first.memory.label in entry.labels] == []

    in_core(model, tmp_path, test)
