from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.suites.crowded import another_process
from engine.transformers import LoadedModel, SequenceKV, usable_threads
from engine.transformers.governor import Kind, ThreadGovernor
from engine.transformers.runner import ModelRunner, Work
from engine.transformers.threads import set_thread_count
from tests.tiny import tiny_model

DECODE = Kind(1, 1, 7)
SHORT_PROMPT = Kind(1, 7, 0)


class Machine:
    """A clock and passes whose times depend on the number of threads and on what else computes."""

    def __init__(self, most: int = 2, seed: int = 0, *, adaptive: bool = True) -> None:
        self.now = 0.0
        self.others: int | None = None
        self.governor = ThreadGovernor(
            most, adaptive=adaptive, clock=lambda: self.now, others=lambda least: self.others, cores=most
        )
        self._random = random.Random(seed)
        self.used: list[int] = []

    def run(
        self,
        passes: int,
        seconds: Callable[[int], float],
        kind: Kind | None = DECODE,
        waited: Callable[[int], float] | None = None,
    ) -> float:
        """Run passes and give the seconds they took."""
        begin = self.now
        for _ in range(passes):
            threads = self.governor.threads_for(kind)
            cost = seconds(threads) * self._random.uniform(0.95, 1.25)
            self.now += cost
            self.used.append(threads)
            self.governor.observe(kind, threads, cost, None if waited is None else waited(threads))
        return self.now - begin


def alone(threads: int) -> float:
    return 0.040 / threads**0.6


def beside_another(threads: int) -> float:
    return 0.080 if threads == 1 else 0.100 * threads


@given(st.integers(0, 1000), st.sampled_from([2, 3, 4, 16]))
def test_alone_all_threads_are_used_but_for_one_trial(seed: int, most: int) -> None:
    machine = Machine(most, seed)
    machine.run(2000, alone)
    assert machine.governor.threads == most
    assert machine.governor.steps_down == 0
    assert sum(threads != most for threads in machine.used) <= 8


@given(st.integers(0, 1000), st.sampled_from([2, 4, 16]), st.sampled_from([DECODE, SHORT_PROMPT]))
def test_beside_another_process_one_is_used_soon_and_all_again_afterwards(seed: int, most: int, kind: Kind) -> None:
    machine = Machine(most, seed)
    machine.run(20, alone)
    machine.run(20, alone, kind)
    machine.run(60, beside_another, kind)
    assert machine.governor.threads == 1
    assert machine.governor.steps_down >= 1
    stepped_at = len(machine.used)
    machine.run(500, beside_another, kind)
    tried = [threads for threads in machine.used[stepped_at:] if threads > 1]
    assert len(tried) <= 12  # at most one pass each 2 to 10 seconds
    machine.now += 10
    machine.run(1000, alone, kind)
    assert machine.governor.threads == most


def test_a_machine_that_is_busy_from_the_start_is_found_out_within_a_few_tokens() -> None:
    machine = Machine()
    took = machine.run(64, beside_another)
    assert machine.governor.threads == 1
    assert took < 1.35 * 64 * 0.080 * 1.1


def test_where_the_kernel_tells_of_waiting_one_contended_pass_is_enough() -> None:
    machine = Machine()
    machine.run(20, alone, waited=lambda threads: 0.0)
    machine.run(2, beside_another, waited=lambda threads: 0.5)
    assert machine.governor.threads == 1
    before = len(machine.used)
    machine.run(1000, beside_another, waited=lambda threads: 0.4)
    assert machine.used[before:].count(2) <= 8  # while even one thread waits, one pass in more than 10 seconds
    took = machine.run(200, alone, waited=lambda threads: 0.0)
    assert machine.governor.threads == 2
    assert took < 1.5 * 200 * alone(2) * 1.1


def test_all_threads_come_back_whatever_kinds_of_passes_follow() -> None:
    machine = Machine()
    machine.run(20, alone, waited=lambda threads: 0.0)
    machine.run(2, beside_another, waited=lambda threads: 0.5)
    assert machine.governor.threads == 1
    for i in range(60):  # no two passes of one kind in a row, and long ones
        machine.run(1, alone, [DECODE, SHORT_PROMPT, None][i % 3], waited=lambda threads: 0.0)
    assert machine.governor.threads == 2


def test_a_process_that_takes_one_core_of_two_is_not_tried_against_all_the_time() -> None:
    machine = Machine()
    machine.run(20, alone, waited=lambda threads: 0.0)
    kernel = random.Random(1)
    machine.run(
        2000,
        lambda threads: 0.040 if threads == 1 else 0.090,
        waited=lambda threads: kernel.choice([0.0, 0.0, 0.0, 0.1]) if threads == 1 else 0.5,
    )
    assert machine.governor.threads == 1
    assert machine.used.count(2) < 20 + 2000 * 0.05


def test_where_others_want_all_cores_not_even_one_pass_is_slow() -> None:
    machine = Machine()
    machine.run(20, alone, waited=lambda threads: 0.0)
    before = len(machine.used)
    machine.others = 2
    kernel = random.Random(1)
    for kind in (None, SHORT_PROMPT, DECODE):
        machine.run(100, beside_another, kind, waited=lambda threads: kernel.choice([0.0, 0.0, 0.0, 0.4]))
    assert set(machine.used[before:]) == {1}
    machine.others = 0
    took = machine.run(100, alone, waited=lambda threads: 0.0)
    assert machine.governor.threads == 2
    assert took < 1.5 * 100 * alone(2) * 1.1


