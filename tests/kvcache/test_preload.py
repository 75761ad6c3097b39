"""Segments that are brought up before they are asked for, and memory tiers that keep what is worth most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache import Entry, ModelView, Segment, TieredStore
from kvcache.tiers import MemoryTier
from tests.kvcache.conftest import FINGERPRINT, ROOT, held, make_segment

A, B, C = (make_segment([i, i + 1]) for i in (10, 20, 30))


@pytest.fixture
def small(tmp_path: Path) -> TieredStore:
    """Three segments on disk, and a host tier for two of them."""
    store = TieredStore(tmp_path, device_bytes=0, host_bytes=2 * A.nbytes, fsync=False)
    for segment in (A, B, C):
        store.put(segment)
    store.demote("disk")
    return store


def in_host(store: TieredStore) -> set[str]:
    return {segment.key for segment in (A, B, C) if store.catalogue.tier_of(segment.key) == "host"}


def worth_of(values: dict[str, float]) -> object:
    def worth(entries: Sequence[Entry]) -> list[float]:
        return [values.get(entry.key, 0.0) for entry in entries]

    return worth


def test_a_preload_is_no_use_and_its_first_use_is_counted_once(small: TieredStore) -> None:
    assert small.preload(A.key, FINGERPRINT) == A.nbytes
    assert small.preload(A.key, FINGERPRINT) == 0
    assert small.catalogue.tier_of(A.key) == "host"
    assert sum(small.catalogue.stats().hits.values()) == 0
    assert small.catalogue.stats().preloads.bytes == A.nbytes
    assert small.catalogue.stats().preloads.used_bytes == 0
    for _ in range(2):
        assert small.load(A.key, FINGERPRINT).tier == "host"
    done = small.catalogue.stats().preloads
    assert (done.segments, done.used_bytes, done.wasted_bytes) == (1, A.nbytes, 0)
    assert done.saved_s > 0
    small.close()


def test_what_leaves_memory_unused_is_wasted(small: TieredStore) -> None:
    for segment in (A, B, C):
        small.preload(segment.key, FINGERPRINT)
    assert in_host(small) == {B.key, C.key}
    assert small.catalogue.stats().preloads.wasted_bytes == A.nbytes
    small.demote("disk")
    assert small.catalogue.stats().preloads.wasted_bytes == 3 * A.nbytes
    small.close()


def test_what_is_deleted_is_wasted_and_never_comes_back(small: TieredStore) -> None:
    labelled = make_segment([1, 2, 3], labels=["m@1"])
    small.put(labelled)
    small.demote("disk")
    small.preload(labelled.key, FINGERPRINT)
    small.catalogue.remove_label("m@1")
    assert small.catalogue.stats().preloads.wasted_bytes == labelled.nbytes
    assert small.preload(labelled.key, FINGERPRINT) == 0
    small.close()


def test_nothing_is_displaced_that_is_worth_more(small: TieredStore) -> None:
    small.catalogue.ranker.use(worth_of({A.key: 0.9, B.key: 0.5, C.key: 0.1}))  # type: ignore[arg-type]
    for segment in (A, B, C):
        small.preload(segment.key, FINGERPRINT)
    assert in_host(small) == {A.key, B.key}
    assert small.catalogue.stats().preloads.segments == 2  # the third was not even read
    small.load(C.key, FINGERPRINT)  # asked for: served, and not kept
    assert in_host(small) == {A.key, B.key}
    small.catalogue.ranker.use(worth_of({A.key: 0.0, B.key: 0.5, C.key: 0.6}))  # type: ignore[arg-type]
    assert small.preload(C.key, FINGERPRINT) == C.nbytes
    assert in_host(small) == {B.key, C.key}
    small.close()


def test_a_pinned_segment_stays_whatever_it_is_worth(small: TieredStore) -> None:
    small.catalogue.ranker.use(worth_of({A.key: 0.0, B.key: 0.4, C.key: 0.6}))  # type: ignore[arg-type]
    small.preload(A.key, FINGERPRINT)
    with held(small, [A.key]):
        small.preload(B.key, FINGERPRINT)
        small.preload(C.key, FINGERPRINT)
        assert in_host(small) == {A.key, C.key}
    small.close()


def test_two_that_are_alike_do_not_displace_each_other(small: TieredStore) -> None:
    small.catalogue.ranker.use(worth_of({A.key: 0.5, B.key: 0.51, C.key: 0.55}))  # type: ignore[arg-type]
    for _ in range(3):
        for segment in (A, B, C):
            small.preload(segment.key, FINGERPRINT)
    assert in_host(small) == {A.key, B.key}
    assert small.catalogue.stats().preloads.segments == 2
    small.close()


def test_a_bad_file_or_another_model_is_not_preloaded(small: TieredStore, tmp_path: Path) -> None:
    assert small.preload(A.key, replace(FINGERPRINT, weights="other")) == 0
    small.close()
    again = TieredStore(tmp_path, fsync=False)
    for path in tmp_path.rglob(f"{B.key}*.safetensors"):
        path.write_bytes(b"no segment")
    assert again.preload(B.key, FINGERPRINT) == 0
    assert again.catalogue.tier_of(B.key) is None
    again.close()


def test_what_holds_a_memory_behind_a_header(store: TieredStore) -> None:
    def page(header: str, tokens: list[int], label: str) -> Segment:
        plain = make_segment(tokens)
        return Segment.standalone(header, FINGERPRINT, 0, [(tokens, label)], plain.keys, plain.values)

    here, elsewhere = page(ROOT, [1, 2], "m@1"), page("ab" * 32, [1, 2], "m@1")
    store.put(here)
    store.put(elsewhere)
    chained = make_segment([5, 6], labels=["m@1"])
    store.put(chained)
    assert here.root is not None
    seen = ModelView(store.catalogue, FINGERPRINT)
    assert {entry.key for entry in seen.holding(["m@1", "other@1"], here.root)} == {here.key, chained.key}
    assert seen.holding(["other@1"], here.root) == []


worths = st.dictionaries(st.integers(0, 9), st.floats(0, 1), max_size=10)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), max_size=30), worths, st.integers(1, 5))
def test_a_tier_keeps_the_best_of_what_it_was_given(order: list[int], worth: dict[int, float], room: int) -> None:
    segments = {i: make_segment([100 + i]) for i in range(10)}
    number = {segment.key: i for i, segment in segments.items()}
    tier = MemoryTier("host", room * segments[0].nbytes)

    def rank(keys: Sequence[str]) -> list[float]:
        return [worth.get(number[key], 0.0) for key in keys]

    seen: set[int] = set()
    for i in order:
        may = tier.has_room(segments[i].key, segments[i].nbytes, lambda key: False, rank)
        before = segments[i].key in tier
        tier.put(segments[i], lambda key: False, rank)
        assert not may or before or segments[i].key in tier  # room, and more than that: it stays
        seen.add(i)
    assert tier.nbytes <= tier.budget
    kept = {i for i in seen if segments[i].key in tier}
    assert len(kept) == min(room, len(seen))
    lowest = min((worth.get(i, 0.0) for i in kept), default=0.0)
    assert all(worth.get(i, 0.0) <= lowest for i in seen - kept)


@pytest.mark.parametrize("values", [None, [], [1.0], [float("nan")] * 9, ["many"] * 9])
def test_a_ranking_that_fails_costs_no_request(
    tmp_path: Path, values: list[float] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What was used last stays, as without one; it is counted, and logged once."""

    def worth(entries: Sequence[Entry]) -> list[float]:
        if values is None:
            raise KeyError(11)
        return values[: len(entries) - 1] if len(values) < 2 else values[: len(entries)]

    store = TieredStore(tmp_path, device_bytes=2 * A.nbytes, host_bytes=A.nbytes, fsync=False)
    store.catalogue.ranker.use(worth)
    for segment in (A, B):
        assert store.put(segment)
    store.load(A.key, FINGERPRINT)
    assert store.put(C)
    assert [store.catalogue.tier_of(segment.key) for segment in (A, B, C)] == ["device", "host", "device"]
    store.demote("disk")
    for segment in (A, B, C):
        assert store.load(segment.key, FINGERPRINT).segment.n_tokens == 2
        store.preload(segment.key, FINGERPRINT)
    assert store.catalogue.stats().failed_ranks > 1
    assert sum("could not be ranked" in record.message for record in caplog.records) == 1
    store.close()
