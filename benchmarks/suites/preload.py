"""Does prediction pay? Scenes replayed turn by turn against a host tier that cannot hold everything.

All pages are on disk. Before each turn a policy may bring some up; then the turn's pages are counted: hits where they
are in host memory and as loads from disk where they are not.

    none       nothing is kept and nothing preloaded: every page of every turn comes from disk
    lru, lfu   what was loaded stays; the least recently (least often) used leaves first
    predictor  ``scheduler.Foresight``: preloads what is likely, keeps what is likeliest
    adversary  the same with a predictor that says the opposite of what it has learned
    oracle     knows all turns: preloads exactly what the next turn needs, keeps what is needed soonest
    resident   everything is in memory
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.data.scenes import TENANT, Scenes, Turn
from benchmarks.support.stats import Interval
from engine.base import Capacity, ChatMessage, MemoryText, PageRequest, Piece, Prompt, Tools
from kvcache import (
    Certificate,
    Entry,
    Fingerprint,
    Layout,
    Part,
    PreloadStats,
    SegmentView,
    TierName,
    chain_key,
    cut_parts,
    page_root,
)
from kvcache.ledger import PreloadLedger
from kvcache.ranking import Worth
from kvcache.tiers import CLEARLY_LESS
from memory import MemoryStore
from scheduler.prediction.foresight import Foresight, ForesightConfig, Scene
from scheduler.prediction.learning import Matrix
from scheduler.prediction.predictors import SignalPredictor
from scheduler.upkeep import Upkeep

PolicyName = Literal["none", "lru", "lfu", "predictor", "adversary", "oracle", "resident"]
# SmolLM2-135M in float32.
LAYOUT = Layout(30, 3, 64, "float32")


class Contrary(SignalPredictor):
    """Says the opposite of what it has learned."""

    def probabilities(self, rows: Matrix) -> Matrix:
        return np.maximum.accumulate(1.0 - super().probabilities(rows), axis=1)


class Clock:
    """The time of the turn that is replayed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class IndexEngine(SegmentView):
    """An engine's catalogue and host tier without its model: which pages there are, and which are in memory."""

    def __init__(self, scenes: Scenes, budget: int, clock: Clock) -> None:
        self._fingerprint = Fingerprint("index", "index", "index", "index", "index", LAYOUT)
        self.budget = budget
        self.worth: Worth | None = None
        self._clock = clock
        self._ledger = PreloadLedger()
        self._entries: dict[str, Entry] = {}
        self._by_label: dict[str, Entry] = {}
        self._host: dict[str, None] = {}
        self.used_bytes = 0
        for entry in entries_of(scenes, self._fingerprint):
            self._entries[entry.key] = entry
            self._by_label.update((part.label or "", entry) for part in entry.parts)

    # -- as an engine ----------------------------------------------------------------------------------------

    @property
    def prompts(self) -> IndexEngine:
        """Renders, after a fashion."""
        return self

    def render(
        self, messages: Sequence[ChatMessage], memories: Sequence[MemoryText] = (), tools: Tools | None = None
    ) -> Prompt:
        """Find that memories without a page cannot get one."""
        return Prompt((Piece("turns", (1,)),))

    def prefill_s(self, n_tokens: int, behind: int) -> float | None:
        """Nothing was measured."""
        return None

    def capacity(self) -> Capacity:
        """Nothing is ever running."""
        return Capacity(1 << 20, 1, 0, 0)

    async def build(self, prompt: Prompt, salt: str = "") -> int:
        """Build nothing."""
        return 0

    async def build_page(self, request: PageRequest, salt: str = "") -> bool:
        """Build nothing."""
        return False

    # -- as what is stored -----------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> Fingerprint:
        """That of no model."""
        return self._fingerprint

    def match(self, root: str, token_ids: Sequence[int]) -> list[Entry]:
        """Find no chains: there are pages only."""
        return []

    def find_part(self, part_key: str) -> list[tuple[Entry, Part]]:
        """Find nothing by its tokens."""
        return []

    def locate_part(self, part_key: str) -> tuple[str, int] | None:
        """Pages are not built here: as if all had one."""
        return part_key, 0

    def rank_by(self, worth: Worth | None) -> None:
        """Keep in memory what is worth most."""
        self.worth = worth

    def preloads(self) -> PreloadStats:
        """Return what became of preloaded pages."""
        return self._ledger.stats

    def holding(self, labels: Iterable[str], root: str) -> list[Entry]:
        found = {entry.key: entry for label in labels if (entry := self._by_label.get(label)) is not None}
        return [entry for entry in found.values() if entry.root == root]

    def needed(self, turn: Turn) -> list[Entry]:
        return list({e.key: e for memory in turn.found if (e := self._by_label.get(memory.label))}.values())

    def tier_of(self, key: str) -> TierName | None:
        return "host" if key in self._host else "disk"

    async def preload(self, key: str) -> int:
        entry = self._entries[key]
        if key in self._host or not self._makes_room(entry):
            return 0
        self._ledger.moved(key, entry.nbytes, 0.0)
        return entry.nbytes

    def use(self, entry: Entry) -> bool:
        """A turn uses a page; whether it was in memory."""
        hit = entry.key in self._host
        entry.uses += 1
        entry.last_used_at = self._clock.now
        self._ledger.used(entry.key)
        if hit:
            self._host[entry.key] = self._host.pop(entry.key)
        else:
            self._makes_room(entry, demanded=True)
        return hit

    def _makes_room(self, entry: Entry, *, demanded: bool = False) -> bool:
        """Take a page in. Without a worth the least recently used leave, with one those that are worth less."""
        others = [self._entries[key] for key in self._host]
        worths = [0.0] * len(others) if self.worth is None else self.worth(others)
        limit = float("inf") if self.worth is None else self.worth([entry])[0] * (1.0 if demanded else CLEARLY_LESS)
        leaving, free = [], self.budget - self.used_bytes
        for other, worth in sorted(zip(others, worths, strict=True), key=lambda pair: pair[1]):
            if free >= entry.nbytes:
                break
            if worth >= limit:
                return False
            leaving.append(other)
            free += other.nbytes
        if free < entry.nbytes:
            return False
        for other in leaving:
            del self._host[other.key]
            self.used_bytes -= other.nbytes
            self._ledger.left(other.key)
        self._host[entry.key] = None
        self.used_bytes += entry.nbytes
        return True


