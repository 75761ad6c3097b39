from __future__ import annotations

import itertools
import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.prediction.arrival import Gaps, Rhythm

DAY = 86_400.0


def test_a_conversation_that_has_paused_for_long_is_waited_for_less() -> None:
    rng = random.Random(1)
    gaps = Gaps()
    for _ in range(500):  # turns of a session, and the night between two
        gaps.observe(rng.expovariate(1 / 30) if rng.random() < 0.9 else rng.uniform(0.5 * DAY, 1.5 * DAY))
    at_once, paused = gaps.table.returns_within(600, 0.0), gaps.table.returns_within(600, 3000.0)
    assert at_once > 0.8
    assert paused < 0.2


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e9), max_size=50), st.floats(1, 1e7), st.floats(0, 1e9), st.integers(1, 100))
def test_always_a_probability(observed: list[float], horizon: float, idle: float, others: int) -> None:
    gaps = Gaps()
    for gap in observed:
        gaps.observe(gap)
    p = gaps.table.returns_within(horizon, idle, others)
    assert 0 <= p <= 1
    assert gaps.table.returns_within(horizon * 2, idle, others) >= p
    again = Gaps()
    again.restore(gaps.state())
    assert again.table.returns_within(horizon, idle, others) == pytest.approx(p, abs=1e-3)


def test_who_comes_every_morning_is_expected_in_the_morning() -> None:
    rhythm = Rhythm()
    for day in range(10):
        for minute in (0, 3, 9):
            rhythm.observe(day * DAY + 8 * 3600 + minute * 60)
    assert rhythm.days.likely(10 * DAY + 8 * 3600) > 0.5
    assert rhythm.days.likely(10 * DAY + 15 * 3600) == 0.0
    assert rhythm.days.likely(9 * DAY + 8.5 * 3600) == 0.0  # has been here in this hour
    again = Rhythm.restored(json.loads(json.dumps(rhythm.state())))
    assert again.days.likely(10 * DAY + 8 * 3600) == pytest.approx(rhythm.days.likely(10 * DAY + 8 * 3600), abs=1e-2)


def test_once_is_no_habit() -> None:
    rhythm = Rhythm()
    rhythm.observe(8 * 3600.0)
    assert rhythm.days.likely(DAY + 8 * 3600) < 0.5


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns after every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def ask_while(change: Callable[[int], None], *asks: Callable[[int], object], rounds: int = 4000) -> None:
    """Ask in threads while another one changes things; whatever they raise is raised here."""
    over = threading.Event()

    def asking(ask: Callable[[int], object]) -> None:
        i = 0
        while not over.is_set():
            ask(i)
            i += 1

    with ThreadPoolExecutor(len(asks)) as pool:
        running = [pool.submit(asking, ask) for ask in asks]
        try:
            for i in range(rounds):
                change(i)
        finally:
            over.set()
        for future in running:
            future.result()


def test_memory_tiers_may_ask_from_any_thread(quick_switches: None) -> None:
    """The engine's thread asks at every eviction, while the event loop learns."""
    gaps, rhythm = Gaps(), Rhythm()

    def change(i: int) -> None:
        gaps.observe(2.0 ** (i % 20))
        rhythm.observe(i * 3600.0)

    def rate(i: int) -> None:
        assert gaps.table.rate(2.0 ** (i % 24)) >= 0

    def likely(i: int) -> None:
        assert 0 <= rhythm.days.likely(i * 900.0) <= 1
        assert 0 <= gaps.table.returns_within(600, float(i)) <= 1

    ask_while(change, rate, rate, likely)
    alone = Gaps()
    for i in range(4000):
        alone.observe(2.0 ** (i % 20))
    for first in range(24):  # what is told belongs to what was learned last
        assert gaps.table.rate(2.0**first) == alone.table.rate(2.0**first)


def interrupted(ask: Callable[[], float], by: Callable[[], None]) -> float:
    """Ask, with something else happening between any two lines: wherever threads may take turns, they will."""

    def tracing(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        if event == "line":
            sys.settrace(None)
            by()
            sys.settrace(tracing)  # type: ignore[arg-type]
        return tracing if frame.f_globals["__name__"].startswith("scheduler.") else None

    before = sys.gettrace()
    sys.settrace(tracing)  # type: ignore[arg-type]
    try:
        return ask()
    finally:
        sys.settrace(before)


def test_learning_between_any_two_lines_of_an_answer_does_not_spoil_it() -> None:
    gaps, rhythm = Gaps(), Rhythm()
    hours = itertools.count()

    def learn() -> None:
        gaps.observe(30.0)
        rhythm.observe(next(hours) * 3600.0)

    for idle in range(24):
        assert interrupted(lambda idle=idle: gaps.table.rate(2.0**idle), learn) >= 0  # type: ignore[misc]
        assert 0 <= interrupted(lambda idle=idle: gaps.table.returns_within(600, 2.0**idle), learn) <= 1  # type: ignore[misc]
        assert 0 <= interrupted(lambda idle=idle: rhythm.days.likely(idle * 1800.0), learn) <= 1  # type: ignore[misc]
