"""Next-scene prediction at work: from what a turn used to what the coming turns will need, and having that ready.

After each turn its cube's history is brought up to date, earlier predictions are settled (and learned from), and every
page of the cube's memories gets a probability of being used in the coming turns. Likely ones are brought up by the
preloader, likely memories without a page get one built, and the memory tiers keep what is most likely to be used.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine.base import Source, Started
from kvcache import Entry, Prefix, SegmentView
from memory import MemoryStore, NotFound, Surroundings
from scheduler.background import Worker
from scheduler.events import EventLog
from scheduler.planner import EARLIER, Plan
from scheduler.prediction.advice import Advisor, Priced, memory_id
from scheduler.prediction.arrival import Gaps
from scheduler.prediction.cubes import Cube, Cubes
from scheduler.prediction.density import density
from scheduler.prediction.outcomes import Outcomes
from scheduler.prediction.predictors import PredictorName, SignalPredictor
from scheduler.prediction.preloader import Mover, PreloadConfig, Preloader, PreloaderStats, Wanted
from scheduler.prediction.ranking import CubeKey, Ranking, Ranks
from scheduler.prediction.saved import read_state, write_state
from scheduler.standing import STANDING
from scheduler.upkeep import Upkeep

log = logging.getLogger(__name__)

# In the prompt whatever the turn was about.
_THERE = (*STANDING, EARLIER)
_MAX_WAITING = 256
_TEND_EVERY_S = 15.0


class Foreseen(Mover, Priced, Protocol):
    """The engine, as far as prediction needs it."""


@dataclass(frozen=True)
class ForesightConfig:
    """``horizon_s``: how far ahead is predicted at most."""

    predictor: PredictorName = "blend"
    horizon_s: float = field(default=1800.0, metadata={"range": (1, 1e6)})
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

    @property
    def key(self) -> CubeKey:
        """The cube's."""
        return self.tenant, self.cube_id


@dataclass
class ForesightStats:
    """Counters since the start: turns seen, turns not looked at because too many came at once, failures; memories in
    prompts by where their keys and values came from."""

    scenes: int = 0
    dropped: int = 0
    failures: int = 0
    sources: Counter[Source] = field(default_factory=Counter)