def entries_of(scenes: Scenes, fingerprint: Fingerprint) -> list[Entry]:
    """The pages of all cubes as a catalogue would have them."""
    found = []
    for cube in scenes.cubes:
        root = page_root(fingerprint, TENANT, cube.header.token_ids)
        for plan in cube.pages:
            tokens = Prompt(plan.members).token_ids
            nbytes = len(tokens) * fingerprint.layout.bytes_per_token
            entry = Entry(
                key=chain_key(root, tokens),
                parent=root,
                fingerprint=fingerprint.digest,
                start=0,
                n_tokens=len(tokens),
                nbytes=nbytes,
                labels=frozenset(piece.label for piece in plan.members if piece.label),
                created_at=0.0,
                last_used_at=0.0,
                disk_bytes=nbytes,
                root=root,
                parts=cut_parts(root, tokens, [(len(piece.token_ids), piece.label) for piece in plan.members]),
                certificate=Certificate({}, {}),
            )
            found.append(entry)
    return found


@dataclass(frozen=True)
class Row:
    """One policy at one host budget. ``wasted_share``: of the bytes preloaded, those that nobody used; ``of_lru``: the
    times to first token by those of the least-recently-used policy in the same run, turn by turn."""

    policy: PolicyName
    budget_bytes: int
    hit_rate: float
    wasted_share: float | None
    preloaded_bytes: int
    loaded_bytes: int
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    ttft_p99_s: float | None = None
    of_lru_p50: Interval | None = None
    of_lru_p99: Interval | None = None


async def replay_index(
    scenes: Scenes, memories: MemoryStore, policy: PolicyName, budget: int, config: ForesightConfig | None = None
) -> tuple[Row, dict[str, Any] | None]:
    """One policy at one budget, without a model; the predictor's report card with it."""
    clock = Clock()
    engine = IndexEngine(scenes, {"none": 0, "resident": 1 << 62}.get(policy, budget), clock)
    foresight: Foresight | None = None
    if policy == "lfu":
        engine.worth = lambda entries: [float(entry.uses) for entry in entries]
    if policy in ("predictor", "adversary"):
        predictor = Contrary("blend") if policy == "adversary" else None
        upkeep = Upkeep(engine, engine, memories)
        foresight = Foresight(engine, engine, memories, upkeep, config, clock=clock, predictor=predictor)
    future = Future(scenes, engine.needed) if policy == "oracle" else None
    hits = total = loaded = 0
    headers = {cube.id: cube.header.token_ids for cube in scenes.cubes}
    for i, turn in enumerate(scenes.turns):
        clock.now = turn.at
        if foresight is not None:
            foresight.tick()
            await foresight.settled()
        needed = engine.needed(turn)
        if future is not None:
            engine.worth = future.worth(i)
            for entry in needed:
                await engine.preload(entry.key)
        for entry in needed:
            total += 1
            hit = engine.use(entry) or policy == "resident"
            hits += hit
            loaded += 0 if hit else entry.nbytes
        if foresight is not None:
            ids = tuple(memory.id for memory in turn.found)
            foresight.see(Scene(TENANT, turn.cube_id, headers[turn.cube_id], ids, turn.text, turn.at))
            await foresight.settled()
    done = engine.preloads()
    wasted = None if not done.bytes else round(1 - done.used_bytes / done.bytes, 4)
    row = Row(policy, budget, round(hits / max(1, total), 4), wasted, done.bytes, loaded)
    return row, None if foresight is None else foresight.report()


class Future:
    """When each page is needed next."""

    def __init__(self, scenes: Scenes, needed: Callable[[Turn], list[Entry]]) -> None:
        self._uses: dict[str, list[int]] = {}
        for i, turn in enumerate(scenes.turns):
            for entry in needed(turn):
                self._uses.setdefault(entry.key, []).append(i)

    def worth(self, now: int) -> Worth:
        """Pages that are needed sooner are worth more."""

        def next_use(entry: Entry) -> float:
            return next((float(i) for i in self._uses.get(entry.key, ()) if i >= now), float("inf"))

        return lambda entries: [1.0 / (1.0 + next_use(entry) - now) for entry in entries]


def total_bytes(scenes: Scenes) -> int:
    """Of all pages."""
    return sum(
        len(piece.token_ids) * LAYOUT.bytes_per_token
        for cube in scenes.cubes
        for plan in cube.pages
        for piece in plan.members
    )
