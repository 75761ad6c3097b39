"""The same question under every condition: which memories its prompt holds, and how their KV comes into it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from benchmarks.suites.answers.score import Computed
from benchmarks.suites.answers.sets import Item
from benchmarks.suites.retrieval import Conversation
from benchmarks.support.composing import ADMITTED
from engine.base import ChatMessage, MemoryText, PageRequest, Piece, Prompt
from engine.transformers import ModelRunner, SequenceKV, TransformersEngine, Work
from engine.transformers.composing import Composer, PlacedPart, finished
from kvcache import ModelView, Part, Repair, Segment
from memory import Memory, MemoryStore, Said
from scheduler import Ask, Plan, Planner
from scheduler.pages import plan_pages

Condition = Literal["none", "random", "evidence", "full", "text", "exact", "high", "fast", "naive"]
CONDITIONS: tuple[Condition, ...] = ("none", "random", "evidence", "full", "text", "exact", "high", "fast", "naive")
TENANT = "bench"
_PASS_TOKENS = 512
# Kept free for an answer; those of the sets are far shorter.
RESERVED_TOKENS = 256

Placeable = tuple[Segment, Part]


class NotInPieces(Exception):
    """The model's chat template rewrites the memories, so that none of them can be injected."""


@dataclass(frozen=True)
class Case:
    """A question's prompts. ``plan`` has what search found, in the product's order; ``found`` are the turns that these
    memories are from. A prompt is None where the cube has no such memories."""

    item: Item
    plan: Plan
    none: Prompt
    random: Prompt | None
    evidence: Prompt | None
    found: frozenset[str]


@dataclass(eq=False)
class Cube:
    """A conversation's memories, and what was computed of them: ``pages`` and, each ``alone``, by label; ``full`` is
    the keys and values of all of them behind the header, where they fit the context."""

    id: str
    memories: tuple[Memory, ...]
    turns_of: dict[str, frozenset[str]]
    pieces: tuple[Piece, ...]
    pages: dict[str, Placeable] = field(default_factory=dict)
    alone: dict[str, Placeable] = field(default_factory=dict)
    full: SequenceKV | None = None


class Prompts:
    """Chooses memories as the product does: by its store's search and its planner."""

    def __init__(self, engine: TransformersEngine, store: MemoryStore, top_k: int, seed: int) -> None:
        self._engine = engine
        self._store = store
        self._top_k = top_k
        self._seed = seed

    def add(self, name: str, conversation: Conversation) -> Cube:
        """Put a conversation into a cube of its own."""
        cube = self._store.cubes.create(TENANT, name).id
        for i, session in enumerate(conversation.sessions):
            self._store.add_messages(TENANT, cube, session, Said(session=f"session-{i}"))
        memories = sorted(self._all(cube), key=lambda memory: (memory.created_at, memory.id))
        turns = {
            memory.id: frozenset(conversation.turn_of[message.id] for message in self._store.sources(TENANT, memory.id))
            for memory in memories
        }
        texts = [MemoryText(memory.label, memory.text) for memory in memories]
        whole = self._engine.prompts.render([ChatMessage("user", "-")], texts)
        if whole.header is None:
            raise NotInPieces(f"the chat template of '{self._engine.model_id}' rewrites memories")
        return Cube(cube, tuple(memories), turns, whole.pieces)

    def _all(self, cube: str) -> list[Memory]:
        found: list[Memory] = []
        after: str | None = None
        while True:
            page = self._store.list_memories(TENANT, cube, limit=500, after=after)
            found += page.items
            after = page.next
            if after is None:
                return found

    def planner(self) -> Planner:
        """Make a planner that has settled no order yet."""
        stored = ModelView(self._engine.catalogue, self._engine.fingerprint)
        return Planner(self._engine, stored, self._store, sessions=False)

    def ask(self, cube: Cube, question: str) -> Ask:
        """Ask for what is found for a question."""
        return Ask(
            TENANT,
            (cube.id,),
            (ChatMessage("user", question),),
            mode="kv",
            top_k=self._top_k,
            reserve_tokens=RESERVED_TOKENS,
        )

    async def case(self, planner: Planner, cube: Cube, item: Item) -> Case:
        """Make a question's prompts. As many other memories are drawn for ``random`` as the search finds."""
        ask = self.ask(cube, item.question)
        plan = await planner.plan(ask)
        chosen = {planned.memory.id for planned in plan.memories}
        evidence = [memory.id for memory in cube.memories if cube.turns_of[memory.id] & item.evidence]
        others = [memory.id for memory in cube.memories if memory.id not in chosen.union(evidence)]
        rng = random.Random(f"{self._seed} {item.conversation} {item.question}")
        drawn = set(rng.sample(others, min(len(chosen), len(others))))
        return Case(
            item,
            plan,
            (await planner.plan(replace(ask, mode="off"))).prompt,
            await self._of(planner, ask, [id for id in others if id in drawn]),
            await self._of(planner, ask, evidence),
            frozenset(turn for id in chosen for turn in cube.turns_of.get(id, ())),
        )

    async def _of(self, planner: Planner, ask: Ask, ids: Sequence[str]) -> Prompt | None:
        if not ids:
            return None
        return (await planner.plan(replace(ask, mode="text", memory_ids=tuple(ids)))).prompt


