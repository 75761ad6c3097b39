from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from engine.transformers.threads import compute_with, in_passing, leave_to_engine


@pytest.fixture(autouse=True)
def _put_back() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_thread_keeps_its_number_and_later_ones_have_one() -> None:
    started, left = threading.Event(), threading.Event()

    def engine() -> tuple[int, int]:
        compute_with(2)
        started.set()
        left.wait()
        first = torch.get_num_threads()
        torch.randn(512, 512) @ torch.randn(512, 512)
        return first, torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(engine)
        started.wait()
        leave_to_engine()
        left.set()
        assert found.result() == (2, 2)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == 1


def test_what_is_done_in_passing_has_its_threads_and_leaves_none() -> None:
    torch.set_num_threads(1)
    before = threading.active_count()
    assert in_passing(torch.get_num_threads, 2) == 2
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        in_passing(lambda: 1 // 0, 2)
