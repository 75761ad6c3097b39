"""Which stored parts stand for which memories of a prompt; the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.base import Fidelity, GenerateRequest
from kvcache import Entry, Loaded, Part, Repair, SegmentStore, chain_key

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


def starts_run(placements: Sequence[Placement]) -> tuple[bool, ...]:
    """Which of them do not go on where the one before left off."""
    return tuple(i == 0 or not placement.follows(placements[i - 1]) for i, placement in enumerate(placements))


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
