"""The engine's thread: continuous batching over prompts in chunks and decoding streams.

One turn of the loop, ``_step``, is: take in what has arrived; admit what there is room for (segments in memory
are injected at once, those on disk are read by a second thread meanwhile); pick a batch of one token of every
decoding stream and as many prompt tokens as the chunk size allows; one forward pass; send what it gave.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

from engine.base import Capacity, GenerateRequest
from engine.errors import EngineClosed, EngineError, OutOfDeviceMemory, TooLargeForMemory
from engine.placement import CompositionConfig, MissingPiece
from engine.transformers.attention import Interrupted, SequenceKV
from engine.transformers.choosing import Asked, Chooser, chooser
from engine.transformers.composition import Composition, find_composition
from engine.transformers.cost import CostModel
from engine.transformers.governor import ThreadGovernor
from engine.transformers.loading import LoadedModel
from engine.transformers.runner import ModelRunner, Work
from engine.transformers.scoring import take_scores
from engine.transformers.sequence import Choice, Group
from engine.transformers.threads import compute_with, usable_threads
from engine.vocabulary import Vocabulary
from kvcache import Entry, KVCacheError, Loaded, ModelView, Segment, SegmentStore
from kvcache.copies import use_device

log = logging.getLogger(__name__)
T = TypeVar("T")

# From this length on a segment is attended to where it lies; below, copying it beats one more call per step.
_MIN_SPAN_TOKENS = 256
# Of so many prompt tokens a step, at most, the logits are wanted: those of 256 tokens are 50 to 150 MB.
_SCORED_TOKENS = 256
# A waiting prompt counts as this many tokens shorter per second, so that short ones cannot starve a long one.
_AGING_TOKENS_PER_S = 200.0


@dataclass(frozen=True)
class BatchingConfig:
    """Limits of the batch. Chunks are in prompt tokens per step: a large one when nothing is being decoded, a
    small one otherwise, so that running streams keep moving. None: what suits the device."""

    max_running: int = 16
    prefill_chunk: int | None = None
    busy_prefill_chunk: int | None = None
    kv_bytes: int | None = None
    """On the device, for the keys and values of requests and of the device tier together: a request waits until those
    of its prompt and all of its answer fit beside those of the others, and the tier gives way. None: as many as there
    are."""

    def chunks(self, device: torch.device) -> tuple[int, int]:
        """Both chunk sizes. A GPU takes as long to launch a pass as to compute some hundred tokens."""
        alone, busy = (512, 64) if device.type == "cpu" else (8192, 512)
        return self.prefill_chunk or alone, self.busy_prefill_chunk or busy


@dataclass(frozen=True, eq=False)
class IdleTask:
    """Work that may wait: each step takes about as long as a chunk of a prompt."""

    steps: Generator[None, None, bool]
    future: Future[bool]

    def advance(self) -> bool:
        """Take a step; False after the last one."""
        if self.future.cancelled():
            self.steps.close()
            return False
        try:
            next(self.steps)
        except StopIteration as end:
            with suppress(InvalidStateError):  # cancelled in this very moment
                self.future.set_result(end.value)
            return False
        except Exception as error:
            # The worker's edge: a failed task is its owner's to hear of, and must not fail requests.
            log.exception("a task in idle time failed")
            with suppress(InvalidStateError):
                self.future.set_exception(error)
            return False
        return True


@dataclass(frozen=True, eq=False)
class Step:
    """What one forward pass works on: ``work`` is parallel to prompts (a chunk each), then streams."""

    prompts: list[tuple[Group, int]]
    streams: list[tuple[Group, Choice]]

    @property
    def groups(self) -> list[Group]:
        """The requests in it, each once."""
        return list({id(group): group for group, _ in (*self.prompts, *self.streams)}.values())

    @property
    def ended(self) -> list[Group]:
        """The requests whose prompts are computed with it, once their progress is counted."""
        return [group for group, _ in self.prompts if group.remaining == 0]

    @property
    def largest(self) -> Group:
        """The request with the most keys and values."""
        return max(self.groups, key=lambda group: group.held_tokens)

    @property
    def in_background(self) -> bool:
        """Whether nobody waits for it."""
        return not self.streams and all(group.background for group, _ in self.prompts)


@dataclass(frozen=True, eq=False)
class Row:
    """A choice of a request that chooses a token from row ``row`` of a step's logits."""

    group: Group
    choice: Choice
    row: int


