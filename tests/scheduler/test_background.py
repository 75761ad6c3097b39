"""A worker does what there is to do, one thing at a time, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from scheduler.background import Worker


class Pile:
    """Work: numbers, of which the negative ones fail."""

    def __init__(self, look_every_s: float | None = None) -> None:
        self.left: list[int] = []
        self.done: list[int] = []
        self.failures = 0
        self.worker = Worker("pile", self.step, self.failed, look_every_s=look_every_s)

    async def step(self) -> bool:
        if not self.left:
            return False
        number = self.left.pop(0)
        await asyncio.sleep(0)
        if number < 0:
            raise ValueError(f"{number} is negative")
        self.done.append(number)
        return True

    def failed(self) -> str:
        self.failures += 1
        return "a number failed"

    def add(self, *numbers: int) -> None:
        self.left += numbers
        self.worker.wake()


def with_pile(test: Callable[[Pile], Awaitable[None]], look_every_s: float | None = None) -> None:
    async def run() -> None:
        pile = Pile(look_every_s)
        try:
            await asyncio.wait_for(test(pile), 20)
        finally:
            await pile.worker.close()

    asyncio.run(run())


def test_everything_is_done_in_order_and_again_when_more_comes() -> None:
    async def test(pile: Pile) -> None:
        await pile.worker.settled()
        pile.add(1, 2)
        pile.add(3)
        await pile.worker.settled()
        assert pile.done == [1, 2, 3]
        pile.add(4)
        await pile.worker.settled()
        assert pile.done == [1, 2, 3, 4]

    with_pile(test)


def test_what_fails_is_logged_and_does_not_stop_what_comes_after(caplog: pytest.LogCaptureFixture) -> None:
    async def test(pile: Pile) -> None:
        pile.add(1, -2, 3)
        await pile.worker.settled()
        assert pile.done == [1, 3]
        assert pile.failures == 1

    with_pile(test)
    (record,) = caplog.records
    assert record.getMessage() == "a number failed"
    assert record.exc_info is not None


def test_a_worker_that_looks_by_itself_finds_what_nobody_told_it_of() -> None:
    async def test(pile: Pile) -> None:
        pile.add()
        await asyncio.sleep(0.01)
        pile.left += [1, -1, 2]
        while pile.done != [1, 2]:
            await asyncio.sleep(0.01)
        pile.add(3)
        while pile.done != [1, 2, 3]:
            await asyncio.sleep(0)

    with_pile(test, look_every_s=0.02)


def test_closing_leaves_what_is_not_done() -> None:
    async def test(pile: Pile) -> None:
        pile.add(*range(1000))
        await asyncio.sleep(0)
        await pile.worker.close()
        assert len(pile.done) < 1000
        assert pile.done == list(range(len(pile.done)))

    with_pile(test)
