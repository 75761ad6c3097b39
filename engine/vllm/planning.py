"""What the server tells the connector of one request, and what it says of it afterwards."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from engine.base import GenerateRequest, PageRequest, PieceReport, Prompt, Source, Started
from engine.config import CompositionConfig
from engine.placement import SOURCES, Placement, composed_of, find_parts, missing_pieces, slowest
from engine.vllm.plan import Composition, RequestPlan, SaveSpan, StoredRun
from kvcache import Prefix, Repair, SegmentView, TierName
from kvcache.repair import Weighing


@dataclass
class Loads:
    """The loads and recomputed tokens of one request: by segment key the tier and seconds. ``failed_at`` is the
    position of the first source that could not be brought in; tokens were computed from there on."""

    tiers: dict[str, TierName] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    recomputed: int = 0
    repair_s: float = 0.0
    failed_at: int = sys.maxsize

    def take_in(self, load: Mapping[str, Any]) -> None:
        self.tiers[load["key"]] = load["tier"]
        self.seconds[load["key"]] = max(self.seconds.get(load["key"], 0.0), load["seconds"])


@dataclass(frozen=True)
class Planned:
    """A request's plan with what it was made from."""

    request: GenerateRequest
    plan: RequestPlan
    placements: tuple[Placement, ...] = ()
    repair: Repair | None = None

    @property
    def cache_salt(self) -> str:
        """Return what must be equal for requests to share blocks inside vLLM: they are of the same tenant, and composed
        of the same parts in the same way. Composed keys and values must never pass for exact ones."""
        how = [(p.entry.key, p.part.begin, p.position) for p in self.placements]
        return blake3(repr((self.request.salt, how, self.repair)).encode()).hexdigest()[:32]

    def started(self, loads: Loads, cached_tokens: int, times: tuple[float, float]) -> Started:
        """Make what to tell of the request once its first token is known; ``times``: seconds in the queue (loading
        included) and of prefill."""
        load_s = sum(loads.seconds.values()) + loads.repair_s
        cached_tokens = min(cached_tokens, loads.failed_at)
        return Started(
            pieces=self._reports(loads, cached_tokens),
            prompt_tokens=self.request.prompt.n_tokens,
            cached_tokens=max(0, cached_tokens - loads.recomputed),
            queue_s=max(0.0, times[0] - load_s),
            load_s=load_s,
            prefill_s=times[1],
        )

    def _reports(self, loads: Loads, cached_tokens: int) -> tuple[PieceReport, ...]:
        placed = {placement.piece: placement for placement in self.placements}
        composed = sum(len(placement.span) for placement in self.placements)
        reports, begin = [], 0
        for index, piece in enumerate(self.request.prompt.pieces):
            end = begin + len(piece.token_ids)
            sources = [s for s in self.plan.sources if s.position < end and s.end > begin]
            tiers: list[Source] = [SOURCES[loads.tiers.get(s.key, "device")] for s in sources]
            if end - cached_tokens > cached_tokens - begin:  # most of it
                tiers = ["computed"]
            tier = slowest(tiers or ["resident"])
            load_ms = 1e3 * sum(loads.seconds.get(s.key, 0.0) for s in sources if begin <= s.position)
            placement = placed.get(index)
            if placement is None or tier == "computed":
                reports.append(PieceReport(tier, end - begin, load_ms))
            else:
                share = round(loads.recomputed * len(placement.span) / composed)
                reports.append(PieceReport(tier, end - begin, load_ms, self.request.fidelity, share))
            begin = end
        return tuple(reports)


class PlanMaker:
    """Makes plans from what is stored. ``composing`` is None where the engine cannot move keys."""

    def __init__(self, stored: SegmentView, composing: CompositionConfig | None) -> None:
        self._stored = stored
        self._composing = composing

    def plan(self, request: GenerateRequest, name: str) -> Planned:
        """Plan the longest chain, then as many composed parts as follow it without a gap, then what is to be stored."""
        if not request.use_segments:
            return Planned(request, RequestPlan(id=name))
        prompt, start = request.prompt, self._stored.start(request.salt)
        chain = start.match(prompt.token_ids)
        chained = sum(entry.n_tokens for entry in chain)
        placements = self._placements(request, start, chained)
        repair = self._repair(request) if placements else None
        sources = [StoredRun(entry.key, entry.start, entry.n_tokens) for entry in chain]
        sources += [
            StoredRun(p.entry.key, p.position, p.part.n_tokens, p.part.begin, p.position - p.entry.start - p.part.begin)
            for p in placements
        ]
        missing = missing_pieces(prompt, start.key, chain, {placement.piece for placement in placements})
        plan = RequestPlan(
            sources=tuple(sources),
            keeps=tuple(SaveSpan(piece.parent, piece.start, piece.end, tuple(piece.labels)) for piece in missing),
            composition=_composition(placements, repair) if repair is not None else None,
            id=name,
        )
        return Planned(request, plan, tuple(placements), repair)

    def _repair(self, request: GenerateRequest) -> Repair:
        assert self._composing is not None, "there is nothing to repair where nothing is composed"
        return without_weighing(self._composing.repair(request))

    def _placements(self, request: GenerateRequest, start: Prefix, chained: int) -> list[Placement]:
        header = request.prompt.header
        if self._composing is None or request.fidelity == "exact" or header is None:
            return []
        if chained < len(header.token_ids):
            # Not even the header is stored. It is short: it is computed with the first request and stored then.
            return []
        found = find_parts(request, start.then(header.token_ids), chained, self._composing)
        placements: list[Placement] = []
        end = chained
        for placement in found:
            if placement.position != end:
                break
            placements.append(placement)
            end = placement.span.stop
        saved = sum(len(p.span) for p in placements) * (1.0 - self._composing.repair(request).share)
        return placements if saved >= self._composing.min_saved_tokens else []


def without_weighing(repair: Repair) -> Repair:
    """Replace strategies that look at attention weights, which vLLM's kernels do not give out. The first tokens of each
    run are the next best that needs no such look."""
    return Repair("first", repair.share) if isinstance(repair.signal, Weighing) else repair


def _composition(placements: Sequence[Placement], repair: Repair) -> Composition:
    composed = composed_of(placements)
    parts = zip(composed.parts, composed.starts_run, strict=True)
    return Composition(tuple((span.start, span.stop, starts) for span, starts in parts), repair.strategy, repair.share)


def page_request(request: PageRequest, header_key: str) -> tuple[Prompt, SaveSpan]:
    """Make the prompt that computes a page, and what is kept of it; ``header_key``: of the header's segment."""
    header, lead, parts = request.header.token_ids, Prompt(request.lead).n_tokens, Prompt(request.parts).n_tokens
    start = len(header) + lead
    labels = tuple(piece.label for piece in request.lead if piece.label is not None)
    keep = SaveSpan(
        header_key,
        start,
        start + parts,
        labels,
        tuple((len(piece.token_ids), piece.label) for piece in request.parts),
        lead,
    )
    return Prompt((request.header, *request.lead, *request.parts)), keep


def page_parts(request: PageRequest, begin: int) -> tuple[tuple[int, int, bool], ...]:
    """Return the parts of a page placed at ``begin``, as a composition has them."""
    parts: list[tuple[int, int, bool]] = []
    for piece in request.parts:
        parts.append((begin, begin + len(piece.token_ids), not parts))
        begin += len(piece.token_ids)
    return tuple(parts)
