"""The choice of memories for a prompt, and of their order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from engine.base import ChatMessage, Engine, Fidelity, MemoryText, Prompt, Tools
from kvcache import SegmentView
from memory import Memory, MemoryStore, NotFound
from scheduler.conversations import SYSTEM, Conversations, Known, Placed, Places, last_words, newest_user
from scheduler.order import best_order
from scheduler.standing import STANDING, StandingLimits, why_standing, within

log = logging.getLogger(__name__)

Mode = Literal["auto", "kv", "text", "off"]

# Sets of memories whose order is remembered.
_MAX_ORDERS = 4096


# Why a memory is still there that this request's search has not found.
EARLIER = "found earlier"


@dataclass(frozen=True)
class Ask:
    """A request's wishes of memory. ``memory_ids`` replaces retrieval: exactly these, in this order. ``provisional``:
    the newest message is not finished, and settles nothing. ``token_ids`` are a prompt that is gone on with as it is,
    behind the memories, and ``begin`` special tokens before both; the messages then say only what to search for.

    ``reserve_tokens`` of the context are kept free for the answer: retrieved memories that leave less are left out.
    """

    tenant: str
    cube_ids: tuple[str, ...]
    messages: tuple[ChatMessage, ...]
    mode: Mode = "auto"
    top_k: int = field(default=5, metadata={"range": (0, 64)})
    memory_ids: tuple[str, ...] = ()
    reserve_tokens: int = 256
    fidelity: Fidelity = "exact"
    tools: Tools | None = None
    provisional: bool = False
    token_ids: tuple[int, ...] = ()
    begin: tuple[int, ...] = ()


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
    left_out: tuple[str, ...] = ()
    """Standing instructions that the limits left out, by id."""

    @property
    def in_pieces(self) -> bool:
        """True where every memory is a piece of its own. Else the turns hold memories, and must not be kept: deleting
        one would not find its text there."""
        return all(planned.piece is not None for planned in self.memories)


@dataclass(frozen=True)
class _Chosen:
    """``rank`` counts from 1 for retrieved memories; 0 is for those that are not to be left out."""

    memory: Memory
    why: str
    rank: int = 0


# What stands where: in the system message, and before messages, by their index.
_Blocks = dict[int, list[_Chosen]]


class Planner:
    """Turns a request into a plan: standing memories first, then retrieved ones, in the order that reuses most.

    With ``sessions`` a conversation that goes on keeps its memories in their places, and what is found for its newest
    message stands at the head of that, so that all before it is token for token what it was.

    The order depends on what is stored, but only once: a set of memories keeps the order it was first given, in
    every mode, so that asking again, as text or as KV, is asking with the same tokens. (After a restart the stored
    chain of that set says the same.)
    """

    def __init__(
        self,
        engine: Engine,
        stored: SegmentView,
        memories: MemoryStore,
        *,
        sessions: bool,
        limits: StandingLimits | None = None,
    ) -> None:
        self._engine = engine
        self._stored = stored
        self._memories = memories
        self._sessions = sessions
        self._limits = limits or StandingLimits()
        self._n_tokens = lru_cache(maxsize=4096)(self._count_tokens)
        self._conversations = Conversations()
        self._orders: OrderedDict[tuple[str, ...], tuple[str, ...]] = OrderedDict()

    async def plan(self, ask: Ask) -> Plan:
        """Make the plan of a request. Raises ``memory.errors.NotFound`` for ids of nobody or of another tenant,
        ``ValueError`` when the chat template refuses the messages."""
        begin = time.perf_counter()
        if ask.mode == "off":
            return Plan(self._rendered(ask, ask.messages), (), "off", 0.0)
        goes_on = self._sessions and not ask.memory_ids and not ask.token_ids
        known = self._conversations.find(ask.tenant, ask.cube_ids, ask.messages) if goes_on else None
        standing, movable, left_out = await asyncio.to_thread(self._choose, ask)
        blocks = None if known is None else await asyncio.to_thread(self._continued, ask, known, [*standing, *movable])
        retrieve_s = time.perf_counter() - begin
        fitted = None if blocks is None else self._fit(ask, blocks)
        if fitted is None or fitted[1].n_tokens > self._room(ask):
            fitted = self._fresh(ask, standing, movable)
        blocks, prompt = fitted
        if goes_on and not ask.provisional:
            self._conversations.note(ask.tenant, ask.cube_ids, ask.messages, _places(blocks))
        mode: Literal["kv", "text"] = "text" if ask.mode == "text" else "kv"
        return Plan(prompt, _planned(blocks, prompt), mode, retrieve_s, ask.fidelity, left_out)

    def _fresh(self, ask: Ask, standing: list[_Chosen], movable: list[_Chosen]) -> tuple[_Blocks, Prompt]:
        """Put all memories in the system message."""
        blocks, prompt = self._fit(ask, {SYSTEM: [*standing, *movable]})
        chosen = blocks[SYSTEM]
        if prompt.header is not None:
            order = self._order(prompt, len(standing), ask.tenant)
            blocks = {SYSTEM: [chosen[i] for i in order]}
            prompt = _reordered(prompt, order)
        return blocks, prompt

    def _continued(self, ask: Ask, known: Known, chosen: list[_Chosen]) -> _Blocks:
        """Leave the conversation's memories in their places, and what it has not yet before the newest user message."""
        why = {item.memory.label: item.why for item in chosen}
        blocks: _Blocks = {}
        for place, placed in known.places.items():
            there = [(one, self._still_there(ask, one)) for one in placed]
            blocks[place] = [
                _Chosen(memory, one.why if one.why in STANDING else why.get(one.label, EARLIER))
                for one, memory in there
                if memory is not None
            ]
        newest = newest_user(ask.messages)
        if newest is not None and newest != known.last:
            has = {item.memory.id for block in blocks.values() for item in block}
            blocks[newest] = [item for item in chosen if item.memory.id not in has]
        return blocks

    def _still_there(self, ask: Ask, placed: Placed) -> Memory | None:
        """Return the memory, as long as it is in use with the same text."""
        try:
            memory = self._memories.get(ask.tenant, placed.memory_id)
        except NotFound:
            return None
        expired = memory.expires_at is not None and memory.expires_at <= time.time()
        return None if expired or memory.status != "active" or memory.label != placed.label else memory

    def _room(self, ask: Ask) -> int:
        return self._engine.capacity().context - ask.reserve_tokens

    def _fit(self, ask: Ask, blocks: _Blocks) -> tuple[_Blocks, Prompt]:
        """Leave out the newly retrieved memories that rank last until the prompt fits (one long document must not make
        every chat that finds it fail)."""
        prompt = self._render(ask, blocks)
        while prompt.n_tokens > self._room(ask) and (new := [i for block in blocks.values() for i in block if i.rank]):
            last = max(new, key=lambda item: item.rank)
            log.info("memory %s is left out: the prompt would have %d tokens", last.memory.id, prompt.n_tokens)
            blocks = {place: [item for item in block if item is not last] for place, block in blocks.items()}
            prompt = self._render(ask, blocks)
        return blocks, prompt

    def _render(self, ask: Ask, blocks: _Blocks) -> Prompt:
        texts = {
            place: tuple(MemoryText(item.memory.label, item.memory.text) for item in block)
            for place, block in blocks.items()
        }
        messages = [replace(message, memories=texts.get(i, ())) for i, message in enumerate(ask.messages)]
        return self._rendered(ask, messages, texts.get(SYSTEM, ()))

    def _rendered(self, ask: Ask, messages: Sequence[ChatMessage], memories: Sequence[MemoryText] = ()) -> Prompt:
        if ask.token_ids:
            return self._engine.prompts.render_completion(ask.token_ids, memories, begin=ask.begin)
        return self._engine.prompts.render(messages, memories, ask.tools)

    def _choose(self, ask: Ask) -> tuple[list[_Chosen], list[_Chosen], tuple[str, ...]]:
        """Choose standing memories in their fixed order, and those that may be moved about, in order of creation;
        return also the ids of instructions that are left out."""
        if ask.memory_ids:
            wanted = dict.fromkeys(ask.memory_ids)
            return [_Chosen(self._memories.get(ask.tenant, id), "asked for") for id in wanted], [], ()
        standing: list[Memory] = []
        left_out: tuple[str, ...] = ()
        for cube in ask.cube_ids:
            kept, gone = within(self._memories.standing(ask.tenant, cube), self._limits, self._n_tokens)
            standing += kept
            left_out += tuple(memory.id for memory in gone)
        fixed = [_Chosen(memory, why_standing(memory)) for memory in standing]
        query = last_words(ask.messages)
        if ask.top_k == 0 or not query.strip():
            return fixed, [], left_out
        known = {memory.id for memory in standing}
        hits = self._memories.search(ask.tenant, query, cube_ids=ask.cube_ids, top_k=ask.top_k, relevant=True)
        ranked = enumerate(hits, start=1)
        found = [_Chosen(hit.memory, hit.why, rank) for rank, hit in ranked if hit.memory.id not in known]
        return fixed, sorted(found, key=lambda item: (item.memory.created_at, item.memory.id)), left_out

    def _count_tokens(self, text: str) -> int:
        return len(self._engine.prompts.tokenize(text, add_special_tokens=False))

    def _order(self, prompt: Prompt, n_fixed: int, salt: str) -> list[int]:
        """Return the order of the memory pieces: the one this set had before, or the best one now."""
        labels = [piece.label or "" for piece in prompt.memories()]
        key = (salt, *labels[:n_fixed], "|", *sorted(labels[n_fixed:]))
        known = self._orders.get(key)
        if known is None:
            order = best_order(self._stored, prompt, n_fixed, salt)
            self._orders[key] = tuple(labels[i] for i in order)
            if len(self._orders) > _MAX_ORDERS:
                self._orders.popitem(last=False)
            return order
        self._orders.move_to_end(key)
        return [labels.index(label) for label in known]


def _places(blocks: _Blocks) -> Places:
    return {
        place: tuple(Placed(item.memory.id, item.memory.label, item.why) for item in block)
        for place, block in blocks.items()
        if block
    }


def _planned(blocks: _Blocks, prompt: Prompt) -> tuple[PlannedMemory, ...]:
    chosen = [item for place in sorted(blocks) for item in blocks[place]]
    pieces: list[int | None] = [i for i, piece in enumerate(prompt.pieces) if piece.kind == "memory"]
    if len(pieces) != len(chosen):
        pieces = [None] * len(chosen)
    return tuple(PlannedMemory(item.memory, item.why, i) for item, i in zip(chosen, pieces, strict=True))


def _reordered(prompt: Prompt, order: Sequence[int]) -> Prompt:
    memories = prompt.memories()
    return Prompt((prompt.pieces[0], *(memories[i] for i in order), prompt.turns))
