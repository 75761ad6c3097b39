"""How requests get into the batch: segments of theirs are found, loaded, and laid into their sequences."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from engine.config import CompositionConfig
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.composing import Composer
from engine.transformers.composition import Composition, find_composition
from engine.transformers.cost import CostModel
from engine.transformers.loading import LoadedModel
from engine.transformers.requests import Requests
from engine.transformers.sequence import Group
from kvcache import Entry, Loaded, ModelView, Prefix
from kvcache.copies import use_device

log = logging.getLogger(__name__)

# From this length on a segment is attended to where it lies; below, copying it beats one more call per step.
_MIN_SPAN_TOKENS = 256


class Admission:
    """Starts waiting requests while there is room. ``post`` has work done by the engine's thread, on which all else
    here runs but the reading of files."""

    def __init__(
        self,
        model: LoadedModel,
        requests: Requests,
        composer: Composer,
        composing: CompositionConfig,
        max_running: int,
        cost: CostModel | None,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._model = model
        self._requests = requests
        self._store = requests.store
        self._stored = ModelView(requests.store.catalogue, model.fingerprint)
        self._memory = requests.memory
        self._composer = composer
        self._composing = composing
        self._max_running = max_running
        self._cost = cost
        self._post = post
        self._loader = ThreadPoolExecutor(2, "segment-loader", use_device, (model.device,))

    def close(self) -> None:
        """Wait for what is being read."""
        self._loader.shutdown(wait=True, cancel_futures=True)

    def admit(self) -> None:
        """Start waiting requests while there is room; background ones only when nothing else is there."""
        for group in list(self._requests.waiting):
            if self._requests.admitted >= self._max_running:
                return
            busy = self._requests.admitted or any(not other.background for other in self._requests.waiting)
            if group.background and busy:
                continue
            needed = self._memory.needed(group.expected_tokens)
            if self._requests.admitted and not self._memory.has_room(needed):  # alone, all that were taken in have
                return  # nor have those behind it: a large request would wait for ever
            self._memory.reserve(group, needed)
            group.admitted = time.perf_counter()
            self._find_segments(group)
            if any(self._store.is_outside(key) for key in group.pinned):
                self._requests.loading.append(group)
                self._loader.submit(self._load_elsewhere, group)
            else:
                self._begin(group)
            # Not before: it is here all the time, for whoever asks or has to fail it.
            self._requests.waiting.remove(group)

    def _begin(self, group: Group) -> None:
        """Load and start a request whose segments are all in memory."""

        def begin() -> None:
            self._load(group)
            self._start(group)

        self._requests.try_for(group, begin)

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
            group.composition = find_composition(
                group.request, Prefix(self._stored, group.root), chained, self._store, self._composing, self._cost
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
            log.exception("request %s: loading segments failed; the prompt is computed", group.request.request_id)
            self._requests.failures += 1
            group.chain.clear()
            group.composition = None
        self._post(lambda: self._start_loaded(group))

    def _start_loaded(self, group: Group) -> None:
        if group in self._requests.loading:
            self._requests.loading.remove(group)
            self._requests.try_for(group, lambda: self._start(group))

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

    def observe_loads(self, group: Group) -> None:
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
            self._requests.release(group)
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
            self._composer.place(kv, group.composition.parts, len(group.token_ids))
        self._requests.running.append(group)

    def settle(self) -> None:
        """Find out what one composed prompt must have repaired. One per turn: running streams go on in between."""
        group = next((group for group in self._requests.running if group.todo is None and not group.aborted), None)
        if group is not None and group.composition is not None:
            self._requests.try_for(group, lambda: self._choose(group))

    def _choose(self, group: Group) -> None:
        composition = group.composition
        assert composition is not None, "only composed prompts are unsettled"
        begin, needed = group.chained_tokens, group.request.needed_from
        settled = self._composer.settle(
            group.started_kv, composition.parts, group.token_ids, begin, composition.repair, needed
        )
        composition.recomputed, group.todo = settled.recomputed, settled.todo
