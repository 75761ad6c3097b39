"""Which stored parts stand for which memories of a prompt; the same for every engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from engine.base import Fidelity, GenerateRequest, Prompt, Source
from kvcache import Entry, Loaded, Part, Prefix, Repair, TierName, chain_key

SOURCES: dict[TierName, Source] = {"device": "resident", "host": "host", "disk": "disk", "remote": "disk"}
_SLOWNESS: dict[Source, int] = {"resident": 0, "host": 1, "disk": 2, "computed": 3}


def slowest(sources: Sequence[Source]) -> Source:
    """The source that a piece is said to come from when several had a share in it."""
    return max(sources, key=_SLOWNESS.__getitem__)


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
        """Say whether it stands behind ``other`` as it did when they were computed."""
        adjoins = other.span.stop == self.position and other.part.end == self.part.begin
        return adjoins and other.entry.key == self.entry.key


def starts_run(placements: Sequence[Placement]) -> tuple[bool, ...]:
    """Say of each whether it does not go on where the one before left off."""
    return tuple(i == 0 or not placement.follows(placements[i - 1]) for i, placement in enumerate(placements))


def find_parts(
    request: GenerateRequest, header: Prefix, chained_tokens: int, config: CompositionConfig
) -> list[Placement]:
    """Find pages, built behind ``header``, that hold the prompt's memories behind the chain, in prompt order."""
    placements: list[Placement] = []
    position = 0
    for index, piece in enumerate(request.prompt.pieces):
        if piece.kind == "memory" and position >= chained_tokens and piece.token_ids:
            candidates = [
                Placement(index, position, entry, part)
                for entry, part in header.parts(piece.token_ids)
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


@dataclass(frozen=True)
class MissingPiece:
    """A kept piece of a prompt, or the end of one, that has no segment yet: tokens ``start`` to ``end``, behind
    ``parent``. ``session``: turns stand in it or before it, so that only their conversation can use it."""

    parent: str
    start: int
    end: int
    labels: frozenset[str] = frozenset()
    session: bool = False

    def key(self, token_ids: Sequence[int]) -> str:
        """The key of the segment to be; ``token_ids`` are those from position 0 on."""
        return chain_key(self.parent, token_ids[self.start : self.end])


def missing_pieces(
    prompt: Prompt, root: str, chain: Iterable[Entry], composed: Collection[int], *, keep_turns: bool = False
) -> list[MissingPiece]:
    """Kept pieces that are not in the chain below ``root``, in chain order; ``composed`` are indices of pieces.

    Ends at the first piece that is not kept, because what lies behind it cannot be found again, or that was composed,
    because what was computed behind it is not exact. Turns between memories count as kept with ``keep_turns`` only. A
    chain may end inside of a piece of turns (an earlier request's turns and answer): then the rest of it is missing.
    """
    parent, done = chain_end(root, chain)
    missing: list[MissingPiece] = []
    begin, session = 0, False
    for index, piece in enumerate(prompt.pieces):
        end = begin + len(piece.token_ids)
        session = session or piece.kind == "turns"
        if not piece.storable or not piece.token_ids or index in composed or (session and not keep_turns):
            break
        if begin < done < end and piece.label is not None:  # part of a memory's text would lie in a segment without it
            break
        if end > done:
            labels = frozenset() if piece.label is None else frozenset({piece.label})
            missing.append(MissingPiece(parent, done, end, labels, session))
            parent, done = missing[-1].key(prompt.token_ids), end
        begin = end
    return missing


def chain_end(root: str, chain: Iterable[Entry]) -> tuple[str, int]:
    """The key that a child of the chain has as its parent, and the position where the chain ends."""
    key, end = root, 0
    for entry in chain:
        key, end = entry.key, entry.start + entry.n_tokens
    return key, end
