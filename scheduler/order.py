"""The order of memories in a prompt that reuses most of what is stored."""

from __future__ import annotations

from collections.abc import Sequence

from engine.base import Piece, Prompt
from kvcache import Prefix, SegmentView

# Stored chains are few; this bounds the search where somebody has asked for the same memories in every order.
_MAX_VISITS = 512


def best_order(stored: SegmentView, prompt: Prompt, n_fixed: int, salt: str) -> list[int]:
    """Return indices of the memory pieces (from 0): the first ``n_fixed`` as they are, then those whose stored chain is
    longest in tokens, then the others, members of one page side by side."""
    pieces = prompt.memories()
    header = stored.behind(salt, prompt.pieces[0].token_ids)
    best = _longest_chain(header, pieces, n_fixed)
    rest = [i for i in range(n_fixed, len(pieces)) if i not in best]
    return [*range(n_fixed), *best, *_by_page(header, pieces, rest)]


def _longest_chain(header: Prefix, pieces: Sequence[Piece], n_fixed: int) -> tuple[int, ...]:
    if not header.is_stored:
        return ()
    prefix = header
    for piece in pieces[:n_fixed]:
        prefix = prefix.then(piece.token_ids)
        if not prefix.is_stored:
            return ()
    return _ChainSearch(pieces).longest(prefix, tuple(range(n_fixed, len(pieces))))


def _by_page(header: Prefix, pieces: Sequence[Piece], rest: Sequence[int]) -> list[int]:
    """Put members of one page side by side, as they were built: they are exact among themselves there."""
    places = {i: header.page_of(pieces[i].token_ids) for i in rest}
    first = {place[0]: i for i in reversed(rest) if (place := places[i]) is not None}

    def rank(i: int) -> tuple[int, int]:
        place = places[i]
        return (i, 0) if place is None else (first[place[0]], place[1])

    return sorted(rest, key=rank)


class _ChainSearch:
    """Depth-first search for the longest stored chain over a set of pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._visits = 0

    def longest(self, prefix: Prefix, rest: tuple[int, ...]) -> tuple[int, ...]:
        """Return indices out of ``rest``, in the order of the longest chain behind ``prefix``; the first found wins a
        tie."""
        best: tuple[int, ...] = ()
        for i in rest:
            child = prefix.then(self._pieces[i].token_ids)
            self._visits += 1
            if self._visits > _MAX_VISITS:
                break
            if child.is_stored:
                path = (i, *self.longest(child, tuple(j for j in rest if j != i)))
                if self._tokens(path) > self._tokens(best):
                    best = path
        return best

    def _tokens(self, path: tuple[int, ...]) -> int:
        return sum(len(self._pieces[i].token_ids) for i in path)
