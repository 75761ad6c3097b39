"""Which memories of a request are composed from standalone segments, and the state of that while it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from engine.base import Fidelity, GenerateRequest
from engine.config import CompositionConfig
from engine.placement import Placement, find_parts
from engine.transformers.composing import PROBE_TOKENS, PlacedPart
from engine.transformers.cost import CostModel
from kvcache import Prefix, Repair, TieredStore
from kvcache.repair import Weighing


@dataclass(eq=False)
class Composition:
    """The composed part of one request: what is placed, and what is chosen to be computed anew."""

    fidelity: Fidelity
    repair: Repair
    placements: list[Placement]
    recomputed: frozenset[int] | None = field(default=None)

    @property
    def parts(self) -> list[PlacedPart]:
        """Give what is placed, all of which is loaded by then."""
        parts = []
        for placement in self.placements:
            assert placement.loaded is not None, "only loaded placements are placed"
            parts.append(PlacedPart(placement.loaded.segment, placement.part, placement.position))
        return parts

    def drop_unloaded(self) -> None:
        """Leave to be computed what could not be loaded."""
        self.placements = [placement for placement in self.placements if placement.loaded is not None]

    def n_recomputed(self, span: range) -> int:
        return sum(position in self.recomputed for position in span) if self.recomputed is not None else 0


def find_composition(
    request: GenerateRequest,
    start: Prefix,
    chained_tokens: int,
    store: TieredStore,
    config: CompositionConfig,
    cost: CostModel | None = None,
) -> Composition | None:
    """Find the composition of a request whose first ``chained_tokens`` tokens are chained already, or None."""
    header = request.prompt.header
    if request.fidelity == "exact" or header is None:
        return None
    placements = find_parts(request, start.then(header.token_ids), chained_tokens, config)
    repair = config.repair(request)
    if cost is not None:
        placements = _worth_loading(placements, 1.0 - repair.share, store, cost)
    saved = sum(len(placement.span) for placement in placements) * (1.0 - repair.share)
    if isinstance(repair.signal, Weighing):
        saved -= min(PROBE_TOKENS, len(request.prompt.turns.token_ids))
    if saved < config.min_saved_tokens:
        return None
    return Composition(request.fidelity, repair, placements)


def _worth_loading(
    placements: list[Placement], saved_share: float, store: TieredStore, cost: CostModel
) -> list[Placement]:
    """Drop those whose page takes longer to load than its tokens take to compute."""
    used: Counter[str] = Counter()
    for placement in placements:
        used[placement.entry.key] += placement.part.n_tokens
    return [
        p
        for p in placements
        if cost.worth_composing(
            p.entry, store.catalogue.tier_of(p.entry.key), used[p.entry.key] * saved_share, placements[0].position
        )
    ]
