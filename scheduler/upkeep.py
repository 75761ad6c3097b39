"""What is done about segments while no request is running: pages are built, compositions are healed.

*Pages*: memories that were retrieved and have no page yet get one. *Healing*: a composition that was used twice
within a window is prefilled exactly and stored as a chain, so that its next use is exact, and faster. The engine
gives this work idle time only, in steps of a chunk, so that a request never waits for more than one step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from engine.base import ChatMessage, Engine, MemoryText, PageRequest, Piece, Prompt, Started
from engine.errors import ContextTooLong, EngineClosed
from kvcache import chain_key, page_root
from memory import Memory, MemoryStore, NotFound
from scheduler.pages import Together, plan_pages
from scheduler.planner import STANDING, Plan

log = logging.getLogger(__name__)

HEAL_WINDOW_S = 3600.0
_MAX_SEEN = 4096
# So many memories before and after one that has no page are looked at for company.
_NEIGHBOURS = 64


@dataclass(frozen=True)
class _Shelf:
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

    def __init__(self, engine: Engine, memories: MemoryStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._memories = memories
        self._clock = clock
        self._together = Together()
        self._wanted: OrderedDict[_Shelf, set[str]] = OrderedDict()
        self._compositions: OrderedDict[tuple[str, Prompt], _Seen] = OrderedDict()
        self._expected: dict[tuple[str, str], Prompt] = {}
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._at_work = 0
        self._shelves_queued: set[_Shelf] = set()
        self._task: asyncio.Task[None] | None = None
        self._stats = UpkeepStats()

    def stats(self) -> UpkeepStats:
        self._stats.waiting = self._queue.qsize() + self._at_work
        return self._stats

    def observe(self, tenant: str, plan: Plan, started: Started) -> None:
        """Learn from a request whose first token is out."""
        if plan.mode != "kv" or plan.fidelity == "exact" or not plan.memories or plan.memories[0].piece is None:
            return
        self._together.observe(planned.memory.label for planned in plan.memories)
        if plan.prompt.pieces[0].kind != "header":  # no memory stands in the system message: pages have no place
            return
        header = plan.prompt.pieces[0].token_ids
        root = self._root(tenant, header)
        for planned in plan.memories:
            if planned.why in STANDING:  # in every prompt, at the same place: chained, never composed
                continue
            assert planned.piece is not None, "either all memories are pieces or none"
            if self._engine.place_of(chain_key(root, plan.prompt.pieces[planned.piece].token_ids)) is None:
                self._want(_Shelf(tenant, planned.memory.cube_id, header), planned.memory.label)
        for end in _block_ends(plan.prompt):  # a conversation's next request has the same blocks, and perhaps one more
            if any(report.fidelity != "exact" for report in started.pieces[:end]):
                self._note_composition(tenant, Prompt(plan.prompt.pieces[:end]))

    def prepare(self, tenant: str, memories: Sequence[Memory]) -> None:
        """Have pages built for memories that will be asked for, behind the header of a prompt without instructions."""
        wanted = [memory for memory in memories if not memory.pinned and memory.kind != "profile"]
        if not wanted:
            return
        header = self.plain_header()
        if header is None:
            return
        for memory in wanted:
            self._want(_Shelf(tenant, memory.cube_id, header), memory.label)

    def plain_header(self) -> tuple[int, ...] | None:
        """The header of a prompt without instructions; None where this model's template has no room for memories as
        pieces."""
        header = self._engine.render([ChatMessage("user", "-")], [MemoryText("-", "-")]).pieces[0]
        return header.token_ids if header.kind == "header" else None

    def want(self, tenant: str, cube_id: str, header: tuple[int, ...], labels: Iterable[str]) -> None:
        """Have pages built behind this header for memories that have none there."""
        shelf = _Shelf(tenant, cube_id, header)
        for label in labels:
            self._want(shelf, label)

    def expect(self, tenant: str, owner: str, prompt: Prompt) -> None:
        """Have the pieces of a prompt that is expected computed and stored as a chain, unless another one is expected
        for ``owner`` by then."""
        key = (tenant, owner)
        self._expected[key] = prompt
        if len(self._expected) > _MAX_SEEN:
            self._expected.pop(next(iter(self._expected)))
        self._put(lambda: self._build(key, prompt))

    def _root(self, tenant: str, header: tuple[int, ...]) -> str:
        return page_root(self._engine.fingerprint, tenant, header)

    def _want(self, shelf: _Shelf, label: str) -> None:
        labels = self._wanted.setdefault(shelf, set())
        self._wanted.move_to_end(shelf)
        if len(self._wanted) > _MAX_SEEN:
            self._wanted.popitem(last=False)
        labels.add(label)
        self._queue_shelf(shelf)

    def _queue_shelf(self, shelf: _Shelf) -> None:
        if shelf not in self._shelves_queued:
            self._shelves_queued.add(shelf)
            self._put(lambda: self._fill(shelf))

    def changed(self, tenant: str, cube_id: str) -> None:
        """Memories of the cube were changed or deleted, their pages with them: build what is missing again, but no
        prompt that was expected with their old texts."""
        self._expected.pop((tenant, cube_id), None)
        for shelf in [s for s in self._wanted if (s.tenant, s.cube_id) == (tenant, cube_id)]:
            self._queue_shelf(shelf)

    def forget(self, tenant: str, cube_id: str) -> None:
        """A cube is gone: nothing is built for it."""
        for shelf in [s for s in self._wanted if (s.tenant, s.cube_id) == (tenant, cube_id)]:
            del self._wanted[shelf]
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
        self._queue.put_nowait(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="upkeep")

    async def _run(self) -> None:
        while not self._queue.empty():
            job = self._queue.get_nowait()
            self._at_work = 1
            try:
                await job()
            except EngineClosed:
                return
            except Exception:
                # The worker's edge: upkeep that fails costs speed, not answers.
                log.exception("upkeep failed")
                self._stats.failures += 1
            finally:
                self._at_work = 0
                self._queue.task_done()

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

    async def _fill(self, shelf: _Shelf) -> None:
        """Build the pages that the shelf's wanted memories lack."""
        self._shelves_queued.discard(shelf)
        wanted = self._wanted.get(shelf, set())
        try:
            pieces = await asyncio.to_thread(self._pieces, shelf, set(wanted))
        except NotFound:  # the cube is gone
            self._wanted.pop(shelf, None)
            return
        root = self._root(shelf.tenant, shelf.header)
        housed = {
            piece.label or "" for piece in pieces if self._engine.place_of(chain_key(root, piece.token_ids)) is not None
        }
        wanted &= {piece.label for piece in pieces if piece.label is not None}
        header = Piece("header", shelf.header)
        for page in plan_pages(pieces, wanted, housed, self._together.affinity):
            request = PageRequest(header, page.members, page.lead, page.context)
            try:
                built = await self._engine.build_page(request, shelf.tenant)
            except ContextTooLong as error:
                log.info("a page is not built: %s", error)
                built = False
            self._stats.pages_built += built
            self._stats.pages_refused += not built

    def _pieces(self, shelf: _Shelf, wanted: set[str]) -> list[Piece]:
        """The wanted memories of the cube and those around them as the prompt would hold them, oldest first."""
        found: list[Memory] = []
        after: str | None = None
        while True:
            page = self._memories.list_memories(shelf.tenant, shelf.cube_id, limit=500, after=after)
            found += page.items
            after = page.next
            if after is None:
                break
        near: set[int] = set()
        for i, memory in enumerate(found):
            if memory.label in wanted:
                near.update(range(max(0, i - _NEIGHBOURS), min(len(found), i + _NEIGHBOURS + 1)))
        texts = [MemoryText(found[i].label, found[i].text) for i in sorted(near)]
        pieces = self._engine.render([ChatMessage("user", "-")], texts).pieces
        return [piece for piece in pieces if piece.kind == "memory"]

    async def settled(self) -> None:
        """Wait until all that is queued now has been done."""
        await self._queue.join()

    async def close(self) -> None:
        """Leave what is not done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _block_ends(prompt: Prompt) -> list[int]:
    """Indices of the pieces that follow a block of memories."""
    return [i for i, (a, b) in enumerate(pairwise(prompt.pieces), 1) if a.kind == "memory" and b.kind == "turns"]
