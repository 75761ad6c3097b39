"""The choice of short memories that share a page.

Composed one by one, short memories lose what they say to each other; inside a page they are exact among themselves.
A page starts from a memory that was retrieved and takes in what is retrieved together with it, then what was
remembered next to it, up to a size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from engine.base import Piece

# Measured (benchmarks/results/fidelity-cpu.json): pages of this size behind a lead of that size.
PAGE_TOKENS = 512
LEAD_TOKENS = 512
_MAX_PAIRS = 50_000

Affinity = Callable[[str, str], float]


class Together:
    """Decayed counts of memories that were retrieved together, the oldest pairs forgotten first."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], float] = OrderedDict()

    def observe(self, labels: Iterable[str]) -> None:
        """Take in the memories of one request; the order does not matter."""
        for pair in combinations(sorted(set(labels)), 2):
            self._pairs[pair] = self._pairs.pop(pair, 0.0) * 0.9 + 1.0
        while len(self._pairs) > _MAX_PAIRS:
            self._pairs.popitem(last=False)

    def affinity(self, a: str, b: str) -> float:
        return self._pairs.get((a, b) if a < b else (b, a), 0.0)


@dataclass(frozen=True)
class PagePlan:
    """Memories of a page, of its lead, and of the context its certificate is made behind, each in cube order."""

    members: tuple[Piece, ...]
    lead: tuple[Piece, ...]
    context: tuple[Piece, ...]


def plan_pages(
    pieces: Sequence[Piece], wanted: Collection[str], paged: Collection[str], affinity: Affinity
) -> list[PagePlan]:
    """Plan pages for the wanted memories that have none. ``pieces`` are all memories of a cube in order of creation."""
    free = [i for i, piece in enumerate(pieces) if piece.label not in paged]
    pages = []
    for seed in list(free):
        if seed in free and pieces[seed].label in wanted:
            members = _gather(seed, free, pieces, PAGE_TOKENS, affinity)
            free = [i for i in free if i not in members]
            pages.append(_page(members, pieces))
    return pages


def _gather(seed: int, candidates: Sequence[int], pieces: Sequence[Piece], room: int, affinity: Affinity) -> list[int]:
    """Gather the seed and those that belong with it, as far as there is room: often retrieved together, then near."""
    members = [seed]
    room -= len(pieces[seed].token_ids)
    label = pieces[seed].label or ""

    def belongs(i: int) -> tuple[float, int]:
        return affinity(label, pieces[i].label or ""), -abs(i - seed)

    for i in sorted((i for i in candidates if i != seed), key=belongs, reverse=True):
        n = len(pieces[i].token_ids)
        if n <= room:
            members.append(i)
            room -= n
    return sorted(members)


def _page(members: Sequence[int], pieces: Sequence[Piece]) -> PagePlan:
    others = [i for i in range(len(pieces)) if i not in members]
    before = [i for i in others if i < members[0]]
    after = [i for i in others if i > members[0]]
    # Prompts hold memories in order of creation, so what came just before is what will stand before the page; the
    # cube's first page will stand right behind the header.
    lead = _first_that_fit(list(reversed(before)), pieces)
    context = _first_that_fit([i for i in [*reversed(after), *before] if i not in lead], pieces) or lead
    return PagePlan(
        tuple(pieces[i] for i in members), tuple(pieces[i] for i in lead), tuple(pieces[i] for i in context)
    )


def _first_that_fit(order: Sequence[int], pieces: Sequence[Piece]) -> list[int]:
    chosen: list[int] = []
    room = LEAD_TOKENS
    for i in order:
        if len(pieces[i].token_ids) <= room:
            chosen.append(i)
            room -= len(pieces[i].token_ids)
    return sorted(chosen)
