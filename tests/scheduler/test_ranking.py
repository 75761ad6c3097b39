"""A ranking is a value: whoever has it may ask it, whatever is learned meanwhile."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvcache import Entry, TieredStore
from kvcache.ranking import Worth
from scheduler.prediction.arrival import Days, Gaps, Rhythm
from scheduler.prediction.ranking import CubeRank, Ranking, Ranks
from tests.kvcache.conftest import FINGERPRINT, make_segment

NOW = 1e9


def entry(i: int) -> Entry:
    return Entry.of(make_segment([i, i + 1]))


@pytest.fixture
def quick_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def ranking_of(ranks: Ranks, gaps: Gaps, *, trusted: bool = True) -> Ranking:
    return ranks.ranking(trusted=trusted, gaps=gaps.table, clock=lambda: NOW)


def test_what_is_learned_later_does_not_change_a_ranking() -> None:
    gaps, ranks, rhythm = Gaps(), Ranks(), Rhythm()
    entries = [entry(i) for i in range(3)]
    ranks.own(("t", "cube"), [entries[0].key, entries[1].key])
    ranks.update(("t", "cube"), CubeRank({entries[0].key: 0.5, entries[1].key: 0.1}, NOW - 10, rhythm.days))
    ranking = ranking_of(ranks, gaps)
    before = ranking.worth(entries)
    assert before[0] == pytest.approx(5 * before[1])
    gaps.observe(100.0)
    rhythm.observe(NOW)
    ranks.update(("t", "cube"), CubeRank({}, NOW, rhythm.days))
    ranks.own(("t", "other"), [each.key for each in entries])
    ranks.forget(("t", "cube"))
    assert ranking.worth(entries) == before
    assert ranking_of(ranks, gaps).worth(entries) != before


def test_a_ranking_that_is_not_trusted_goes_by_the_last_use() -> None:
    entries = [entry(i) for i in range(3)]
    worth = ranking_of(Ranks(), Gaps(), trusted=False).worth(entries)
    assert worth == [each.last_used_at for each in entries]


def test_a_segment_of_a_forgotten_cube_is_worth_what_its_conversation_is() -> None:
    gaps, ranks, one = Gaps(), Ranks(), entry(0)
    ranks.own(("t", "cube"), [one.key])
    ranks.update(("t", "cube"), CubeRank({one.key: 0.5}, NOW, Days()))
    ranks.forget(("t", "cube"))
    one.last_used_at = NOW - 30
    assert ranking_of(ranks, gaps).worth([one]) == [gaps.table.rate(30)]


@pytest.mark.usefixtures("quick_switching")
def test_threads_rank_while_the_event_loop_learns() -> None:
    """Each hand-down is ranked by all threads, and all of them get what it said when it was made."""
    gaps, ranks, rng = Gaps(), Ranks(), random.Random(0)
    entries = [entry(i) for i in range(20)]
    handed: list[tuple[Ranking, list[float]]] = []
    ended = threading.Event()
    wrong: list[object] = []

    def rank() -> None:
        try:
            while not ended.is_set() or handed:
                if handed and (ranking := handed[-1])[0].worth(entries) != ranking[1]:
                    wrong.append(ranking)
                if ended.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - the test fails with it
            wrong.append(error)

    threads = [threading.Thread(target=rank) for _ in range(4)]
    for thread in threads:
        thread.start()
    rhythm = Rhythm()
    for i in range(300):
        gaps.observe(rng.expovariate(1 / 60))
        rhythm.observe(i * 1800.0)
        key = ("t", f"cube {rng.randrange(5)}")
        chosen = rng.sample(entries, 8)
        ranks.own(key, [each.key for each in chosen])
        ranks.update(key, CubeRank({each.key: rng.random() for each in chosen}, NOW - rng.random() * 1e4, rhythm.days))
        if i % 50 == 49:
            ranks.forget(key)
        told = ranking_of(ranks, gaps)
        alone = ranking_of(ranks, gaps)
        handed.append((told, alone.worth(entries)))
    ended.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_the_store_evicts_by_the_ranking_that_was_handed_down_last(tmp_path: Path) -> None:
    segments = [make_segment([i, i + 1]) for i in (10, 20, 30)]
    store = TieredStore(tmp_path, device_bytes=0, host_bytes=2 * segments[0].nbytes, fsync=False)

    def hand_down(*densities: float) -> None:
        ranks = Ranks()
        keys = [segment.key for segment in segments]
        ranks.own(("t", "cube"), keys)
        ranks.update(("t", "cube"), CubeRank(dict(zip(keys, densities, strict=True)), NOW, Days()))
        worth: Worth = ranking_of(ranks, Gaps()).worth
        store.catalogue.ranker.use(worth)

    hand_down(0.9, 0.1, 0.5)
    for segment in segments:
        store.put(segment)
    store.flush()
    assert [segment.key in store._on_host for segment in segments] == [True, False, True]
    hand_down(0.1, 0.9, 0.5)
    assert store.preload(segments[1].key, FINGERPRINT) > 0
    assert [segment.key in store._on_host for segment in segments] == [False, True, True]
    store.close()
