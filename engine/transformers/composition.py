"""Which memories of a request are composed from standalone segments, and the state of that while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engine.base import Fidelity, GenerateRequest
from engine.transformers.attention import Probe, SequenceKV
from engine.transformers.cost import CostModel
from engine.transformers.runner import ModelRunner, Work
from kvcache import (
    Composed,
    Entry,
    Loaded,
    Part,
    Repair,
    Rotation,
    Segment,
    SegmentStore,
    chain_key,
    standalone_root,
)

# So many of the prompt's last tokens ask the memory what matters. They are the question, or the end of it.
PROBE_TOKENS = 64
_DEVIATION_CHUNK = 512
# benchmarks/results/fidelity-cpu.json has the frontier that these points were taken from.
HIGH = Repair("deviation", 0.15)
FAST = Repair("none", 0.0)


@dataclass(frozen=True)
class CompositionConfig:
    """How to compose. ``max_kl`` (nats): pages whose certificate says more are not composed. Composition that saves
    fewer than ``min_saved_tokens`` is not worth its divergence."""

    high: Repair = HIGH
    fast: Repair = FAST
    max_kl: float = 0.25
    min_saved_tokens: int = 64

    def repair(self, request: GenerateRequest) -> Repair:
        if request.repair is not None:
            return request.repair
        return self.fast if request.fidelity == "fast" else self.high


@dataclass(eq=False)
class Placement:
    """A part of a page at its place in the prompt. ``loaded`` is set once the page is on the device."""

    piece: int
    position: int
    entry: Entry
    part: Part
    loaded: Loaded | None = None

    @property
    def span(self) -> range:
        return range(self.position, self.position + self.part.n_tokens)

    def follows(self, other: Placement) -> bool:
        """Whether it stands behind ``other`` as it did when they were computed."""
        adjoins = other.span.stop == self.position and other.part.end == self.part.begin
        return adjoins and other.entry.key == self.entry.key


@dataclass(eq=False)
class Composition:
    """The composed part of one request: what is placed, and what is chosen to be computed anew."""

    fidelity: Fidelity
    repair: Repair
    placements: list[Placement]
    recomputed: frozenset[int] | None = field(default=None)

    @property
    def composed(self) -> Composed:
        starts = [
            i == 0 or not placement.follows(self.placements[i - 1]) for i, placement in enumerate(self.placements)
        ]
        return Composed(tuple(placement.span for placement in self.placements), tuple(starts))

    def drop_unloaded(self) -> None:
        """Leave to be computed what could not be loaded."""
        self.placements = [placement for placement in self.placements if placement.loaded is not None]

    def place(self, kv: SequenceKV, rotation: Rotation) -> None:
        """Fill the sequence's opened region with what is loaded."""
        for placement in self.placements:
            assert placement.loaded is not None, "only loaded placements are placed"
            place_part(kv, placement.loaded.segment, placement.part, placement.position, rotation)

    def choose(self, kv: SequenceKV, token_ids: Sequence[int], begin: int, runner: ModelRunner) -> list[int]:
        """Settle which tokens are computed anew; returns the positions to compute, ascending, from ``begin`` on."""
        composed = self.composed
        chosen = self.repair.choose(composed, probe(self.repair, composed, kv, token_ids, begin, runner))
        self.recomputed = frozenset(chosen)
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
        chunks = [rows[at : at + _DEVIATION_CHUNK] for at in range(0, len(rows), _DEVIATION_CHUNK)]
        found = [runner.deviation(kv, [token_ids[i] for i in chunk], chunk) for chunk in chunks]
        return torch.cat(found)[torch.tensor(positions) - begin]
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
    root: str,
    chained_tokens: int,
    store: SegmentStore,
    config: CompositionConfig,
    cost: CostModel | None = None,
) -> Composition | None:
    """The composition of a request whose first ``chained_tokens`` tokens are chained already, or None."""
    pieces = request.prompt.pieces
    if request.fidelity == "exact" or not pieces or pieces[0].kind != "header":
        return None
    header_key = chain_key(root, pieces[0].token_ids)
    placements = find_parts(request, standalone_root(header_key), chained_tokens, store, config)
    repair = config.repair(request)
    if cost is not None:
        placements = _worth_loading(placements, 1.0 - repair.share, store, cost)
    saved = sum(len(placement.span) for placement in placements) * (1.0 - repair.share)
    if repair.signal == "attention":
        saved -= min(PROBE_TOKENS, len(pieces[-1].token_ids))
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
            p.entry, store.tier_of(p.entry.key), used[p.entry.key] * saved_share, placements[0].position
        )
    ]


def find_parts(
    request: GenerateRequest, root: str, chained_tokens: int, store: SegmentStore, config: CompositionConfig
) -> list[Placement]:
    """Where in the store the prompt's memories behind the chain are, in prompt order."""
    placements: list[Placement] = []
    position = 0
    for index, piece in enumerate(request.prompt.pieces):
        if piece.kind == "memory" and position >= chained_tokens and piece.token_ids:
            candidates = [
                Placement(index, position, entry, part)
                for entry, part in store.find_part(chain_key(root, piece.token_ids))
                if entry.certificate is not None and entry.certificate.admits(request.fidelity, config.max_kl)
            ]
            best = _best(candidates, placements[-1] if placements else None, request.fidelity)
            if best is not None:
                placements.append(best)
        position += len(piece.token_ids)
    return placements


def _best(candidates: Sequence[Placement], before: Placement | None, fidelity: Fidelity) -> Placement | None:
    """The one that goes on where the last left off, else the one with the best certificate."""
    for candidate in candidates:
        if before is not None and candidate.follows(before):
            return candidate

    def divergence(candidate: Placement) -> float:
        assert candidate.entry.certificate is not None
        return candidate.entry.certificate.kl[fidelity]

    return min(candidates, key=divergence, default=None)
