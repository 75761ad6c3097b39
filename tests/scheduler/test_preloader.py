from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from engine.base import Capacity
from kvcache import PreloadStats, ReadInterrupted, TierName
from scheduler.events import EventLog
from scheduler.prediction.preloader import PreloadConfig, Preloader, Wanted


class Disk:
    """A mover that takes no time; ``busy``: a request is in the engine."""

    def __init__(self) -> None:
        self.moved: list[str] = []
        self.busy = False
        self.refuse: set[str] = set()
        self.fail: set[str] = set()
        self.interrupt: list[Callable[[], None]] = []
        self.ledger = PreloadStats()

    def capacity(self) -> Capacity:
        return Capacity(1000, 1, int(self.busy), 0)

    def tier_of(self, key: str) -> TierName | None:
        return "host" if key in self.moved else "disk"

    def preloads(self) -> PreloadStats:
        return self.ledger

    async def preload(self, key: str) -> int:
        await asyncio.sleep(0)
        if key in self.fail:
            raise OSError("the disk is on fire")
        if self.interrupt:
            self.interrupt.pop()()
            raise ReadInterrupted(key)
        if key in self.refuse:
            return 0
        self.moved.append(key)
        self.ledger = PreloadStats(bytes=self.ledger.bytes + 10)
        return 10


def wanted(key: str, probability: float = 0.9, nbytes: int = 10, late: bool = False) -> Wanted:
    return Wanted(key, probability, nbytes, time.monotonic() + (-1 if late else 60))


def with_preloader(config: PreloadConfig, test: Callable[[Preloader, Disk], Awaitable[None]]) -> None:
    async def run() -> None:
        disk = Disk()
        preloader = Preloader(disk, disk, config, EventLog())
        try:
            await asyncio.wait_for(test(preloader, disk), 20)
        finally:
            await preloader.close()
        stats = preloader.stats()  # whatever was offered has ended, and it is known how
        ended = stats.moved + stats.cancelled + stats.expired + stats.refused + stats.failures
        assert (stats.offered, stats.waiting) == (ended, 0)

    asyncio.run(run())


def test_the_likeliest_come_first_and_the_unlikely_never() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        preloader.offer("cube", [wanted("a", 0.6), wanted("b", 0.9), wanted("c", 0.4), wanted("d", 0.7)])
        await preloader.settled()
        assert disk.moved == ["b", "d", "a"]
        assert preloader.stats().moved == 3
        preloader.offer("cube", [wanted("a")])  # it is there
        await preloader.settled()
        assert preloader.stats().moved == 3

    with_preloader(PreloadConfig(), test)


def test_nothing_moves_while_a_request_is_there() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        disk.busy = True
        preloader.offer("cube", [wanted("a")])
        await asyncio.sleep(0.1)
        assert disk.moved == []
        assert preloader.stats().waiting == 1
        disk.busy = False
        await preloader.settled()
        assert disk.moved == ["a"]

    with_preloader(PreloadConfig(), test)


def test_a_new_prediction_cancels_the_old_one_of_its_cube_only() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        disk.busy = True
        preloader.offer("one", [wanted("a"), wanted("b")])
        preloader.offer("two", [wanted("x")])
        preloader.offer("one", [wanted("b"), wanted("c")])
        await asyncio.sleep(0.03)
        disk.busy = False
        await preloader.settled()
        assert sorted(disk.moved) == ["b", "c", "x"]
        assert preloader.stats().cancelled == 1

    with_preloader(PreloadConfig(), test)


def test_late_and_refused_and_failed_ones_are_counted() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        disk.refuse, disk.fail = {"r"}, {"f"}
        preloader.offer("cube", [wanted("late", late=True), wanted("r"), wanted("f"), wanted("a")])
        await preloader.settled()
        stats = preloader.stats()
        assert disk.moved == ["a"]
        assert (stats.expired, stats.refused, stats.failures, stats.waiting) == (1, 1, 1, 0)

    with_preloader(PreloadConfig(), test)


def test_what_nobody_uses_is_bounded_and_so_is_the_queue() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        preloader.offer("cube", [wanted(str(i), 0.5 + i / 100) for i in range(20)])
        assert preloader.stats().waiting == 5
        await preloader.settled()
        assert disk.moved == ["19", "18", "17"]  # 30 of 35 bytes: a fourth would be too many
        assert preloader.stats().refused == 2
        assert preloader.stats().cancelled == 15

    with_preloader(PreloadConfig(unused_bytes=35, max_queued=5), test)


def test_bandwidth() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        begin = time.monotonic()
        preloader.offer("cube", [wanted(str(i)) for i in range(5)])
        await preloader.settled()
        assert time.monotonic() - begin >= 4 * 10 / 100  # 10 bytes each at 100 a second
        assert len(disk.moved) == 5

    with_preloader(PreloadConfig(bytes_s=100.0), test)


def test_events_reach_their_tenant_only() -> None:
    async def test() -> None:
        log = EventLog()
        seen: list[int] = []

        async def read() -> None:
            async for event in log.follow("anna"):
                seen.append(event["number"])

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        for tenant in ("anna", "boris", None):
            log.publish("scene", tenant=tenant)
        await asyncio.sleep(0.01)
        reader.cancel()
        assert seen == [1, 3]
        assert [event["number"] for event in log.last(5, "boris")] == [3, 2]

    asyncio.run(test())


def test_what_a_request_interrupted_is_taken_up_again() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        disk.interrupt = [lambda: None, lambda: preloader.offer("cube", [wanted("a")])]  # the last comes first
        preloader.offer("cube", [wanted("a")])
        await preloader.settled()
        assert disk.moved == ["a"]
        stats = preloader.stats()
        assert (stats.offered, stats.moved, stats.cancelled) == (2, 1, 1)

    with_preloader(PreloadConfig(), test)


def test_what_is_no_longer_expected_when_it_was_interrupted_is_left() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        disk.interrupt = [lambda: preloader.offer("cube", [wanted("b")])]
        preloader.offer("cube", [wanted("a")])
        await preloader.settled()
        assert disk.moved == ["b"]

    with_preloader(PreloadConfig(), test)


def test_a_request_that_stays_is_waited_for_and_not_spun_on() -> None:
    async def test(preloader: Preloader, disk: Disk) -> None:
        tries = 0

        def again() -> None:
            nonlocal tries
            tries += 1
            if tries < 1000:
                disk.interrupt.append(again)

        disk.interrupt = [again]
        preloader.offer("cube", [wanted("a")])
        await asyncio.sleep(0.3)
        assert 2 <= tries <= 40
        disk.interrupt.clear()
        await preloader.settled()

    with_preloader(PreloadConfig(), test)
