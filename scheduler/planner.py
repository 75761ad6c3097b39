"""Which memories go into a prompt, and in which order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.base import ChatMessage, Engine, Fidelity, MemoryText, Prompt, Tools
from memory import Memory, MemoryStore
from scheduler.order import best_order

log = logging.getLogger(__name__)

Mode = Literal["auto", "kv", "text", "off"]

# Sets of memories whose order is remembered.
_MAX_ORDERS = 4096


# Why a memory is in every prompt of its cube.
STANDING = ("pinned", "profile")


@dataclass(frozen=True)
class Ask:
    """What a request wants of memory. ``memory_ids`` replaces retrieval: exactly these, in this order.

    ``reserve_tokens`` of the context are kept free for the answer: retrieved memories that leave less are left out.
    """

    tenant: str
    cube_ids: tuple[str, ...]
    messages: tuple[ChatMessage, ...]
    mode: Mode = "auto"
    top_k: int = 5
    memory_ids: tuple[str, ...] = ()
    reserve_tokens: int = 256
    fidelity: Fidelity = "exact"
    tools: Tools | None = None


@dataclass(frozen=True)
class PlannedMemory:
    """A memory in the prompt: why it is there, and which of the prompt's pieces holds it (None: not a piece of
    its own, because the chat template rewrote it)."""

    memory: Memory
    why: str
    piece: int | None


@dataclass(frozen=True)
class Plan:
    """The prompt of one request and the memories in it, in prompt order. ``retrieve_s`` is in seconds."""

    prompt: Prompt
    memories: tuple[PlannedMemory, ...]
    mode: Literal["kv", "text", "off"]
    retrieve_s: float
    fidelity: Fidelity = "exact"


@dataclass(frozen=True)
class _Chosen:
    """``rank`` counts from 1 for retrieved memories; 0 is for those that are not to be left out."""

    memory: Memory
    why: str
    rank: int = 0


class Planner:
    """Turns a request into a plan: standing memories first, then retrieved ones, in the order that reuses most.

    The order depends on what is stored, but only once: a set of memories keeps the order it was first given, in
    every mode, so that asking again, as text or as KV, is asking with the same tokens. (After a restart the stored
    chain of that set says the same.)
    """

    def __init__(self, engine: Engine, memories: MemoryStore) -> None:
        self._engine = engine
        self._memories = memories
        self._orders: OrderedDict[tuple[str, ...], tuple[str, ...]] = OrderedDict()

    async def plan(self, ask: Ask) -> Plan:
        """Raises ``memory.errors.NotFound`` for ids of nobody or of another tenant, ``ValueError`` when the chat
        template refuses the messages."""
        begin = time.perf_counter()
        if ask.mode == "off":
            return Plan(self._engine.render(ask.messages, (), ask.tools), (), "off", 0.0)
        standing, movable = await asyncio.to_thread(self._choose, ask)
        retrieve_s = time.perf_counter() - begin
        chosen, prompt = self._fit(ask, [*standing, *movable])
        if len(prompt.pieces) == len(chosen) + 2:
            order = self._order(prompt, len(standing), ask.tenant)
            chosen = [chosen[i] for i in order]
            prompt = _reordered(prompt, order)
            planned = tuple(PlannedMemory(c.memory, c.why, i + 1) for i, c in enumerate(chosen))
        else:
            planned = tuple(PlannedMemory(c.memory, c.why, None) for c in chosen)
        return Plan(prompt, planned, "text" if ask.mode == "text" else "kv", retrieve_s, ask.fidelity)

    def _fit(self, ask: Ask, chosen: list[_Chosen]) -> tuple[list[_Chosen], Prompt]:
        """Leave out the retrieved memories that rank last until the prompt fits (one long document must not make
        every chat that finds it fail)."""
        room = self._engine.capacity().context - ask.reserve_tokens
        prompt = self._render(ask, chosen)
        while prompt.n_tokens > room and any(item.rank for item in chosen):
            last = max(chosen, key=lambda item: item.rank)
            log.info("memory %s is left out: the prompt would have %d tokens", last.memory.id, prompt.n_tokens)
            chosen = [item for item in chosen if item is not last]
            prompt = self._render(ask, chosen)
        return chosen, prompt

    def _render(self, ask: Ask, chosen: Sequence[_Chosen]) -> Prompt:
        texts = [MemoryText(item.memory.label, item.memory.text) for item in chosen]
        return self._engine.render(ask.messages, texts, ask.tools)

    def _choose(self, ask: Ask) -> tuple[list[_Chosen], list[_Chosen]]:
        """Standing memories in their fixed order, and those that may be moved about, in order of creation."""
        if ask.memory_ids:
            wanted = dict.fromkeys(ask.memory_ids)
            return [_Chosen(self._memories.get(ask.tenant, id), "asked for") for id in wanted], []
        standing = [m for cube in ask.cube_ids for m in self._memories.standing(ask.tenant, cube)]
        fixed = [_Chosen(memory, "pinned" if memory.pinned else "profile") for memory in standing]
        query = next((message.content for message in reversed(ask.messages) if message.role == "user"), "")
        if ask.top_k == 0 or not query.strip():
            return fixed, []
        known = {memory.id for memory in standing}
        hits = self._memories.search(ask.tenant, query, cube_ids=ask.cube_ids, top_k=ask.top_k)
        ranked = enumerate(hits, start=1)
        found = [_Chosen(hit.memory, hit.why, rank) for rank, hit in ranked if hit.memory.id not in known]
        return fixed, sorted(found, key=lambda item: (item.memory.created_at, item.memory.id))

    def _order(self, prompt: Prompt, n_fixed: int, salt: str) -> list[int]:
        """The order of the memory pieces: the one this set had before, or the best one now."""
        labels = [piece.label or "" for piece in prompt.pieces[1:-1]]
        key = (salt, *labels[:n_fixed], "|", *sorted(labels[n_fixed:]))
        known = self._orders.get(key)
        if known is None:
            order = best_order(self._engine, prompt, n_fixed, salt)
            self._orders[key] = tuple(labels[i] for i in order)
            if len(self._orders) > _MAX_ORDERS:
                self._orders.popitem(last=False)
            return order
        self._orders.move_to_end(key)
        return [labels.index(label) for label in known]


def _reordered(prompt: Prompt, order: Sequence[int]) -> Prompt:
    header, *memories, turns = prompt.pieces
    return Prompt((header, *(memories[i] for i in order), turns))
