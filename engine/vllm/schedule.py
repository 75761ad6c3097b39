"""The connector inside vLLM's scheduler: which tokens are stored, what to load, what to save."""

from __future__ import annotations

import fcntl
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from engine.vllm.plan import LoadOrder, Orders, RepairOrder, RequestPlan, SaveOrder, SaveSpan, StoredRun, WorkerReport
from engine.vllm.settings import ConnectorSettings
from kvcache import Catalogue, Entry, Fingerprint, ModelView, Prefix
from kvcache.segment import cut_parts


@dataclass(eq=False)
class Progress:
    """One request as the connector sees it."""

    request: Any
    plan: RequestPlan
    keeps: list[SaveSpan]
    local: int = 0
    """Tokens that vLLM's own cache held when it asked."""

    @property
    def token_ids(self) -> Sequence[int]:
        ids: Sequence[int] = self.request.prompt_token_ids or ()
        return ids


@dataclass
class Events:
    """Events that a server which keeps the index wants to know of. JSON, because it travels with vLLM's statistics."""

    loads: list[dict[str, Any]] = field(default_factory=list)
    repairs: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[str, int]] = field(default_factory=list)
    saved: list[dict[str, Any]] = field(default_factory=list)
    failed_saves: int = 0
    failed_repairs: int = 0
    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    host_bytes: int | None = None