def test_where_the_kernel_tells_of_both_nothing_is_tried_on_a_quiet_machine() -> None:
    machine = Machine()
    machine.others = 0
    machine.run(500, alone, waited=lambda threads: 0.0)
    assert set(machine.used) == {2}


def test_a_client_that_has_just_sent_its_request_takes_no_core() -> None:
    machine = Machine()
    seen = iter([2, 0] * 50)  # gone at the second look
    governor = ThreadGovernor(2, others=lambda least: next(seen), cores=2, clock=lambda: machine.now)
    assert [governor.threads_for(None) for _ in range(50)] == [2] * 50


def test_others_of_low_priority_are_no_reason_for_long() -> None:
    machine = Machine()
    machine.run(20, alone, waited=lambda threads: 0.0)
    machine.others = 2
    machine.run(3000, alone, waited=lambda threads: 0.0)
    assert machine.used[20:].count(1) * alone(1) < 60
    assert machine.governor.threads == 2
    machine.run(2, beside_another, waited=lambda threads: 0.5)  # now they are not
    before = len(machine.used)
    machine.run(200, beside_another, waited=lambda threads: 0.1)
    assert set(machine.used[before:]) == {1}


def test_a_single_slow_pass_changes_nothing() -> None:
    machine = Machine(2)
    for _ in range(50):
        machine.run(20, alone)
        machine.run(1, lambda threads: 1.0)
    assert machine.governor.threads == 2
    assert machine.governor.steps_down == 0


def test_a_longer_context_is_no_alarm() -> None:
    machine = Machine(2)
    machine.run(20, alone)
    for behind in range(8, 14):
        machine.run(50, lambda threads, n=behind: alone(threads) * (n - 6), Kind(1, 1, behind))  # type: ignore[misc]
    assert machine.governor.steps_down == 0


def test_long_passes_follow_and_are_not_compared() -> None:
    assert Kind.of(1, 129, 0) is None
    assert Kind.of(3, 3, 300) == Kind(3, 2, 9)
    machine = Machine(2)
    machine.run(60, beside_another)
    machine.run(20, beside_another, None)
    assert machine.used[-20:] == [1] * 20


def test_where_it_is_not_wanted_the_number_stays() -> None:
    machine = Machine(4, adaptive=False)
    machine.run(100, beside_another)
    assert set(machine.used) == {4}


def test_a_runner_computes_with_what_its_governor_says() -> None:
    model = tiny_model()
    used: list[int] = []

    class Fixed(ThreadGovernor):
        def threads_for(self, kind: Kind | None) -> int:
            return 2 if kind is not None and kind.magnitude == 1 else 1

        def observe(self, kind: Kind | None, threads: int, cost: float, waited: float | None = None) -> None:
            assert cost > 0
            assert waited is None or 0 <= waited < 1.5
            assert threads == torch.get_num_threads()
            used.append(threads)

    before = torch.get_num_threads()
    try:
        runner = ModelRunner(model.model, Fixed(2))
        kv = SequenceKV(model.fingerprint.layout, model.device, 20)
        runner.forward([Work(kv, [1, 2, 3])])
        runner.forward([Work(kv, [4])])
    finally:
        torch.set_num_threads(before)
    assert used == [1, 2]


def test_others_who_begin_during_a_pass_are_seen_between_its_layers() -> None:
    machine = Machine()
    machine.run(20, alone, waited=lambda threads: 0.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(machine.governor.threads_for(DECODE))
        between_layers = machine.governor.watching(lambda: False)
        assert between_layers is not None
        machine.others = 2
        assert not between_layers()
        assert torch.get_num_threads() == 2  # too soon for another look
        machine.now += 0.2
        assert not between_layers()
        assert torch.get_num_threads() == 1
        assert machine.governor.steps_down == 1
        machine.governor.observe(DECODE, 2, 5.0, 0.5)  # of two numbers, hence of none
        assert machine.governor.steps_down == 1
        between_layers = machine.governor.watching(lambda: True)
        assert between_layers is not None
        assert between_layers()
    finally:
        torch.set_num_threads(before)
    assert ThreadGovernor(2, adaptive=False).watching(None) is None


@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_number_is_always_possible(most: int) -> None:
    machine = Machine(most, 3)
    chosen = random.Random(5)
    for _ in range(300):
        machine.run(
            chosen.randint(1, 5), chosen.choice([alone, beside_another]), chosen.choice([DECODE, SHORT_PROMPT, None])
        )
    assert all(1 <= threads <= most for threads in machine.used)


@pytest.mark.skipif(usable_threads() == 1, reason="there is nothing to step down from")
def test_beside_a_real_process_that_computes_the_demo_model_steps_down(demo_model: LoadedModel) -> None:
    governor = ThreadGovernor(usable_threads())
    runner = ModelRunner(demo_model.model, governor)
    kv = SequenceKV(demo_model.fingerprint.layout, demo_model.device, 400)
    before = torch.get_num_threads()
    set_thread_count(governor.most)
    try:
        with another_process():
            begin = time.monotonic()
            while governor.steps_down == 0 and time.monotonic() - begin < 120 and kv.n_tokens < 400:
                runner.forward([Work(kv, [kv.n_tokens + 100])])
    finally:
        torch.set_num_threads(before)
    assert governor.steps_down >= 1
