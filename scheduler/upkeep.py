"""Work on segments while no request is running: pages are built, compositions are healed.

*Pages*: memories that were retrieved and have no page yet get one. *Healing*: a composition that was used twice
within a window is prefilled exactly and stored as a chain, so that its next use is exact, and faster. The engine
gives this work idle time only, in steps of a chunk, so that a request never waits for more than one step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from engine.base import ChatMessage, MemoryText, PageRequest, Piece, Prompt, Renderer, Started
from engine.errors import ContextTooLong, EngineClosed
from kvcache import SegmentView
from memory import Memory, MemoryStore, NotFound
from memory.types import STANDING_KINDS
from scheduler.background import Worker
from scheduler.pages import Together, plan_pages
from scheduler.planner import Plan
from scheduler.standing import STANDING

log = logging.getLogger(__name__)

HEAL_WINDOW_S = 3600.0
_MAX_SEEN = 4096
# So many memories before and after one that has no page are looked at for company.
_NEIGHBOURS = 64


class Builder(Protocol):
    """The engine, as far as upkeep needs it."""

    @property
    def prompts(self) -> Renderer: ...

    async def build(self, prompt: Prompt, salt: str = "") -> int: ...

    async def build_page(self, request: PageRequest, salt: str = "") -> bool: ...


@dataclass(frozen=True)
class _PageScope:
    """Pages belong to a tenant, a cube and the header that they are built behind."""

    tenant: str
    cube_id: str
    header: tuple[int, ...]


@dataclass
class UpkeepStats:
    """Counters since the start. ``waiting`` is what is queued now, or being worked on."""

    pages_built: int = 0
    pages_refused: int = 0
    healed: int = 0
    failures: int = 0
    waiting: int = 0


@dataclass
class _Seen:
    first: float
    times: int = 1
    queued: bool = field(default=False)


class Upkeep:
    """One task that works off what requests leave behind. Not thread-safe: lives in the event loop."""

    def __init__(
        self,
        engine: Builder,
        stored: SegmentView,
        memories: MemoryStore,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._stored = stored
        self._memories = memories
        self._clock = clock
        self._together = Together()
        self._wanted: OrderedDict[_PageScope, set[str]] = OrderedDict()
        self._compositions: OrderedDict[tuple[str, Prompt], _Seen] = OrderedDict()
        self._expected: dict[tuple[str, str], Prompt] = {}
        self._queue: deque[Callable[[], Awaitable[None]]] = deque()
        self._at_work = 0
        self._scopes_queued: set[_PageScope] = set()
        self._worker = Worker("upkeep", self._next_job, self._job_failed)
        self._stats = UpkeepStats()

    def stats(self) -> UpkeepStats:
        self._stats.waiting = len(self._queue) + self._at_work
        return self._stats

    def observe(self, tenant: str, plan: Plan, started: Started) -> None:
        """Learn from a request whose first token is out."""
        if plan.mode != "kv" or plan.fidelity == "exact" or not plan.memories or plan.memories[0].piece is None:
            return
        self._together.observe(planned.memory.label for planned in plan.memories)
        header = plan.prompt.header
        if header is None:  # no memory stands in the system message: pages have no place
            return
        behind = self._stored.behind(tenant, header.token_ids)
        for planned in plan.memories:
            if planned.why in STANDING:  # in every prompt, at the same place: chained, never composed
                continue
            assert planned.piece is not None, "either all memories are pieces or none"
            if behind.page_of(plan.prompt.pieces[planned.piece].token_ids) is None:
                self._want(_PageScope(tenant, planned.memory.cube_id, header.token_ids), planned.memory.label)
        for end in _block_ends(plan.prompt):  # a conversation's next request has the same blocks, and perhaps one more
            if any(report.fidelity != "exact" for report in started.pieces[:end]):
                self._note_composition(tenant, Prompt(plan.prompt.pieces[:end]))

    def prepare(self, tenant: str, memories: Sequence[Memory]) -> None:
        """Have pages built for memories that will be asked for, behind the header of a prompt without instructions."""
        wanted = [memory for memory in memories if not memory.pinned and memory.kind not in STANDING_KINDS]
        if not wanted:
            return
        header = self.plain_header()
        if header is None:
            return
        for memory in wanted:
            self._want(_PageScope(tenant, memory.cube_id, header), memory.label)

    def plain_header(self) -> tuple[int, ...] | None:
        """Return the header of a prompt without instructions; None where this model's template has no room for memories
        as pieces."""
        header = self._engine.prompts.render([ChatMessage("user", "-")], [MemoryText("-", "-")]).header
        return None if header is None else header.token_ids

    def want(self, tenant: str, cube_id: str, header: tuple[int, ...], labels: Iterable[str]) -> None:
        """Have pages built behind this header for memories that have none there."""
        scope = _PageScope(tenant, cube_id, header)
        for label in labels:
            self._want(scope, label)

    def expect(self, tenant: str, owner: str, prompt: Prompt) -> None:
        """Build the chain of a predicted prompt, unless a newer prediction for ``owner`` replaces it first."""
        key = (tenant, owner)
        self._expected[key] = prompt
        if len(self._expected) > _MAX_SEEN:
            self._expected.pop(next(iter(self._expected)))
        self._put(lambda: self._build(key, prompt))

    def _want(self, scope: _PageScope, label: str) -> None:
        labels = self._wanted.setdefault(scope, set())
        self._wanted.move_to_end(scope)
        if len(self._wanted) > _MAX_SEEN:
            self._wanted.popitem(last=False)
        labels.add(label)
        self._queue_scope(scope)

    def _queue_scope(self, scope: _PageScope) -> None:
        if scope not in self._scopes_queued:
            self._scopes_queued.add(scope)
            self._put(lambda: self._fill(scope))

    def changed(self, tenant: str, cube_id: str) -> None:
        """Take in that memories of the cube were changed or deleted, their pages with them: build what is missing
        again, but no prompt that was expected with their old texts."""
        self._expected.pop((tenant, cube_id), None)
        for scope in [s for s in self._wanted if (s.tenant, s.cube_id) == (tenant, cube_id)]:
            self._queue_scope(scope)

    def forget(self, tenant: str, cube_id: str) -> None:
        """Build nothing for a cube that is gone."""
        for scope in [s for s in self._wanted if (s.tenant, s.cube_id) == (tenant, cube_id)]:
            del self._wanted[scope]
        self._expected.pop((tenant, cube_id), None)

    def _note_composition(self, tenant: str, prompt: Prompt) -> None:
        key = (tenant, prompt)
        now = self._clock()
        seen = self._compositions.pop(key, None)
        if seen is None or now - seen.first > HEAL_WINDOW_S:
            seen = _Seen(now)
        else:
            seen.times += 1
        self._compositions[key] = seen
        if len(self._compositions) > _MAX_SEEN:
            self._compositions.popitem(last=False)
        if seen.times >= 2 and not seen.queued:
            seen.queued = True
            self._put(lambda: self._heal(key))

    def _put(self, job: Callable[[], Awaitable[None]]) -> None:
        self._queue.append(job)
        self._worker.wake()

    async def _next_job(self) -> bool:
        if not self._queue:
            return False
        job = self._queue.popleft()
        self._at_work = 1
        try:
            await job()
        except EngineClosed:
            return False
        finally:
            self._at_work = 0
        return True

    def _job_failed(self) -> str:
        self._stats.failures += 1
        return "upkeep failed"

    async def _build(self, key: tuple[str, str], prompt: Prompt) -> None:
        if self._expected.get(key) is not prompt:
            return
        del self._expected[key]
        try:
            await self._engine.build(prompt, key[0])
        except ContextTooLong as error:
            log.info("an expected prompt is not built: %s", error)

    async def _heal(self, key: tuple[str, Prompt]) -> None:
        tenant, prompt = key
        await self._engine.build(prompt, tenant)
        self._compositions.pop(key, None)
        self._stats.healed += 1

    async def _fill(self, scope: _PageScope) -> None:
        """Build the pages that the scope's wanted memories lack."""
        self._scopes_queued.discard(scope)
        wanted = self._wanted.get(scope, set())
        try:
            pieces = await asyncio.to_thread(self._pieces, scope, set(wanted))
        except NotFound:  # the cube is gone
            self._wanted.pop(scope, None)
            return
        behind = self._stored.behind(scope.tenant, scope.header)
        paged = {piece.label or "" for piece in pieces if behind.page_of(piece.token_ids) is not None}
        wanted &= {piece.label for piece in pieces if piece.label is not None}
        header = Piece("header", scope.header)
        for page in plan_pages(pieces, wanted, paged, self._together.affinity):
            request = PageRequest(header, page.members, page.lead, page.context)
            try:
                built = await self._engine.build_page(request, scope.tenant)
            except ContextTooLong as error:
                log.info("a page is not built: %s", error)
                built = False
            self._stats.pages_built += built
            self._stats.pages_refused += not built

    def _pieces(self, scope: _PageScope, wanted: set[str]) -> list[Piece]:
        """Render the wanted memories of the cube and those around them as the prompt would hold them, oldest first."""
        found: list[Memory] = []
        after: str | None = None
        while True:
            page = self._memories.list_memories(scope.tenant, scope.cube_id, limit=500, after=after)
            found += page.items
            after = page.next
            if after is None:
                break
        near: set[int] = set()
        for i, memory in enumerate(found):
            if memory.label in wanted:
                near.update(range(max(0, i - _NEIGHBOURS), min(len(found), i + _NEIGHBOURS + 1)))
        texts = [MemoryText(found[i].label, found[i].text) for i in sorted(near)]
        return list(self._engine.prompts.render([ChatMessage("user", "-")], texts).memories())

    async def settled(self) -> None:
        """Wait until all that is queued now has been done."""
        await self._worker.settled()

    async def close(self) -> None:
        """Leave what is not done."""
        await self._worker.close()


def _block_ends(prompt: Prompt) -> list[int]:
    """Return the indices of the pieces that follow a block of memories."""
    return [i for i, (a, b) in enumerate(pairwise(prompt.pieces), 1) if a.kind == "memory" and b.kind == "turns"]
