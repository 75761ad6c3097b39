from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache import ReadInterrupted, TieredStore, read_segment, write_segment
from kvcache.files.recycling import Recycler
from tests.kvcache.conftest import FINGERPRINT, make_segment

KIB = 1 << 10


def test_memory_comes_back_with_its_last_tensor_and_is_given_out_again() -> None:
    recycler = Recycler(1 << 20)
    first = recycler.allocate(200 * KIB)
    place = first.data_ptr()
    part = first.view(torch.float32)[100:]
    del first
    assert recycler.spare_bytes == 0  # a view of it is still there
    del part
    assert recycler.spare_bytes >= 200 * KIB
    assert recycler.allocate(190 * KIB).data_ptr() == place
    assert recycler.allocate(20 * KIB).data_ptr() != place  # too small for so large a block


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 600 * KIB)), max_size=40))
def test_nothing_in_use_is_given_out_and_the_rest_keeps_to_the_budget(steps: list[tuple[int, int]]) -> None:
    recycler = Recycler(1 << 20)
    held: list[tuple[int, torch.Tensor]] = []
    for n, (kind, nbytes) in enumerate(steps):
        if kind == 0 and held:
            held.pop(nbytes % len(held))
        else:
            held.append((n % 251, recycler.allocate(nbytes).fill_(n % 251)))
            assert len(held[-1][1]) == nbytes
        assert recycler.spare_bytes <= 1 << 20
        assert all(bool((tensor == value).all()) for value, tensor in held)


def test_many_threads_at_once() -> None:
    recycler = Recycler(4 << 20)

    def work(value: int) -> bool:
        return all(bool((recycler.allocate(70 * KIB).fill_(value) == value).all()) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    gc.collect()
    assert recycler.spare_bytes <= 4 << 20


def test_reading_is_given_up_when_it_is_told_to(tmp_path: Path) -> None:
    segment = make_segment(range(20000))  # several steps
    path = tmp_path / "x.safetensors"
    write_segment(path, segment)
    asked = 0

    def third_time() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(ReadInterrupted):
        read_segment(path, FINGERPRINT, stop=third_time)
    assert asked == 3
    assert torch.equal(read_segment(path, FINGERPRINT, stop=lambda: False).keys, segment.keys)


def test_a_preload_that_was_given_up_leaves_everything_as_it_was(tmp_path: Path) -> None:
    store = TieredStore(tmp_path / "segments", fsync=False)
    segment = make_segment(range(30))
    store.put(segment)
    store.flush()
    store.demote("disk")
    with pytest.raises(ReadInterrupted):
        store.preload(segment.key, FINGERPRINT, stop=lambda: True)
    assert store.catalogue.tier_of(segment.key) == "disk"
    assert store.catalogue.stats().preloads.segments == store.catalogue.stats().quarantined == 0
    assert store.preload(segment.key, FINGERPRINT, stop=lambda: False) == segment.nbytes
    store.close()
