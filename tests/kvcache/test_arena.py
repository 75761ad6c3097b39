from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import Segment
from kvcache.arena import Arena, HostTier, PinnedMemory, pinned_block
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


@contextmanager
def a_gpu(refuses: bool = False) -> Iterator[list[int]]:
    """Within the block there is a driver that pins; the bytes that are pinned now."""
    pinned: dict[int, int] = {}
    told: list[int] = []

    def register(address: int, nbytes: int) -> None:
        if refuses:
            raise RuntimeError("cudaHostRegister gave error 2")
        pinned[address] = nbytes
        told[:] = pinned.values()

    def unregister(address: int) -> None:
        del pinned[address]
        told[:] = pinned.values()

    with (
        patch("kvcache.arena._register", register),
        patch("kvcache.arena._unregister", unregister),
        patch("torch.cuda.current_device", lambda: 0),
        patch("torch.cuda.set_device"),
    ):
        yield told


def test_no_page_more_is_pinned_than_was_asked_for() -> None:
    """PyTorch's pinned memory would be rounded up to a power of two."""
    with a_gpu() as pinned:
        tier = HostTier(5 * PAGE, pin=True)
        assert pinned == [5 * PAGE]
        piece = tier.allocate(5 * PAGE).fill_(3)
        del tier
        assert pinned == [5 * PAGE], "somebody still uses it"
        assert bool((piece == 3).all())
        del piece
        gc.collect()
        assert pinned == []


def test_memory_that_cannot_be_pinned_serves_as_well(caplog: pytest.LogCaptureFixture) -> None:
    with a_gpu(refuses=True) as pinned:
        assert pinned_block(3 * PAGE).fill_(1).sum() == 3 * PAGE
        assert pinned == []
    assert "could not be pinned" in caplog.text


def test_pinned_memory_comes_back_when_the_last_tensor_is_gone() -> None:
    with a_gpu() as pinned:
        memory = PinnedMemory(4 * PAGE, torch.device("cuda", 0))
        first = memory.allocate(3 * PAGE)
        view = first[:10].view(torch.int16)
        assert pinned == [4 * PAGE]
        place = first.data_ptr()
        del first
        beside = memory.allocate(2 * PAGE)  # no gap: ordinary memory
        assert abs(beside.data_ptr() - place) >= PAGE
        view.fill_(5)
        assert bool((view == 5).all())
        del view
        assert memory.allocate(4 * PAGE).data_ptr() == place
