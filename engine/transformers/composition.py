"""Which memories of a request are composed from standalone segments, and the state of that while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engine.base import Fidelity, GenerateRequest
from engine.placement import CompositionConfig, Placement, find_parts, starts_run
from engine.transformers.attention import Probe, SequenceKV
from engine.transformers.cost import CostModel
from engine.transformers.runner import ModelRunner, Work
from kvcache import (
    Composed,
    Part,
    Prefix,
    Repair,
    Rotation,
    Segment,
    SegmentStore,
)

# So many of the prompt's last tokens ask the memory what matters. They are the question, or the end of it.
PROBE_TOKENS = 64
# On a CPU larger chunks gain nothing; a GPU waits for launches with small ones, and needs no mask for neighbours.
_DEVIATION_CHUNK = {"cpu": 512}
_DEVIATION_CHUNK_ELSEWHERE = 8192


@dataclass(eq=False)
class Composition:
    """The composed part of one request: what is placed, and what is chosen to be computed anew."""

    fidelity: Fidelity
    repair: Repair
    placements: list[Placement]
    recomputed: frozenset[int] | None = field(default=None)

    @property
    def composed(self) -> Composed:
        return Composed(tuple(placement.span for placement in self.placements), starts_run(self.placements))

    def drop_unloaded(self) -> None:
        """Leave to be computed what could not be loaded."""
        self.placements = [placement for placement in self.placements if placement.loaded is not None]

    def place(self, kv: SequenceKV, rotation: Rotation) -> None:
        """Fill the sequence's opened region with what is loaded."""
        for placement in self.placements:
            assert placement.loaded is not None, "only loaded placements are placed"
            place_part(kv, placement.loaded.segment, placement.part, placement.position, rotation)

    def choose(
        self, kv: SequenceKV, token_ids: Sequence[int], begin: int, needed: int, runner: ModelRunner
    ) -> list[int]:
        """Settle which tokens are computed anew; returns the positions to compute, ascending, from ``begin`` on. From
        ``needed`` on all are."""
        composed = self.composed
        chosen = self.repair.choose(composed, probe(self.repair, composed, kv, token_ids, begin, runner))
        self.recomputed = frozenset(chosen) | {position for position in composed.positions if position >= needed}
        kept = set(composed.positions) - self.recomputed
        return [position for position in range(begin, len(token_ids)) if position not in kept]

    def n_recomputed(self, span: range) -> int:
        return sum(position in self.recomputed for position in span) if self.recomputed is not None else 0


def place_part(kv: SequenceKV, segment: Segment, part: Part, position: int, rotation: Rotation) -> None:
    """Move a part's keys and values to ``position`` in the sequence's tail."""
    tokens = slice(part.begin, part.end)
    computed_at = segment.start + part.begin
    kv.place(segment.keys[:, :, tokens], segment.values[:, :, tokens], position, computed_at, rotation)


def probe(
    repair: Repair,
    composed: Composed,
    kv: SequenceKV,
    token_ids: Sequence[int],
    begin: int,
    runner: ModelRunner,
) -> torch.Tensor | None:
    """What the repair's strategy must know of each composed token, float32 [composed tokens]. Positions of
    ``token_ids`` from ``begin`` on that are not composed hold nothing yet."""
    if repair.signal is None or not composed.n_tokens:
        return None
    positions = composed.positions
    if repair.signal == "deviation":
        # In chunks: the first layer's keys and values depend on nothing before them, so the rest is in place already.
        rows = range(begin, positions[-1] + 1)
        size = _DEVIATION_CHUNK.get(runner.device.type, _DEVIATION_CHUNK_ELSEWHERE)
        chunks = [rows[at : at + size] for at in range(0, len(rows), size)]
        found = [runner.deviation(kv, [token_ids[i] for i in chunk], chunk) for chunk in chunks]
        return torch.cat(found).cpu()[torch.tensor(positions) - begin]
    rows = range(max(positions[-1] + 1, len(token_ids) - PROBE_TOKENS), len(token_ids))
    hidden = torch.ones(len(token_ids) - kv.tail_begin, dtype=torch.bool)
    hidden[: begin - kv.tail_begin] = False
    hidden[torch.tensor([*positions, *rows]) - kv.tail_begin] = False
    light = Probe("attention")
    runner.forward([Work(kv, [token_ids[i] for i in rows], 0, rows, light, hidden)])
    assert light.signal is not None
    return light.signal.cpu()[torch.tensor(positions) - kv.tail_begin]


def find_composition(
    request: GenerateRequest,
    start: Prefix,
    chained_tokens: int,
    store: SegmentStore,
    config: CompositionConfig,
    cost: CostModel | None = None,
) -> Composition | None:
    """The composition of a request whose first ``chained_tokens`` tokens are chained already, or None."""
    header = request.prompt.header
    if request.fidelity == "exact" or header is None:
        return None
    placements = find_parts(request, start.then(header.token_ids), chained_tokens, config)
    repair = config.repair(request)
    if cost is not None:
        placements = _worth_loading(placements, 1.0 - repair.share, store, cost)
    saved = sum(len(placement.span) for placement in placements) * (1.0 - repair.share)
    if repair.signal == "attention":
        saved -= min(PROBE_TOKENS, len(request.prompt.turns.token_ids))
    if saved < config.min_saved_tokens:
        return None
    return Composition(request.fidelity, repair, placements)


def _worth_loading(
    placements: list[Placement], saved_share: float, store: SegmentStore, cost: CostModel
) -> list[Placement]:
    """Without those whose page takes longer to load than its tokens take to compute."""
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
