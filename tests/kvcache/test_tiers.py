"""A tier behind the disk: one class with has, read, write and remove."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvcache import Fingerprint, Segment, SegmentMissing, Tier, TieredStore, TierName
from kvcache.copies import Allocate, fresh_memory
from tests.kvcache.conftest import FINGERPRINT, ROOT, make_segment


class Shelf:
    """Somewhere else, with room for everything: it gives back what was written to it."""

    name: TierName = "remote"

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}
        self.reads: list[str] = []
        self.is_full = False

    def has(self, key: str) -> bool:
        return key in self.segments

    def read(
        self,
        key: str,
        fingerprint: Fingerprint,
        *,
        allocate: Allocate = fresh_memory,
        stop: Callable[[], bool] | None = None,
    ) -> Segment:
        self.reads.append(key)
        segment = self.segments.get(key)
        if segment is None:
            raise SegmentMissing(key)
        return segment

    def write(self, segment: Segment) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.segments[segment.key] = segment

    def remove(self, key: str) -> None:
        self.segments.pop(key, None)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def opened(folder: Path, shelf: Tier, *, disk_bytes: int = 1 << 30) -> TieredStore:
    return TieredStore(folder, device_bytes=0, host_bytes=0, disk_bytes=disk_bytes, fsync=False, behind=(shelf,))


@pytest.fixture
def store(tmp_path: Path, shelf: Shelf) -> Iterator[TieredStore]:
    """A disk with room for three segments, and the shelf behind it."""
    one = opened(tmp_path / "one", Shelf())
    one.put(make_segment([1, 2]))
    one.flush()
    nbytes = one.catalogue.stats().bytes["disk"]
    one.close()
    store = opened(tmp_path / "store", shelf, disk_bytes=3 * nbytes)
    yield store
    store.close()


def chain_of(n: int) -> list[Segment]:
    """Segments of one prompt, each behind the one before."""
    made: list[Segment] = []
    for i in range(n):
        made.append(make_segment([10 * i, 10 * i + 1], after=made[-1] if made else None, labels=[f"m{i}@1"]))
    return made


def put_all(store: TieredStore, segments: list[Segment]) -> None:
    for segment in segments:
        assert store.put(segment)
        store.flush()


def test_what_the_disk_has_no_room_for_comes_back_from_the_tier_behind(store: TieredStore, shelf: Shelf) -> None:
    segments = [make_segment([i, i + 1]) for i in range(0, 100, 10)]
    put_all(store, segments)
    stats = store.catalogue.stats()
    assert stats.segments["disk"] == 3
    assert stats.bytes["disk"] <= stats.budgets["disk"]
    assert shelf.segments.keys() == {segment.key for segment in segments}
    for segment in segments:
        loaded = store.load(segment.key, FINGERPRINT)
        assert loaded.segment.keys.equal(segment.keys)
        assert loaded.segment.values.equal(segment.values)
        store.flush()  # it may have come to disk again, in the place of another one
        assert store.catalogue.stats().bytes["disk"] <= stats.budgets["disk"]
    assert len(shelf.reads) >= 7


def test_a_chain_is_found_whole_wherever_its_segments_are(store: TieredStore, shelf: Shelf) -> None:
    chain = chain_of(8)
    put_all(store, chain)
    tokens = [token for segment in chain for token in segment.token_ids]
    found = store.catalogue.match(ROOT, tokens)
    assert [entry.key for entry in found] == [segment.key for segment in chain]
    tiers = {store.catalogue.tier_of(segment.key) for segment in chain}
    assert tiers == {"disk", "remote"}
    loaded = store.load_many([entry.key for entry in found], FINGERPRINT)
    assert [one.segment.token_ids for one in loaded if one is not None] == [segment.token_ids for segment in chain]


def test_what_is_used_from_behind_the_disk_comes_to_disk_again(store: TieredStore, shelf: Shelf) -> None:
    segments = [make_segment([i, i + 1]) for i in range(0, 50, 10)]
    put_all(store, segments)
    away = next(segment for segment in segments if store.catalogue.tier_of(segment.key) == "remote")
    for _ in range(3):  # worth more with each use
        store.load(away.key, FINGERPRINT)
        store.flush()
    assert store.catalogue.tier_of(away.key) == "disk"


def test_a_deleted_memory_leaves_every_tier(store: TieredStore, shelf: Shelf) -> None:
    chain = chain_of(6)
    put_all(store, chain)
    removed = store.catalogue.remove_label("m2@1")
    assert set(removed) == {segment.key for segment in chain[2:]}
    assert shelf.segments.keys() == {segment.key for segment in chain[:2]}
    assert not store.put(chain[2])


def test_a_tier_that_has_lost_a_segment_is_a_miss(store: TieredStore, shelf: Shelf) -> None:
    segments = [make_segment([i, i + 1]) for i in range(0, 50, 10)]
    put_all(store, segments)
    away = next(segment for segment in segments if store.catalogue.tier_of(segment.key) == "remote")
    del shelf.segments[away.key]
    with pytest.raises(SegmentMissing):
        store.load(away.key, FINGERPRINT)
    assert store.catalogue.tier_of(away.key) is None


def test_a_tier_that_cannot_be_written_to_costs_no_segment(store: TieredStore, shelf: Shelf) -> None:
    shelf.is_full = True
    segment = make_segment([1, 2])
    put_all(store, [segment])
    assert store.catalogue.tier_of(segment.key) == "disk"
    assert store.catalogue.stats().write_errors == 1
