"""The order of memories in a prompt that reuses most of what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.base import Piece, Prompt
from kvcache import Fingerprint, chain_key, root_key, standalone_root

# Stored chains are few; this bounds the search where somebody has asked for the same memories in every order.
_MAX_VISITS = 512


class Stored(Protocol):
    """What is stored, as far as an order depends on it (an ``Engine`` says so)."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    def has_segment(self, key: str) -> bool: ...

    def place_of(self, part_key: str) -> tuple[str, int] | None: ...


def best_order(stored: Stored, prompt: Prompt, n_fixed: int, salt: str) -> list[int]:
    """Indices of the memory pieces (from 0): the first ``n_fixed`` as they are, then those whose stored chain is
    longest in tokens, then the others, members of one page side by side."""
    pieces = prompt.pieces[1:-1]
    header = chain_key(root_key(stored.fingerprint, salt), prompt.pieces[0].token_ids)
    best = _longest_chain(stored, header, pieces, n_fixed)
    rest = [i for i in range(n_fixed, len(pieces)) if i not in best]
    return [*range(n_fixed), *best, *_by_page(stored, header, pieces, rest)]


def _longest_chain(stored: Stored, header: str, pieces: Sequence[Piece], n_fixed: int) -> tuple[int, ...]:
    if not stored.has_segment(header):
        return ()
    key = header
    for piece in pieces[:n_fixed]:
        key = chain_key(key, piece.token_ids)
        if not stored.has_segment(key):
            return ()
    return _ChainSearch(stored, pieces).longest(key, tuple(range(n_fixed, len(pieces))))


def _by_page(stored: Stored, header: str, pieces: Sequence[Piece], rest: Sequence[int]) -> list[int]:
    """Members of one page side by side, as they were built: they are exact among themselves there."""
    root = standalone_root(header)
    places = {i: stored.place_of(chain_key(root, pieces[i].token_ids)) for i in rest}
    first = {place[0]: i for i in reversed(rest) if (place := places[i]) is not None}

    def rank(i: int) -> tuple[int, int]:
        place = places[i]
        return (i, 0) if place is None else (first[place[0]], place[1])

    return sorted(rest, key=rank)


class _ChainSearch:
    """Depth-first search for the longest stored chain over a set of pieces."""

    def __init__(self, stored: Stored, pieces: Sequence[Piece]) -> None:
        self._stored = stored
        self._pieces = pieces
        self._visits = 0

    def longest(self, key: str, rest: tuple[int, ...]) -> tuple[int, ...]:
        """Indices out of ``rest``, in the order of the longest chain below ``key``; the first found wins a tie."""
        best: tuple[int, ...] = ()
        for i in rest:
            child = chain_key(key, self._pieces[i].token_ids)
            self._visits += 1
            if self._visits > _MAX_VISITS:
                break
            if self._stored.has_segment(child):
                path = (i, *self.longest(child, tuple(j for j in rest if j != i)))
                if self._tokens(path) > self._tokens(best):
                    best = path
        return best

    def _tokens(self, path: tuple[int, ...]) -> int:
        return sum(len(self._pieces[i].token_ids) for i in path)