class Foresight:
    """Predicts after each turn, and hands the ranking that follows down to ``stored``. Not thread-safe: lives in the
    event loop."""

    def __init__(
        self,
        engine: Foreseen,
        stored: SegmentView,
        memories: MemoryStore,
        upkeep: Upkeep,
        config: ForesightConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
        predictor: SignalPredictor | None = None,
    ) -> None:
        self.config = config or ForesightConfig()
        self.events = EventLog()
        self.preloader = Preloader(engine, stored, self.config.preload, self.events)
        self._stored = stored
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
        self._cubes = Cubes()
        self._ranks = Ranks()
        self.advisor = Advisor(engine, stored, self._cubes, self.preloader)
        self._scenes: deque[Scene] = deque()
        self._worker = Worker("foresight", self._next_scene, self._scene_failed)
        self._tending: asyncio.Task[None] | None = None
        self._path: Path | None = None
        self._saved = 0
        self._stats = ForesightStats()
        self.ranking = self._hand_down()
        """The ranking that was handed down last."""

    # -- what happens ----------------------------------------------------------------------------------------

    def observe(self, tenant: str, cube_ids: Sequence[str], plan: Plan, started: Started, text: str) -> None:
        """Take in a turn whose first token is out. Returns at once; the work is done beside the requests."""
        if plan.mode != "kv":
            return
        for planned in plan.memories:
            if planned.piece is not None:
                self._stats.sources[started.pieces[planned.piece].source] += 1
        header = None if plan.prompt.header is None else plan.prompt.header.token_ids
        chain = tuple(_chain(plan, started, self._stored.start(tenant)))
        for cube_id in cube_ids:
            used = tuple(p.memory.id for p in plan.memories if p.memory.cube_id == cube_id and p.why not in _THERE)
            self.see(Scene(tenant, cube_id, header, used, text, self._clock(), chain))

    def see(self, scene: Scene) -> None:
        """Take a scene in, soon."""
        if len(self._scenes) >= _MAX_WAITING:
            self._scenes.popleft()
            self._stats.dropped += 1
        self._scenes.append(scene)
        self._worker.wake()

    async def hint(self, tenant: str, cube_id: str, text: str) -> int:
        """Take in what an application says is coming ("user opened the billing page"); return how many segments are
        expected now. Raises ``NotFound``, ``EmbedderError``."""
        around = await asyncio.to_thread(self._memories.around, tenant, cube_id, text, ())
        cube = self._cube((tenant, cube_id))
        cube.history.hinted(around.cosines, self._clock())
        return self._predicted((tenant, cube_id), cube, around)

    async def typing(self, tenant: str, cube_id: str, text: str, top_k: int) -> int:
        """Take in that somebody is typing ``text``, which is kept nowhere; return how many segments are expected now.
        Raises ``NotFound``, ``EmbedderError``."""
        hits = await asyncio.to_thread(
            lambda: self._memories.search(tenant, text, cube_ids=[cube_id], top_k=max(1, top_k))
        )
        around = await asyncio.to_thread(self._memories.around, tenant, cube_id, text, ())
        cube = self._cube((tenant, cube_id))
        cube.history.typed([hit.memory.id for hit in hits], self._clock())
        return self._predicted((tenant, cube_id), cube, around)

    # -- the work --------------------------------------------------------------------------------------------

    async def _next_scene(self) -> bool:
        if not self._scenes:
            return False
        scene = self._scenes.popleft()
        try:
            await self._take_in(scene)
        except NotFound:  # the cube is gone
            self._cubes.forget(scene.key)
            self._ranks.forget(scene.key)
            self._hand_down()
        return True

    def _scene_failed(self) -> str:
        self._stats.failures += 1
        return "a scene could not be taken in"

    async def _take_in(self, scene: Scene) -> None:
        around = await asyncio.to_thread(
            self._memories.around, scene.tenant, scene.cube_id, scene.text, list(scene.used)
        )
        self._stats.scenes += 1
        cube = self._cube(scene.key)
        history = cube.history
        if history.turn:
            self._gaps.observe(scene.at - history.last_at)
        used = (*scene.used, *scene.chain)
        history.observe(used, scene.at)
        cube.rhythm.observe(scene.at)
        self._outcomes.observe(cube.waiting, frozenset(used), history.turn, scene.at)
        history.drifted(around.cosines, around.neighbours)
        cube.header = scene.header or cube.header
        expected = self._predicted(scene.key, cube, around, expect=True)
        self.events.publish(
            "scene",
            tenant=scene.tenant,
            cube=scene.cube_id,
            turn=history.turn,
            memories=len(scene.used),
            expected=expected,
        )

    def _cube(self, key: CubeKey) -> Cube:
        cube, gone = self._cubes.use(key)
        if gone is not None:
            self._ranks.forget(gone)
            self.preloader.offer(gone, ())
        return cube

    def _predicted(self, key: CubeKey, cube: Cube, around: Surroundings, *, expect: bool = False) -> int:
        """Predict, hand the ranking down, and have the likely segments brought up; return how many they are.
        ``expect``: wait for what becomes of this prediction."""
        cube.header = cube.header or self._upkeep.plain_header()
        if cube.header is not None:
            self._cubes.changed(key)
            self._predict(key, cube, around, expect=expect)
        self._ranks.update(key, cube.rank())
        self._hand_down()
        return 0 if cube.header is None else self._offer(key, cube)

    def _predict(self, key: CubeKey, cube: Cube, around: Surroundings, *, expect: bool) -> None:
        """Settle how likely each of the cube's segments is, and have pages built for likely memories without one."""
        assert cube.header is not None, "pages stand behind a header"
        known = set(cube.history.known)
        # A page is needed when a memory in it is, a chained segment when its whole chain is: what is known of that is
        # whether it was.
        found = self._stored.behind(key[0], cube.header).holding(around.labels.values())
        segments = [entry for entry in found if entry.kind == "standalone" or entry.key in known]
        members = [_members(entry) for entry in segments]
        paged = frozenset[str]().union(*members)
        unpaged = [id for id in (cube.history.near | known) & around.labels.keys() if id not in paged]
        rows = cube.history.rows([*members, *(frozenset({id}) for id in unpaged)], self._clock())
        n = len(segments)
        if expect:
            predicted = self._outcomes.expect(cube.waiting, members, rows[:n], cube.history.turn, self._clock())
        else:
            predicted = self._predictor.probabilities(rows[:n])
        keys = [entry.key for entry in segments]
        cube.likely = dict(zip(keys, predicted[:, -1].tolist(), strict=True))
        cube.density = dict(zip(keys, density(predicted, self._predictor.horizons).tolist(), strict=True))
        cube.sizes = {entry.key: entry.nbytes for entry in segments}
        self._ranks.own(key, keys)
        likely = self._predictor.probabilities(rows[n:])[:, -1] >= self.config.preload.min_probability
        labels = [around.labels[id] for id, wanted in zip(unpaged, likely, strict=True) if wanted]
        if labels:
            self._upkeep.want(key[0], key[1], cube.header, labels)

    def _offer(self, key: CubeKey, cube: Cube) -> int:
        share = (
            cube.still_coming(self._gaps.table, self.config.horizon_s, self._clock()) if self._outcomes.trusted else 0.0
        )
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

    def _hand_down(self) -> Ranking:
        """Have the memory tiers rank by what is known now."""
        self.ranking = self._ranks.ranking(trusted=self._outcomes.trusted, gaps=self._gaps.table, clock=self._clock)
        self._stored.rank_by(self.ranking.worth)
        return self.ranking

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
        """From time to time: expect conversations that have paused less, and those whose hour has come more."""
        now = self._clock()
        for key, cube in self._cubes:
            if cube.waiting and now - cube.waiting[0].at > self.config.horizon_s:
                self._outcomes.observe(cube.waiting, frozenset(), cube.history.turn, now)
            if cube.likely:
                self._offer(key, cube)
        self._hand_down()

    async def settled(self) -> None:
        """Wait until what was seen is taken in and what is queued has been moved."""
        await self._worker.settled()
        await self.preloader.settled()

    async def close(self) -> None:
        """Stop, and keep what was learned."""
        await self.preloader.close()
        await self._worker.close()
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        await self._save()

    def forget(self, tenant: str, cube_id: str) -> None:
        """Forget a cube that is gone, and what was learned of it alone."""
        key = (tenant, cube_id)
        if self._cubes.forget(key):
            self._ranks.forget(key)
            self._hand_down()
            self.preloader.offer(key, ())
            self._saved = -1  # what is kept on disk is to be written anew

    # -- looking ---------------------------------------------------------------------------------------------

    def stats(self) -> tuple[ForesightStats, PreloaderStats]:
        """Return the counters of prediction, and of preloading."""
        return self._stats, self.preloader.stats()

    def report(self) -> dict[str, Any]:
        """Return the report card, as the API shows it."""
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
        """Return segments of a cube and the probability that each is used within the horizon."""
        cube = self._cubes.get((tenant, cube_id))
        if cube is None:
            return {}
        share = cube.still_coming(self._gaps.table, self.config.horizon_s, self._clock())
        return {key: p * share for key, p in sorted(cube.likely.items(), key=lambda item: -item[1])}

    # -- restarts --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what was learned, as JSON: ids and numbers, no texts."""
        return {
            "version": 1,
            "predictor": self._predictor.state(),
            "gaps": self._gaps.state(),
            "cubes": self._cubes.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`, and have what was likely then brought up again. Raises ``ValueError`` for
        something else."""
        try:
            self._predictor.restore(state["predictor"])
            self._gaps.restore(state["gaps"])
            for item in state["cubes"]:
                key, cube = self._cubes.restore(item)
                self._ranks.update(key, cube.rank())
                self._ranks.own(key, cube.likely)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no state of the scheduler: {error}") from error
        finally:
            self._hand_down()


def _chain(plan: Plan, started: Started, prefix: Prefix) -> Iterator[str]:
    """Walk over the keys of the chained segments behind ``prefix`` that hold memories of a prompt."""
    for piece, report in zip(plan.prompt.pieces, started.pieces, strict=True):
        if not piece.storable or report.fidelity != "exact":
            return
        prefix = prefix.then(piece.token_ids)
        if piece.kind == "memory":
            yield prefix.key


def _members(entry: Entry) -> frozenset[str]:
    """Return what stands for a segment in its cube's history: the memories of a page, a chained segment itself."""
    if entry.kind == "chained":
        return frozenset({entry.key})
    return frozenset(memory_id(part.label) for part in entry.parts if part.label)
