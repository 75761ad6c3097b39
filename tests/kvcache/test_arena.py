from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import Segment
from kvcache.arena import Arena, HostTier
from tests.kvcache.conftest import make_segment

PAGE = 4096


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5 * PAGE)), max_size=60))
def test_what_is_taken_never_overlaps_and_comes_back_whole(steps: list[tuple[bool, int]]) -> None:
    arena = Arena(16 * PAGE)
    taken: list[torch.Tensor] = []
    for give, size in steps:
        if give and taken:
            arena.give_back(taken.pop(size % len(taken)))
        elif (memory := arena.take(size)) is not None:
            assert memory.numel() == size
            taken.append(memory)
    for i, memory in enumerate(taken):
        memory.fill_(i)
    assert all(bool((memory == i).all()) for i, memory in enumerate(taken))
    for memory in taken:
        arena.give_back(memory)
    assert arena.take(16 * PAGE) is not None


def held(tier: HostTier, token: int, pages: int = 4) -> Segment:
    """A segment of ``pages`` pages put into the tier, in use."""
    segment = make_segment([token])
    memory = tier.allocate(pages * PAGE)
    tier.put(segment, memory)
    return segment


def test_the_least_recently_used_leaves_first_and_never_what_is_in_use() -> None:
    tier = HostTier(12 * PAGE)
    tier.touch()
    a, b, c = (held(tier, token) for token in (1, 2, 3))
    for segment in (a, b, c):
        tier.release(segment)
    assert tier.acquire(a.key) is a  # in use, and the last used
    d = held(tier, 4)
    assert tier.acquire(b.key) is None
    assert tier.acquire(c.key) is c
    tier.release(c)
    held(tier, 5, pages=8)  # needs the room of two; only one is not in use: fresh memory then
    assert tier.acquire(a.key) is a
    assert tier.nbytes == sum(segment.nbytes for segment in (a, d))


def test_memory_of_a_dropped_segment_is_free_when_its_last_user_is_done() -> None:
    tier = HostTier(4 * PAGE)
    a = held(tier, 1)
    tier.drop(a.key)
    assert tier.acquire(a.key) is None
    outside = tier.allocate(4 * PAGE)  # not the arena's: that is still in use
    tier.discard(outside)
    tier.release(a)
    b = held(tier, 2)
    tier.release(b)
    assert tier.acquire(b.key) is b
    tier.release(b)
    tier.clear()
    assert tier.nbytes == 0


def test_what_is_larger_than_the_tier_is_served_and_not_kept() -> None:
    tier = HostTier(2 * PAGE)
    a = held(tier, 1, pages=3)
    assert tier.acquire(a.key) is None
    tier.release(a)
    assert tier.nbytes == 0