class SchedulerSide:
    """Plans of the requests under way. ``ranks``: how many workers load and save their part of every segment."""

    def __init__(self, settings: ConnectorSettings, fingerprint: Fingerprint, *, ranks: int) -> None:
        self._settings = settings
        self._fingerprint = fingerprint
        self._ranks = ranks
        self._requests: dict[str, Progress] = {}
        self._long: set[str] = set()
        self._orders = Orders()
        self._writing: dict[str, Entry] = {}
        self._written: defaultdict[str, list[int]] = defaultdict(list)
        self._placed_by: Counter[str] = Counter()
        self._events = Events()
        self._catalogue: Catalogue | None = None
        self._lock: Any = None
        if not settings.managed:
            self._catalogue, self._lock = _open_store(settings)

    # -- finding ---------------------------------------------------------------------------------------------

    def matched(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """Count the tokens beyond ``computed`` that can be loaded, and whether that is asynchronous; None: ask
        again."""
        progress = self._progress(request)
        progress.local = computed
        end = len(progress.token_ids) if progress.plan.score else min(progress.plan.end, request.num_tokens)
        n = end - computed if end - computed >= self._settings.min_load_tokens else 0
        if self._must_wait(request, computed + n):
            return None, False
        return n, n > 0

    def _must_wait(self, request: Any, held: int) -> bool:
        limit = self._settings.long_prefill_tokens
        is_long = limit > 0 and request.num_tokens - held > limit
        return is_long and bool(self._long - {request.request_id})

    def _progress(self, request: Any) -> Progress:
        progress = self._requests.get(request.request_id)
        if progress is None:
            # Standing alone, requests come from anybody: a plan in one could name what is not its sender's to use.
            given = RequestPlan.from_params(request.kv_transfer_params) if self._settings.managed else None
            plan = self._own_plan(request) if given is None else given
            progress = self._requests[request.request_id] = Progress(request, plan, list(plan.keeps))
        return progress

    def _own_plan(self, request: Any) -> RequestPlan:
        """Standing alone: the longest stored chain, and what is behind it in runs of ``segment_tokens``."""
        if self._catalogue is None or not _is_plain(request):
            return RequestPlan()
        tokens = request.prompt_token_ids
        view = ModelView(self._catalogue, self._fingerprint)
        prefix = view.start(request.cache_salt or "")
        chain = prefix.match(tokens)
        sources = tuple(StoredRun(entry.key, entry.start, entry.n_tokens) for entry in chain)
        if chain:
            prefix = Prefix(view, chain[-1].key)
        start = sources[-1].end if sources else 0
        keeps = []
        step = self._settings.segment_tokens
        while len(tokens) - start >= step:
            keeps.append(SaveSpan(prefix.key, start, start + step))
            prefix, start = prefix.then(tokens[start : start + step]), start + step
        return RequestPlan(sources, tuple(keeps))

    def allocated(self, request: Any, block_ids: Sequence[int], n_external: int) -> None:
        """Take in that blocks are there for ``n_external`` tokens to be loaded (0: none)."""
        progress = self._progress(request)
        limit = self._settings.long_prefill_tokens
        if limit and request.num_tokens - progress.local - n_external > limit:
            self._long.add(request.request_id)
        if n_external <= 0:
            return
        begin, end = progress.local, progress.local + n_external
        clipped = [source.clipped(begin, end) for source in progress.plan.sources]
        sources = tuple(source for source in clipped if source is not None)
        plan = progress.plan
        composed = plan.composition is not None and plan.composition.reaches(begin)
        repaired = composed or plan.score > 0
        self._orders.loads.append(LoadOrder(request.request_id, tuple(block_ids), sources, plan.id, not repaired))

    # -- a step ----------------------------------------------------------------------------------------------

    def orders(self, scheduler_output: Any, blocks_of: Any) -> Orders:
        """Return this step's orders; ``blocks_of`` gives a request's block ids."""
        scheduled: dict[str, int] = scheduler_output.num_scheduled_tokens
        computed = {new.req_id: new.num_computed_tokens for new in scheduler_output.scheduled_new_reqs}
        cached = scheduler_output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for request_id, n in scheduled.items():
            progress = self._requests.get(request_id)
            if progress is not None:
                self._advance(progress, computed[request_id] + n, blocks_of)
        orders, self._orders = self._orders, Orders()
        orders.idle = not scheduled
        return orders

    def _advance(self, progress: Progress, computed: int, blocks_of: Any) -> None:
        if computed >= len(progress.token_ids):
            self._long.discard(progress.request.request_id)
        due = [keep for keep in progress.keeps if keep.end <= computed]
        if not due:
            return
        progress.keeps = [keep for keep in progress.keeps if keep.end > computed]
        block_ids = tuple(blocks_of(progress.request.request_id))
        for keep in due:
            self._save(progress, keep, block_ids)

    def _save(self, progress: Progress, keep: SaveSpan, block_ids: tuple[int, ...]) -> None:
        entry = entry_of(keep, progress.token_ids, self._fingerprint)
        if entry.key in self._writing:
            return
        known = self._catalogue
        if known is not None and (known.tier_of(entry.key) is not None or not known.expect(entry.key, entry.nbytes)):
            return
        self._writing[entry.key] = entry
        tokens = tuple(progress.token_ids[keep.start : keep.end])
        lead = tuple(progress.token_ids[keep.start - keep.lead : keep.start])
        self._orders.saves.append(SaveOrder(keep, tokens, lead, block_ids))

    def take_in(self, report: WorkerReport, blocks_of: Any) -> None:
        """Take in what the workers reported."""
        for key in {*report.missing, *report.bad}:
            self._lost(key, bad=key in report.bad)
        for request_id in report.placed:
            self._placed(request_id, blocks_of)
        for load in report.loads:
            if self._catalogue is not None:
                self._catalogue.touch(load.key, load.tier)
            self._events.loads.append(load.__dict__)
        self._events.failed.extend(report.failed)
        for request_id in dict.fromkeys(request_id for request_id, _, _ in report.unrepaired):
            self._unrepaired(request_id)
        self._events.failed.extend((name, position) for _, name, position in report.unrepaired)
        for name, n_tokens, seconds in report.repaired:
            self._events.repairs.append({"name": name, "n_tokens": n_tokens, "seconds": seconds})
        for key, nbytes in report.saved:
            self._rank_saved(key, nbytes)
        if report.host_bytes:
            self._events.host_bytes = sum(report.host_bytes)

    def _rank_saved(self, key: str, nbytes: int) -> None:
        written = self._written[key]
        written.append(nbytes)
        if len(written) < self._ranks:
            return
        del self._written[key]
        entry = self._writing.pop(key, None)
        if entry is None:
            return
        if 0 in written:
            self._events.failed_saves += 1
            return
        entry = replace(entry, disk_bytes=_distinct(written, entry.nbytes))
        if self._catalogue is not None:
            self._catalogue.record(entry)
        self._events.saved.append(entry_json(entry))

    def _lost(self, key: str, *, bad: bool) -> None:
        """Have no plan count on this segment any more. What was to be scored with it is not scored: what is computed in
        its place would be compared with itself, and found to be perfect."""
        for progress in self._requests.values():
            sources = progress.plan.sources
            cut = next((i for i, source in enumerate(sources) if source.key == key), None)
            if cut is not None:
                progress.plan = replace(progress.plan, sources=sources[:cut], score=0)
        if self._catalogue is not None:
            self._catalogue.quarantine(key)
        (self._events.bad if bad else self._events.missing).append(key)

    def _unrepaired(self, request_id: str) -> None:
        """Compute what a request's passes should have repaired; vLLM may ask for it anew, and nothing is composed then.
        What was to be scored is not: it would be compared with itself."""
        self._events.failed_repairs += 1
        progress = self._requests.get(request_id)
        if progress is None:
            return
        plan = progress.plan
        first = min((begin for begin, _, _ in plan.composition.parts), default=0) if plan.composition else 0
        sources = tuple(source for source in plan.sources if source.end <= first)
        progress.plan = replace(plan, sources=sources, composition=None, score=0)

    # -- composing -------------------------------------------------------------------------------------------

    def _placed(self, request_id: str, blocks_of: Any) -> None:
        """Note that one more rank has a request's sources in place; when all have, they repair it together in the next
        step: computing is a collective operation."""
        self._placed_by[request_id] += 1
        if self._placed_by[request_id] < self._ranks:
            return
        del self._placed_by[request_id]
        progress = self._requests.get(request_id)
        if progress is None:  # aborted meanwhile: its blocks are free once the workers say that they are done
            self._orders.repairs.append(RepairOrder(request_id))
            return
        plan = progress.plan
        end = len(progress.token_ids) if plan.score else plan.end
        composition = plan.composition.before(plan.end) if plan.composition is not None else None
        gaps = _gaps(plan.sources, progress.local, end)
        turn = composition.parts[0][0] if composition is not None else end
        order = RepairOrder(
            request_id,
            plan.id,
            tuple(blocks_of(request_id)),
            tuple(progress.token_ids[:end]),
            composition,
            before=tuple(gap for gap in gaps if gap[0] < turn),
            after=tuple(gap for gap in gaps if gap[0] >= turn),
            begin=progress.local,
            score=plan.score,
        )
        self._orders.repairs.append(order)

    # -- the end ---------------------------------------------------------------------------------------------

    def finished(self, request_id: str) -> None:
        """Forget a request that is over, or was aborted."""
        self._requests.pop(request_id, None)
        self._long.discard(request_id)

    @property
    def is_writing(self) -> bool:
        """Say whether segments are being written."""
        return bool(self._writing)

    def events(self) -> Events | None:
        """Return what happened since the last call; None when nothing did."""
        events, self._events = self._events, Events()
        return None if events == Events() else events

    def close(self) -> None:
        if self._catalogue is not None:
            self._catalogue.close()
        if self._lock is not None:
            self._lock.close()


def _gaps(sources: Sequence[StoredRun], begin: int, end: int) -> list[tuple[int, int]]:
    """Return the ranges between ``begin`` and ``end`` that no source holds."""
    gaps = []
    for source in sources:
        if source.position > begin:
            gaps.append((begin, min(source.position, end)))
        begin = max(begin, source.end)
    return [*gaps, (begin, end)] if begin < end else gaps


def entry_of(keep: SaveSpan, token_ids: Sequence[int], fingerprint: Fingerprint) -> Entry:
    """The index entry of what is going to be saved of a prompt."""
    tokens, root = token_ids[keep.start : keep.end], keep.root
    parts = cut_parts(root, tokens, keep.parts) if root is not None else ()
    own = frozenset(part.label for part in parts if part.label is not None)
    now = time.time()
    return Entry(
        key=keep.key(token_ids),
        parent=keep.parent_key(token_ids),
        fingerprint=fingerprint.digest,
        start=keep.start,
        n_tokens=len(tokens),
        nbytes=len(tokens) * fingerprint.layout.bytes_per_token,
        labels=frozenset(keep.labels) | own,
        created_at=now,
        last_used_at=now,
        root=root,
        parts=parts,
    )


_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


def entry_json(entry: Entry) -> dict[str, Any]:
    """Serialise an entry as it travels to the server."""
    dumped: dict[str, Any] = _ENTRY.dump_python(entry, mode="json")
    return dumped


def entry_from_json(value: dict[str, Any]) -> Entry:
    """Read what :func:`entry_json` made. Raises ``ValueError``."""
    return _ENTRY.validate_python(value)


def _distinct(written: list[int], nbytes: int) -> int:
    """Return the bytes on disk: ranks that share a head write the same file."""
    return min(sum(written), max(nbytes, *written))


def _is_plain(request: Any) -> bool:
    """Say whether the prompt's tokens say all about its keys and values."""
    return bool(request.prompt_token_ids) and request.lora_request is None and not request.mm_features


def _open_store(settings: ConnectorSettings) -> tuple[Catalogue, Any]:
    settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (settings.folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise FolderInUse(settings.folder) from None
    catalogue = Catalogue(settings.folder, disk_bytes=int(settings.disk_gb * 1e9))
    return catalogue, lock


class FolderInUse(Exception):
    """Another engine keeps its index in this folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is in use by another engine")
