"""Next-scene prediction at work: from what a turn used to what the coming turns will need, and having that ready.

After each turn its cube's history is brought up to date, earlier predictions are settled (and learned from), and every
page of the cube's memories gets a probability of being used in the coming turns. Likely ones are brought up by the
preloader, likely memories without a page get one built, and the memory tiers keep what is most likely to be used.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.base import ChatMessage, Engine, MemoryText, Source, Started
from kvcache import Entry, PreloadStats, chain_key, page_root, root_key
from memory import Memory, MemoryStore, NotFound, Surroundings
from scheduler.events import EventLog
from scheduler.planner import EARLIER, STANDING, Plan
from scheduler.prediction.advice import Advice, Costs, advise
from scheduler.prediction.arrival import Gaps, Rhythm
from scheduler.prediction.density import density
from scheduler.prediction.predictors import Expected, Outcomes, PredictorName, SignalPredictor
from scheduler.prediction.preloader import PreloadConfig, Preloader, PreloaderStats, Wanted
from scheduler.prediction.signals import CubeHistory
from scheduler.saved import read_state, write_state
from scheduler.upkeep import Upkeep

log = logging.getLogger(__name__)

# In the prompt whatever the turn was about.
_THERE = (*STANDING, EARLIER)
_MAX_CUBES = 4096
_MAX_WAITING = 256
_MAX_WORTH = 65_536
_TEND_EVERY_S = 15.0

CubeKey = tuple[str, str]


@dataclass(frozen=True)
class ForesightConfig:
    """``horizon_s``: how far ahead is predicted at most."""

    predictor: PredictorName = "blend"
    horizon_s: float = 1800.0
    preload: PreloadConfig = field(default_factory=PreloadConfig)


@dataclass(frozen=True)
class Scene:
    """One turn of one cube: the memories in the prompt that were not there anyway, what the user said, and the chained
    segments that hold memories of it (by key)."""

    tenant: str
    cube_id: str
    header: tuple[int, ...] | None
    used: tuple[str, ...]
    text: str
    at: float
    chain: tuple[str, ...] = ()


@dataclass(eq=False)
class _Cube:
    """What is known of a cube. ``header``: what its pages stand behind in the prompts that were seen last. ``likely``,
    ``density`` and ``sizes`` are never changed, only replaced: other threads read them."""

    history: CubeHistory = field(default_factory=CubeHistory)
    rhythm: Rhythm = field(default_factory=Rhythm)
    waiting: deque[Expected] = field(default_factory=deque)
    header: tuple[int, ...] | None = None
    likely: dict[str, float] = field(default_factory=dict)
    density: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    offered: bool = False

    def state(self, key: CubeKey) -> dict[str, Any]:
        """As JSON."""
        return {
            "tenant": key[0],
            "cube": key[1],
            "header": None if self.header is None else list(self.header),
            "history": self.history.state(),
            "rhythm": self.rhythm.state(),
            "likely": {segment: round(p, 4) for segment, p in self.likely.items()},
            "density": {segment: round(value, 4) for segment, value in self.density.items()},
            "sizes": self.sizes,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> _Cube:
        """The opposite of :meth:`state`."""
        header = None if state["header"] is None else tuple(state["header"])
        cube = cls(CubeHistory.restored(state["history"]), Rhythm.restored(state["rhythm"]), header=header)
        cube.likely, cube.density = dict(state["likely"]), dict(state["density"])
        cube.sizes = dict(state["sizes"])
        return cube


@dataclass
class ForesightStats:
    """Counters since the start: turns seen, turns not looked at because too many came at once, failures; memories in
    prompts by where their keys and values came from."""

    scenes: int = 0
    dropped: int = 0
    failures: int = 0
    sources: Counter[Source] = field(default_factory=Counter)


class Foresight:
    """Not thread-safe: lives in the event loop, except :meth:`worth`."""

    def __init__(
        self,
        engine: Engine,
        memories: MemoryStore,
        upkeep: Upkeep,
        ledger: Callable[[], PreloadStats],
        config: ForesightConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
        predictor: SignalPredictor | None = None,
    ) -> None:
        self.config = config or ForesightConfig()
        self.events = EventLog()
        self.preloader = Preloader(engine, self.config.preload, ledger, self.events)
        self._engine = engine
        self._memories = memories
        self._upkeep = upkeep
        self._clock = clock
        self._predictor = predictor or SignalPredictor(self.config.predictor)
        self._outcomes = Outcomes(
            self._predictor,
            horizon_s=self.config.horizon_s,
            threshold=self.config.preload.min_probability,
        )
        self._gaps = Gaps()
        self._cubes: OrderedDict[CubeKey, _Cube] = OrderedDict()
        # By segment: the cube that it is of, for the memory tiers.
        self._owners: OrderedDict[str, CubeKey] = OrderedDict()
        self._states: dict[CubeKey, dict[str, Any]] = {}
        self._changed: set[CubeKey] = set()
        self._scenes: deque[Scene] = deque()
        self._task: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._path: Path | None = None
        self._saved = 0
        self._stats = ForesightStats()

    # -- what happens ----------------------------------------------------------------------------------------

    def observe(self, tenant: str, cube_ids: Sequence[str], plan: Plan, started: Started, text: str) -> None:
        """A turn whose first token is out. Returns at once; the work is done beside the requests."""
        if plan.mode != "kv":
            return
        for planned in plan.memories:
            if planned.piece is not None:
                self._stats.sources[started.pieces[planned.piece].source] += 1
        head = plan.prompt.pieces[0]
        header = head.token_ids if head.kind == "header" else None
        chain = tuple(_chain(plan, started, root_key(self._engine.fingerprint, tenant)))
        for cube_id in cube_ids:
            used = tuple(p.memory.id for p in plan.memories if p.memory.cube_id == cube_id and p.why not in _THERE)
            self.see(Scene(tenant, cube_id, header, used, text, self._clock(), chain))

    def see(self, scene: Scene) -> None:
        """Take a scene in, soon."""
        if len(self._scenes) >= _MAX_WAITING:
            self._scenes.popleft()
            self._stats.dropped += 1
        self._scenes.append(scene)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="foresight")

    async def hint(self, tenant: str, cube_id: str, text: str) -> int:
        """An application says what is coming ("user opened the billing page"); how many segments are expected
        now. Raises ``NotFound``, ``EmbedderError``."""
        around = await asyncio.to_thread(self._memories.around, tenant, cube_id, text, ())
        cube = self._cube(tenant, cube_id)
        cube.history.hinted(around.cosines, self._clock())
        return self._predict((tenant, cube_id), cube, around)

    async def typing(self, tenant: str, cube_id: str, text: str, top_k: int) -> int:
        """Somebody is typing ``text``; how many segments are expected now. The text is kept nowhere. Raises
        ``NotFound``, ``EmbedderError``."""
        hits = await asyncio.to_thread(
            lambda: self._memories.search(tenant, text, cube_ids=[cube_id], top_k=max(1, top_k))
        )
        around = await asyncio.to_thread(self._memories.around, tenant, cube_id, text, ())
        cube = self._cube(tenant, cube_id)
        cube.history.typed([hit.memory.id for hit in hits], self._clock())
        return self._predict((tenant, cube_id), cube, around)

    # -- the work --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._scenes:
            scene = self._scenes.popleft()
            try:
                await self._take_in(scene)
            except NotFound:  # the cube is gone
                self._cubes.pop((scene.tenant, scene.cube_id), None)
            except Exception:
                # The worker's edge: a prediction that fails costs speed, not answers.
                log.exception("a scene could not be taken in")
                self._stats.failures += 1

    async def _take_in(self, scene: Scene) -> None:
        around = await asyncio.to_thread(
            self._memories.around, scene.tenant, scene.cube_id, scene.text, list(scene.used)
        )
        self._stats.scenes += 1
        cube = self._cube(scene.tenant, scene.cube_id)
        history = cube.history
        if history.turn:
            self._gaps.observe(scene.at - history.last_at)
        used = (*scene.used, *scene.chain)
        history.observe(used, scene.at)
        cube.rhythm.observe(scene.at)
        self._outcomes.observe(cube.waiting, frozenset(used), history.turn, scene.at)
        history.drifted(around.cosines, around.neighbours)
        cube.header = scene.header or cube.header
        expected = self._predict((scene.tenant, scene.cube_id), cube, around, expect=True)
        self.events.publish(
            "scene",
            tenant=scene.tenant,
            cube=scene.cube_id,
            turn=history.turn,
            memories=len(scene.used),
            expected=expected,
        )

    def _cube(self, tenant: str, cube_id: str) -> _Cube:
        key = (tenant, cube_id)
        cube = self._cubes.setdefault(key, _Cube())
        self._cubes.move_to_end(key)
        if len(self._cubes) > _MAX_CUBES:
            gone, _ = self._cubes.popitem(last=False)
            self.preloader.offer(gone, ())
        return cube

    def _predict(self, key: CubeKey, cube: _Cube, around: Surroundings, *, expect: bool = False) -> int:
        """Settle what the cube's segments are worth, and have the likely ones brought up; how many they are.
        ``expect``: wait for what becomes of this prediction."""
        cube.header = cube.header or self._upkeep.plain_header()
        if cube.header is None:
            return 0
        self._changed.add(key)
        root = page_root(self._engine.fingerprint, key[0], cube.header)
        known = set(cube.history.known)
        # A page is needed when a memory in it is, a chained segment when its whole chain is: what is known of that is
        # whether it was.
        found = self._engine.holding(around.labels.values(), root)
        segments = [entry for entry in found if entry.kind == "standalone" or entry.key in known]
        members = [_members(entry) for entry in segments]
        housed = frozenset[str]().union(*members)
        homeless = [id for id in (cube.history.near | known) & around.labels.keys() if id not in housed]
        rows = cube.history.rows([*members, *(frozenset({id}) for id in homeless)], self._clock())
        n = len(segments)
        if expect:
            predicted = self._outcomes.expect(cube.waiting, members, rows[:n], cube.history.turn, self._clock())
        else:
            predicted = self._predictor.probabilities(rows[:n])
        keys = [entry.key for entry in segments]
        cube.likely = dict(zip(keys, predicted[:, -1].tolist(), strict=True))
        cube.density = dict(zip(keys, density(predicted, self._predictor.horizons).tolist(), strict=True))
        cube.sizes = {entry.key: entry.nbytes for entry in segments}
        for entry in segments:
            self._owners[entry.key] = key
            self._owners.move_to_end(entry.key)
        while len(self._owners) > _MAX_WORTH:
            self._owners.popitem(last=False)
        self._build_likely(key, cube, around, homeless, self._predictor.probabilities(rows[n:])[:, -1])
        return self._offer(key, cube)

    def _build_likely(
        self, key: CubeKey, cube: _Cube, around: Surroundings, homeless: Sequence[str], predicted: Iterable[float]
    ) -> None:
        least = self.config.preload.min_probability
        labels = [around.labels[id] for id, p in zip(homeless, predicted, strict=True) if p >= least]
        if labels and cube.header is not None:
            self._upkeep.want(key[0], key[1], cube.header, labels)

    def _offer(self, key: CubeKey, cube: _Cube) -> int:
        share = self._still_coming(cube, self._clock()) if self._outcomes.trusted else 0.0
        least = self.config.preload.min_probability
        if share * max(cube.likely.values(), default=0.0) < least:
            if cube.offered:
                self.preloader.offer(key, ())
                cube.offered = False
            return 0
        cube.offered = True
        deadline = time.monotonic() + self.config.horizon_s
        wanted = [Wanted(segment, p * share, cube.sizes[segment], deadline) for segment, p in cube.likely.items()]
        self.preloader.offer(key, wanted)
        return sum(item.probability >= least for item in wanted)

    def _still_coming(self, cube: _Cube, now: float) -> float:
        """What is left of a prediction after the conversation has paused: predictions are made right after a turn."""
        idle_s = max(0.0, now - cube.history.last_at)
        if cube.history.turn == 0 or idle_s < 1.0:
            return 1.0
        horizon_s = self.config.horizon_s
        at_once = self._gaps.returns_within(horizon_s, 0.0)
        now_p = max(self._gaps.returns_within(horizon_s, idle_s), cube.rhythm.likely(now))
        return min(1.0, now_p / max(at_once, 1e-9))

    # -- what segments are worth -----------------------------------------------------------------------------

    def worth(self, entries: Sequence[Entry]) -> list[float]:
        """For the memory tiers: uses a second of being kept, by which a use that comes soon is worth more than one that
        comes late: uses a turn (``density``) x turns a second of the cube. (Bringing a segment back
        costs as many seconds a byte as the next, so that bytes and seconds cancel out.) While the predictor is not
        trusted, what was used last is worth most. May be called by any thread: of what the event loop changes meanwhile
        it looks up single keys, and reads values that are replaced as a whole."""
        if not self._outcomes.trusted:
            return [entry.last_used_at for entry in entries]
        now = self._clock()
        return [self._worth(entry, now) for entry in entries]

    def _worth(self, entry: Entry, now: float) -> float:
        owner = self._owners.get(entry.key)
        cube = None if owner is None else self._cubes.get(owner)
        if owner is None or cube is None:
            # A conversation's turns, above all: they are used again if it goes on.
            return self._gaps.rate(max(0.0, now - entry.last_used_at))
        turns_s = max(self._gaps.rate(max(0.0, now - cube.history.last_at)), cube.rhythm.likely(now) / 3600)
        return cube.density.get(entry.key, 0.0) * turns_s

    # -- beside the requests ---------------------------------------------------------------------------------

    def start(self, path: Path) -> None:
        """Go on from what ``path`` holds, where there is such a file, and keep it there."""
        self._path = path
        state = read_state(path)
        if state is not None:
            try:
                self.restore(state)
            except ValueError as error:
                log.warning("%s is left aside: %s", path.name, error)
        self._tending = asyncio.create_task(self._tend(), name="foresight-tending")

    async def _tend(self) -> None:
        self.tick()
        while True:
            await asyncio.sleep(_TEND_EVERY_S)
            self.tick()
            await self._save()

    async def _save(self) -> None:
        if self._path is None or self._saved == self._stats.scenes:
            return
        self._saved = self._stats.scenes
        try:
            await asyncio.to_thread(write_state, self._path, self.state())
        except OSError as error:
            log.warning("what the scheduler has learned could not be saved: %s", error.strerror)

    def tick(self) -> None:
        """From time to time: conversations that have paused are expected less, those whose hour has come more."""
        now = self._clock()
        for key, cube in list(self._cubes.items()):
            if cube.waiting and now - cube.waiting[0].at > self.config.horizon_s:
                self._outcomes.observe(cube.waiting, frozenset(), cube.history.turn, now)
            if cube.likely:
                self._offer(key, cube)

    async def settled(self) -> None:
        """Wait until what was seen is taken in and what is queued has been moved."""
        while self._scenes or (self._task is not None and not self._task.done()):
            await asyncio.sleep(0.001)
        await self.preloader.settled()

    async def close(self) -> None:
        await self.preloader.close()
        tasks = [task for task in (self._task, self._tending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._save()

    def forget(self, tenant: str, cube_id: str) -> None:
        """A cube is gone, and with it what was learned of it alone."""
        key = (tenant, cube_id)
        if self._cubes.pop(key, None) is not None:
            self.preloader.offer(key, ())
            self._saved = -1  # what is kept on disk is to be written anew

    # -- looking ---------------------------------------------------------------------------------------------

    def stats(self) -> tuple[ForesightStats, PreloaderStats]:
        return self._stats, self.preloader.stats()

    def report(self) -> dict[str, Any]:
        """The report card, as the API shows it."""
        card = self._outcomes.card
        return {
            "predictor": self.config.predictor,
            "trusted": self._outcomes.trusted,
            "scenes": self._stats.scenes,
            "precision": round(card.precision, 4),
            "recall": round(card.recall, 4),
            "predicted": round(card.predicted),
            "right": round(card.right),
            "used": round(card.used),
            "calibration_error": round(self._outcomes.calibration.error(), 4),
            "calibration": self._outcomes.calibration.table(),
            "weights": self._predictor.weights(),
        }

    def likely(self, tenant: str, cube_id: str) -> dict[str, float]:
        """Segments of a cube and the probability that each is used within the horizon."""
        cube = self._cubes.get((tenant, cube_id))
        if cube is None:
            return {}
        share = self._still_coming(cube, self._clock())
        return {key: p * share for key, p in sorted(cube.likely.items(), key=lambda item: -item[1])}

    def advise(self, tenant: str, cube_id: str, memories: Sequence[Memory], repaired: float) -> list[Advice]:
        """Whether it pays to keep the keys and values of these memories, what saves most first. ``repaired``: the share
        of their tokens that is computed anew. Raises ``ValueError`` where the engine did not measure this machine."""
        if self._engine.prefill_s(1, 0) is None:
            raise ValueError("this machine was not measured at start")
        texts = [MemoryText(memory.label, memory.text) for memory in memories]
        pieces = self._engine.render([ChatMessage("user", "-")], texts).pieces
        tokens = {_id_of(piece.label): len(piece.token_ids) for piece in pieces if piece.kind == "memory"}
        cube = self._cubes.get((tenant, cube_id)) or _Cube()
        costs = Costs(
            prefill_s=lambda n, behind: self._engine.prefill_s(n, behind) or 0.0,
            load_bytes_s=self.preloader.bytes_s,
            bytes_per_token=self._engine.fingerprint.layout.bytes_per_token,
            repaired=repaired,
        )
        root = page_root(self._engine.fingerprint, tenant, cube.header or ())
        housed = self._engine.holding([memory.label for memory in memories], root)
        activated = frozenset(id for entry in housed for id in (_id_of(label) for label in entry.labels))
        return advise(tokens, cube.history.uses_per_turn(), activated, costs, behind=len(pieces[0].token_ids))

    # -- restarts --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON: ids and numbers, no texts. Only cubes that have changed are written out anew."""
        self._states = {key: state for key, state in self._states.items() if key in self._cubes}
        self._states |= {key: self._cubes[key].state(key) for key in self._changed if key in self._cubes}
        self._changed.clear()
        return {
            "version": 1,
            "predictor": self._predictor.state(),
            "gaps": self._gaps.state(),
            "cubes": [self._states[key] for key in self._cubes if key in self._states],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`, and have what was likely then brought up again. Raises ``ValueError`` for
        something else."""
        try:
            self._predictor.restore(state["predictor"])
            self._gaps.restore(state["gaps"])
            for item in state["cubes"]:
                cube, key = _Cube.restored(item), (str(item["tenant"]), str(item["cube"]))
                self._cubes[key] = cube
                self._owners.update(dict.fromkeys(cube.likely, key))
                self._changed.add(key)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no state of the scheduler: {error}") from error


def _chain(plan: Plan, started: Started, key: str) -> Iterator[str]:
    """Keys of the chained segments below ``key`` that hold memories of a prompt."""
    for piece, report in zip(plan.prompt.pieces, started.pieces, strict=True):
        if not piece.keep or report.fidelity != "exact":
            return
        key = chain_key(key, piece.token_ids)
        if piece.kind == "memory":
            yield key


def _members(entry: Entry) -> frozenset[str]:
    """What stands for a segment in its cube's history: the memories of a page, a chained segment itself."""
    if entry.kind == "chained":
        return frozenset({entry.key})
    return frozenset(_id_of(part.label) for part in entry.parts if part.label)


def _id_of(label: str | None) -> str:
    """A memory's id from its label."""
    return (label or "").partition("@")[0]