class EngineWorker(threading.Thread):
    """Owns the model. Others talk to it through :meth:`submit`, :meth:`abort` and :meth:`stop`."""

    def __init__(
        self,
        model: LoadedModel,
        store: SegmentStore,
        config: BatchingConfig,
        composing: CompositionConfig,
        vocabulary: Vocabulary,
        cost: CostModel | None = None,
        governor: ThreadGovernor | None = None,
    ) -> None:
        super().__init__(name="engine", daemon=True)
        self.governor = governor or ThreadGovernor(usable_threads(), adaptive=False)
        self.ready = threading.Event()
        self._model = model
        self._store = store
        self._config = config
        self._chunk, self._busy_chunk = config.chunks(model.device)
        self._composing = composing
        self._cost = cost
        self._vocabulary = vocabulary
        self._runner = ModelRunner(model.model, self.governor)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[Group] = deque()
        self._loading: list[Group] = []
        self._running: list[Group] = []
        self._idle: deque[IdleTask] = deque()
        self._urgent = threading.Event()
        self._loader = ThreadPoolExecutor(2, "segment-loader", use_device, (model.device,))
        self._stopping = False
        self._reserved = 0
        self.failures = 0
        self.out_of_memory = 0

    # -- called from other threads ---------------------------------------------------------------------------

    def submit(self, group: Group) -> None:
        self._inbox.put(lambda: self._waiting.append(group))
        if not group.background:
            self._urgent.set()

    def abort(self, group: Group) -> None:
        """Drop a request before the next step; its sink hears nothing more."""
        group.aborted = True
        self._inbox.put(lambda: None)

    def when_idle(self, steps: Generator[None, None, bool]) -> Future[bool]:
        """Run ``steps`` on this thread, one at a time and only while no request is here."""
        future: Future[bool] = Future()
        self._inbox.put(lambda: self._idle.append(IdleTask(steps, future)))
        return future

    @property
    def background(self) -> tuple[int, Callable[[], bool]]:
        """For work in idle time: tokens of a step, and what to ask in the middle of one whether to break it off."""
        return self._chunk, self._urgent.is_set

    def call(self, work: Callable[[ModelRunner], T]) -> Future[T]:
        """Run ``work`` on the model between two steps, on this thread (a benchmark's bare forward pass, say)."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work(self._runner))
            except Exception as error:  # noqa: BLE001 - handed on to whoever asked
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def stop(self) -> None:
        """End after the current step; requests that are left fail with ``EngineClosed``."""
        self._stopping = True
        self._inbox.put(None)

    def capacity(self) -> Capacity:
        # Lengths read without a lock: good enough for a gauge.
        waiting = len(self._waiting) + len(self._loading)
        return Capacity(self._model.context, self._config.max_running, len(self._running), waiting)

    def check_memory(self, request: GenerateRequest) -> None:
        """Raise ``TooLargeForMemory`` for a request that would have to wait for ever."""
        budget = self._config.kv_bytes
        n_tokens = request.prompt.n_tokens + request.n * request.sampling.max_tokens
        needed = n_tokens * self._model.fingerprint.layout.bytes_per_token
        if budget is not None and needed > budget:
            raise TooLargeForMemory(needed, budget)

    def has_requests(self) -> bool:
        """Whether a request is here or has just come."""
        return self._urgent.is_set() or bool(self._running or self._waiting or self._loading)

    # -- the loop --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self) -> None:
        use_device(self._model.device)
        compute_with(self.governor.most)
        self.ready.set()
        while not self._stopping:
            try:
                self._step()
            except Exception as error:
                # The worker's edge: a failed step fails the requests in it, not the server.
                log.exception("a step of the engine failed")
                self.failures += 1
                self._fail_all(EngineError(f"the engine failed: {type(error).__name__}"))
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._take_inbox(block=False)
        self._fail_all(EngineClosed("the engine is shutting down"))
        for task in self._idle:
            task.steps.close()
            task.future.cancel()

    def _step(self) -> None:
        self._take_inbox(block=not (self._running or self._waiting or self._idle))
        self._drop_finished()
        self._admit()
        if self._idle and not (self._running or self._waiting or self._loading):
            if not self._idle[0].advance():
                self._idle.popleft()
            return
        self._settle()
        step = self._pick()
        if not step.prompts and not step.streams:
            if self._loading or self._waiting:
                self._take_inbox(block=True)  # a load that ends, or a new request, wakes the loop
            return
        work = [self._work(group, n) for group, n in step.prompts]
        work += [Work(choice.kv, (choice.last_token,)) for _, choice in step.streams]
        try:
            logits = self._with_memory(lambda: self._forward(step, work))
        except Interrupted:  # taken up again when nobody waits
            return
        except torch.OutOfMemoryError:
            self._fail_for_memory(step.largest)  # the others' turn comes again: sequences have not grown
            return
        try:
            logits = self._with_memory(lambda: self._scored(step, work, logits))
            for group, n in step.prompts:
                group.done += n
            rows = self._with_memory(lambda: self._rows(step))
            chosen = self._with_memory(lambda: self._chosen(rows, logits))
        except torch.OutOfMemoryError:
            for group in step.groups:  # their sequences have grown
                self._fail_for_memory(group)
            return
        self._deliver(step, rows, chosen)
        self._drop_finished()

    def _forward(self, step: Step, work: Sequence[Work]) -> torch.Tensor:
        logits = self._runner.forward(work, self._urgent.is_set if step.in_background else None)
        if step.in_background:
            self._runner.wait()
        return logits

    def _scored(self, step: Step, work: Sequence[Work], logits: torch.Tensor) -> torch.Tensor:
        """The rows to choose tokens from, once the prompts' tokens were scored by the others."""
        for group in step.groups:
            del group.scores[group.scored :]  # of an attempt that was given up
        rows = take_scores(step.prompts, work, logits, self._vocabulary)
        for group in step.groups:
            group.scored = len(group.scores)
        return rows

    # -- when the device's memory is short -------------------------------------------------------------------

    def _with_memory(self, work: Callable[[], T]) -> T:
        """Do ``work``; where the device's memory is too short for it, once more after segments were evicted."""
        try:
            return work()
        except torch.OutOfMemoryError as error:
            log.warning("the device's memory is short: %s", error)
        # Not in the handler above: the error holds on to what was allocated until it came.
        self.out_of_memory += 1
        freed = self._store.free_device()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("%d bytes of segments have left the device; trying once more", freed)
        return work()

    def _fail_for_memory(self, group: Group) -> None:
        """End one request, so that the others have room."""
        log.error("the device's memory is short: a request of %d tokens fails", group.held_tokens)
        self.failures += 1
        if group in self._running:
            self._running.remove(group)
        group.aborted = True
        self._unpin(group)
        group.let_go()
        group.sink(OutOfDeviceMemory("The device has no memory left for this request. Try again later, or with less."))

    def _take_inbox(self, *, block: bool) -> None:
        self._urgent.clear()  # before the inbox is read: what comes later sets it again
        while not self._stopping:
            try:
                message = self._inbox.get(block=block)
            except queue.Empty:
                return
            if message is not None:
                message()
            block = False

    def _drop_finished(self) -> None:
        for group in [group for group in self._running if group.finished]:
            self._running.remove(group)
            self._store_session(group)
            self._release(group)
        for group in [group for group in self._waiting if group.aborted]:
            self._waiting.remove(group)
            group.sink(None)

    def _release(self, group: Group) -> None:
        self._unpin(group)
        group.sink(None)

    def _unpin(self, group: Group) -> None:
        self._store.release(group.pinned)
        group.pinned.clear()
        self._reserve(group, 0)

    def _fail_all(self, error: EngineError) -> None:
        for group in [*self._running, *self._loading, *self._waiting]:
            self._unpin(group)
            group.aborted = True
            group.sink(error)
        self._running.clear()
        self._waiting.clear()
        self._loading.clear()

    # -- admission -------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start waiting requests while there is room; background ones only when nothing else is there."""
        for group in list(self._waiting):
            if len(self._running) + len(self._loading) >= self._config.max_running:
                return
            busy = self._running or self._loading or any(not other.background for other in self._waiting)
            if group.background and busy:
                continue
            needed = group.expected_tokens * self._model.fingerprint.layout.bytes_per_token
            if not self._fits(needed):
                return  # nor do those behind it: a large request would wait for ever
            self._reserve(group, needed)
            group.admitted = time.perf_counter()
            self._find_segments(group)
            if any(self._store.is_outside(key) for key in group.pinned):
                self._loading.append(group)
                self._loader.submit(self._load_elsewhere, group)
            else:
                self._begin(group)
            self._waiting.remove(group)  # not before: it is here all the time, for whoever asks or has to fail it

    def _fits(self, nbytes: int) -> bool:
        """Whether so many bytes of keys and values have room beside those of other requests. Alone, every request that
        was taken in has."""
        budget = self._config.kv_bytes
        return budget is None or not (self._running or self._loading) or self._reserved + nbytes <= budget

    def _reserve(self, group: Group, nbytes: int) -> None:
        """Set device memory aside for a request, in place of what was set aside for it before; the device tier has the
        rest."""
        budget = self._config.kv_bytes
        if budget is not None and nbytes != group.reserved:
            self._reserved += nbytes - group.reserved
            group.reserved = nbytes
            self._store.reserve_device(budget - self._reserved)

    def _begin(self, group: Group) -> None:
        """Load and start a request whose segments are all in memory."""

        def begin() -> None:
            self._load(group)
            self._start(group)

        self._try_for(group, begin)

    def _try_for(self, group: Group, work: Callable[[], None]) -> None:
        """Do what one request needs; where there is no memory for it, that one fails."""
        try:
            self._with_memory(work)
        except torch.OutOfMemoryError:
            self._fail_for_memory(group)

    def _find_segments(self, group: Group) -> None:
        if not group.request.use_segments:
            return
        group.matched = self._store.catalogue.match(group.root, group.token_ids)
        if group.request.score_last:
            group.matched = [entry for entry in group.matched if entry.start < group.request.needed_from]
        if self._cost is not None:
            worth = self._cost.worth_loading(group.matched, len(group.token_ids), self._store.catalogue.tier_of)
            del group.matched[worth:]
        chained = sum(entry.n_tokens for entry in group.matched)
        if self._model.rotation is not None:
            start = ModelView(self._store.catalogue, self._model.fingerprint).start(group.request.salt)
            group.composition = find_composition(
                group.request, start, chained, self._store, self._composing, self._cost
            )
        placements = group.composition.placements if group.composition is not None else []
        group.pinned = [entry.key for entry in group.matched]
        group.pinned += {placement.entry.key: None for placement in placements}
        self._store.hold(group.pinned)

    def _load_elsewhere(self, group: Group) -> None:
        try:
            self._load(group)
        except Exception:
            # The worker's edge: without its segments the request is slower, never wrong.
            log.exception("loading segments failed; the prompt is computed")
            self.failures += 1
            group.chain.clear()
            group.composition = None
        self._inbox.put(lambda: self._start_loaded(group))

    def _start_loaded(self, group: Group) -> None:
        if group in self._loading:
            self._loading.remove(group)
            self._try_for(group, lambda: self._start(group))

    def _load(self, group: Group) -> None:
        """Bring the matched chain to the device, as far as it is sound."""
        begin = time.perf_counter()
        group.chain.clear()
        group.loads.clear()
        for entry, loaded in zip(group.matched, self._load_segments(group, group.matched), strict=True):
            if loaded is None:
                break
            if loaded.segment.token_ids != group.token_ids[entry.start : entry.start + entry.n_tokens]:
                log.error("segment %s holds other tokens than its key stands for", entry.key[:12])
                break
            group.chain.append((entry, loaded))
        if group.composition is not None:
            self._load_pages(group, group.composition)
        group.load_s = time.perf_counter() - begin

    def _load_segments(self, group: Group, entries: Sequence[Entry]) -> list[Loaded | None]:
        loaded = self._store.load_many([entry.key for entry in entries], self._model.fingerprint)
        group.loads += [(entry, one) for entry, one in zip(entries, loaded, strict=True) if one is not None]
        return loaded

    def _observe_loads(self, group: Group) -> None:
        """Take in how long the request's loads took. Their copies have ended, for a pass over them is through."""
        group.settle_loads()
        for entry, one in group.loads if self._cost is not None else ():
            assert self._cost is not None
            self._cost.observe_load(one.tier, entry.bytes_in(one.tier), one.load_ms / 1e3)

    def _load_pages(self, group: Group, composition: Composition) -> None:
        """Bring each page to the device once; what is missing is computed."""
        entries = {placement.entry.key: placement.entry for placement in composition.placements}
        pages = dict(zip(entries, self._load_segments(group, list(entries.values())), strict=True))
        for placement in composition.placements:
            placement.loaded = pages[placement.entry.key]
        composition.drop_unloaded()

    def _start(self, group: Group) -> None:
        if group.aborted:
            self._release(group)
            return
        limit = group.request.needed_from
        expected = len(group.token_ids) + group.request.sampling.max_tokens
        kv = SequenceKV(self._model.fingerprint.layout, self._model.device, expected)
        for entry, loaded in group.chain:
            kv.inject(loaded.segment, _MIN_SPAN_TOKENS, min(entry.n_tokens, limit - kv.n_tokens))
        group.kv = kv
        if group.composition is not None and not group.composition.placements:
            group.composition = None  # none of its pages could be read
        if group.composition is None:
            group.todo = range(kv.n_tokens, len(group.token_ids))
        else:
            assert self._model.rotation is not None, "nothing is composed without a rotation"
            kv.open_region(len(group.token_ids) - kv.n_tokens)
            group.composition.place(kv, self._model.rotation)
        self._running.append(group)

    def _settle(self) -> None:
        """Find out what one composed prompt must have repaired. One a turn: running streams go on in between."""
        group = next((group for group in self._running if group.todo is None and not group.aborted), None)
        if group is not None and group.composition is not None:
            self._try_for(group, lambda: self._choose(group))

    def _choose(self, group: Group) -> None:
        assert group.composition is not None, "only composed prompts are unsettled"
        begin, needed = group.chained_tokens, group.request.needed_from
        group.todo = group.composition.choose(_kv_of(group), group.token_ids, begin, needed, self._runner)

    # -- batching --------------------------------------------------------------------------------------------

    def _pick(self) -> Step:
        """One token of each stream, and prompt chunks, the shortest remaining prompt first (with aging)."""
        streams = [(g, choice) for g in self._running for choice in g.choices if not choice.finished]
        pending = [group for group in self._running if not group.choices and group.todo is not None]
        foreground = [group for group in pending if not group.background]
        if foreground or streams:
            pending = foreground
        # Small chunks keep streams moving, and let a new request in soon when the work is not urgent.
        hurry = bool(foreground) and not streams
        budget = self._chunk if hurry else self._busy_chunk
        if not foreground and not streams:
            budget = self._chunk  # it is broken off when somebody comes
        now = time.perf_counter()
        scored = _SCORED_TOKENS
        prompts: list[tuple[Group, int]] = []
        for group in sorted(pending, key=lambda g: g.remaining - _AGING_TOKENS_PER_S * (now - g.arrived)):
            n = min(budget, group.remaining)
            if group.request.score_last:
                n = min(n, scored)
                scored -= n
            if n > 0:
                prompts.append((group, n))
                budget -= n
        return Step(prompts, streams)

    def _work(self, group: Group, n: int) -> Work:
        """The next ``n`` tokens of a prompt, with logits of its last one and of those before tokens to be scored."""
        positions = group.next_positions(n)
        tokens = tuple(group.token_ids[position] for position in positions)
        wanted = int(n == group.remaining and not group.background)
        if group.request.score_last:
            wanted = sum(position >= group.request.needed_from for position in positions)
        return Work(_kv_of(group), tokens, wanted, None if group.composition is None else positions)

    # -- results ---------------------------------------------------------------------------------------------

    def _rows(self, step: Step) -> list[Row]:
        """Who chooses a token, and from which row of logits: finished prompts first, whose choices begin, then
        streams."""
        begun = [group for group in step.ended if not group.background]
        for group in begun:
            group.begin_choices(self._model, self._vocabulary)
        rows = [Row(group, choice, row) for row, group in enumerate(begun) for choice in group.choices]
        return rows + [Row(group, choice, row) for row, (group, choice) in enumerate(step.streams, len(begun))]

    def _chosen(self, rows: Sequence[Row], logits: torch.Tensor) -> Chooser:
        """The tokens, as far as they are chosen on the device; the pass is through then."""
        asked = [Asked(row.choice.sampler, row.row, row.group.request.sampling.logprobs) for row in rows]
        return chooser(asked, logits, self._vocabulary)

    def _deliver(self, step: Step, rows: Sequence[Row], chosen: Chooser) -> None:
        """Hand each token to the stream it belongs to."""
        for group in step.ended:
            self._observe_loads(group)
        for index, row in enumerate(rows):
            if row.choice.index == 0 and not row.choice.token_ids:
                row.group.sink(row.group.started())
            self._advance(row.group, row.choice, chosen, index)
        for group in step.ended:  # after the first tokens are out
            self._store_pieces(group)

    def _advance(self, group: Group, choice: Choice, chosen: Chooser, index: int) -> None:
        if group.aborted:
            return
        if not group.request.sampling.max_tokens:
            group.sink(choice.end())
            return
        try:
            token_id, logprob = chosen.take(index)
            group.sink(choice.accept(token_id, logprob, group, self._model))
        except Exception as error:
            # The worker's edge: logits that cannot be sampled from (not a number, say) fail their own request.
            log.exception("choosing a token failed")
            self.failures += 1
            group.aborted = True
            group.sink(EngineError(f"choosing a token failed: {type(error).__name__}"))

    def _store_pieces(self, group: Group) -> None:
        """Store what was computed anyway as chained segments: activation costs a copy, not a prefill."""
        if group.request.use_segments:
            missing = group.missing_pieces()
            self._store.catalogue.counts.miss(len(missing))
            for piece in missing:
                if not self._store_piece(group, piece):
                    break
        if group.background:
            group.aborted = True  # nothing more to do: dropped as finished

    def _store_session(self, group: Group) -> None:
        """Store the turns and the answer, for the conversation's next request."""
        request = group.request
        if group.aborted or not (request.keep_turns and request.use_segments and request.n == 1):
            return
        for piece in group.session_pieces():
            if not self._store_piece(group, piece):
                break

    def _store_piece(self, group: Group, piece: MissingPiece) -> bool:
        try:
            keys, values = _kv_of(group).copy_range(piece.start, piece.end)
        except torch.OutOfMemoryError as error:
            log.warning("there is no memory to store a segment in: %s", error)
            self.out_of_memory += 1
            return False
        token_ids = group.fed_tokens[piece.start : piece.end]
        fingerprint = self._model.fingerprint
        segment = Segment.chained(piece.parent, fingerprint, piece.start, token_ids, keys, values, piece.labels)
        try:
            # A conversation's turns are large and may never come back: they go to disk when memory is short.
            return self._store.put(segment, durable=not piece.session)
        except KVCacheError as error:
            log.warning("a segment could not be stored: %s", error)
            return False


def _kv_of(group: Group) -> SequenceKV:
    assert group.kv is not None, "only started groups are worked on"
    return group.kv