class Injection:
    """Computes and composes on one engine, by its own composer."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine
        self.movable = engine.model.rotation is not None
        """False for models whose keys cannot be moved: nothing is composed for them."""

    def _composer(self, runner: ModelRunner) -> Composer:
        return Composer(self._engine.model, runner, _PASS_TOKENS)

    def build_pages(self, runner: ModelRunner, cube: Cube, wanted: set[str]) -> int:
        """Build the pages that hold these memories, and store them; returns how many there are. Pages are planned for
        all of the cube, so that which one holds a memory does not depend on the questions."""
        header, *memories = cube.pieces[:-1]
        everything = plan_pages(memories, {_label(piece) for piece in memories}, (), lambda a, b: 0.0)
        plans = [plan for plan in everything if wanted.intersection(map(_label, plan.members))]
        for plan in plans:
            request = PageRequest(header, plan.members, plan.lead, plan.context)
            built = finished(self._composer(runner).build_page(request, TENANT))
            segment = replace(built, certificate=ADMITTED)
            self._engine.store.put(segment, durable=False)
            cube.pages |= {part.label: (segment, part) for part in segment.parts if part.label is not None}
        return len(plans)

    def prefilled(self, runner: ModelRunner, prompt: Prompt) -> Computed:
        """Compute all of a prompt."""
        ids = prompt.token_ids
        composer = self._composer(runner)
        kv = composer.empty(len(ids))
        finished(composer.extend(kv, ids[:-1]))
        (last,) = ids[-1:]
        return Computed(kv, _last(composer, kv, [last]), len(ids), len(ids))

    def composed(self, runner: ModelRunner, cube: Cube, prompt: Prompt, repair: Repair) -> Computed:
        """Move the pages of the prompt's memories into place, and repair them."""
        return self._compose(runner, prompt, self._placed(prompt, cube.pages), repair)

    def concatenated(self, runner: ModelRunner, cube: Cube, prompt: Prompt) -> Computed:
        """Put keys and values of memories that were each computed alone one behind the other as they are: nothing is
        moved to its position, nothing repaired."""
        composer = self._composer(runner)
        for piece in prompt.memories():
            if _label(piece) not in cube.alone:
                segment = finished(composer.build_page(PageRequest(Piece("header", ()), (piece,)), "alone"))
                cube.alone[_label(piece)] = (segment, segment.parts[0])
        parts = [
            replace(placed, segment=replace(placed.segment, start=placed.position - placed.part.begin))
            for placed in self._placed(prompt, cube.alone)
        ]
        return self._compose(runner, prompt, parts, Repair("none", 0.0))

    def with_history(self, runner: ModelRunner, cube: Cube, prompt: Prompt) -> Computed | None:
        """Answer behind all memories of the cube, computed once; None where they do not fit the context."""
        history = Prompt(cube.pieces[:-1])
        turns = prompt.turns.token_ids
        n_tokens = history.n_tokens + len(turns)
        if n_tokens + RESERVED_TOKENS > self._engine.model.context:
            return None
        composer = self._composer(runner)
        if cube.full is None:
            cube.full = composer.empty(history.n_tokens)
            finished(composer.extend(cube.full, history.token_ids))
        kv = cube.full.fork(len(turns))
        return Computed(kv, _last(composer, kv, turns), n_tokens, n_tokens)

    def _placed(self, prompt: Prompt, source: dict[str, Placeable]) -> list[PlacedPart]:
        placed, position = [], 0
        for piece in prompt.pieces:
            if piece.kind == "memory":
                placed.append(PlacedPart(*source[_label(piece)], position))
            position += len(piece.token_ids)
        return placed

    def _compose(self, runner: ModelRunner, prompt: Prompt, parts: Sequence[PlacedPart], repair: Repair) -> Computed:
        composer = self._composer(runner)
        ids = prompt.token_ids
        kv = composer.empty(len(ids))
        finished(composer.extend(kv, prompt.pieces[0].token_ids))
        settled = composer.compose(kv, parts, ids, repair)
        return Computed(kv, finished(composer.fill(kv, ids, settled.todo)), len(ids), len(settled.todo))


def _label(piece: Piece) -> str:
    assert piece.label is not None, "memories have labels"
    return piece.label


def _last(composer: Composer, kv: SequenceKV, token_ids: Sequence[int]) -> torch.Tensor:
    """Compute these tokens behind what the sequence holds; the logits of the last one."""
    return finished(composer.run(Work(kv, token_ids)))
