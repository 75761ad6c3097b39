from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache import (
    KVCacheError,
    Segment,
    SegmentMissing,
    StoreClosed,
    TieredStore,
    list_folder,
    root_key,
    verify_folder,
    write_segment,
)
from kvcache.files.folder import SegmentFolder
from tests.kvcache.conftest import FINGERPRINT, ROOT, held, make_segment


def file_bytes(folder: Path, segment: Segment) -> int:
    """How large its file is."""
    write_segment(folder / "file", segment)
    return (folder / "file").stat().st_size


def reopen(folder: Path, **settings: int) -> TieredStore:
    return TieredStore(folder, **settings)  # type: ignore[arg-type]


def test_longest_prefix_wins(store: TieredStore) -> None:
    a = make_segment([1, 2])
    ab = make_segment([3, 4, 5], after=a)
    abc = make_segment([6], after=ab)
    longer = make_segment([1, 2, 3], after=None)
    for segment in (a, ab, abc, longer):
        store.put(segment)
    matched = store.catalogue.match(ROOT, [1, 2, 3, 4, 5, 6, 7])
    assert [entry.key for entry in matched] == [longer.key]
    store_keys = [entry.key for entry in store.catalogue.match(ROOT, [1, 2, 9])]
    assert store_keys == [a.key]
    assert store.catalogue.match(ROOT, [9]) == []
    assert store.catalogue.match(root_key(FINGERPRINT, "tenant"), [1, 2, 3]) == []


@settings(deadline=None, max_examples=50)
@given(cuts=st.sets(st.integers(1, 29), max_size=6), length=st.integers(0, 30))
def test_match_never_exceeds_the_tokens_and_is_a_chain(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int], length: int
) -> None:
    tokens = list(range(100, 130))
    bounds = [0, *sorted(cuts), 30]
    store = TieredStore(tmp_path_factory.mktemp("store"), fsync=False)
    last = None
    for begin, end in pairwise(bounds):
        last = make_segment(tokens[begin:end], after=last)
        store.put(last)
    matched = store.catalogue.match(ROOT, tokens[:length])
    assert sum(entry.n_tokens for entry in matched) == max(bound for bound in bounds if bound <= length)
    store.close()


def test_survives_a_restart(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    a = make_segment([1, 2], labels=["m@1"])
    b = make_segment([3], after=a)
    assert first.put(a)
    assert first.put(b)
    first.load(b.key, FINGERPRINT)
    first.close()
    second = reopen(tmp_path)
    assert [entry.key for entry in second.catalogue.match(ROOT, [1, 2, 3, 4])] == [a.key, b.key]
    loaded = second.load(a.key, FINGERPRINT)
    assert loaded.tier == "disk"
    assert torch.equal(loaded.segment.keys, a.keys)
    assert second.load(a.key, FINGERPRINT).tier == "device"
    assert next(e for e in second.catalogue.entries() if e.key == b.key).uses == 1
    second.close()


def test_tiers_and_budgets(tmp_path: Path) -> None:
    one = make_segment([1] * 8)
    store = reopen(tmp_path, device_bytes=2 * one.nbytes, host_bytes=one.nbytes, disk_bytes=1 << 20)
    segments = [make_segment([i] * 8) for i in range(4)]
    for segment in segments:
        store.put(segment)
    store.flush()
    assert [store.catalogue.tier_of(segment.key) for segment in segments] == ["disk", "host", "device", "device"]
    stats = store.catalogue.stats()
    files = [path.stat().st_size for path in SegmentFolder(tmp_path).files()]
    assert len(files) == 4
    assert stats.bytes == {"device": 2 * one.nbytes, "host": one.nbytes, "disk": sum(files)}
    assert stats.evictions == {"device": 2, "host": 1, "disk": 0}
    assert store.load(segments[1].key, FINGERPRINT).tier == "host"
    assert store.catalogue.tier_of(segments[1].key) == "device"
    store.close()


def test_without_memory_budgets_the_disk_still_serves(tmp_path: Path) -> None:
    store = reopen(tmp_path, device_bytes=0, host_bytes=0)
    segment = make_segment()
    store.put(segment)
    store.flush()
    loaded = store.load(segment.key, FINGERPRINT)
    assert loaded.tier == "disk"
    assert torch.equal(loaded.segment.values, segment.values)
    store.close()


def test_the_disk_budget_drops_chain_ends_first(tmp_path: Path) -> None:
    a = make_segment([1] * 4)
    b = make_segment([2] * 4, after=a)
    c = make_segment([3] * 4, after=b)
    store = reopen(tmp_path, disk_bytes=2 * file_bytes(tmp_path / "one", a))
    for segment in (a, b, c):
        store.put(segment)
    store.flush()
    assert [store.catalogue.tier_of(segment.key) for segment in (a, b, c)] == ["device"] * 3
    store.demote("disk")
    assert [entry.key for entry in store.catalogue.entries()] == [
        a.key,
        b.key,
    ]  # the third would cost what is worth more
    assert store.catalogue.stats().dropped_writes == 1
    assert len(list(SegmentFolder(tmp_path).files())) == 2
    for entry in store.catalogue.entries():
        entry.last_used_at -= 3600.0
    store.put(make_segment([4] * 4))
    store.flush()
    assert store.catalogue.tier_of(b.key) is None  # the end of its chain, and not used for an hour
    assert store.catalogue.stats().evictions["disk"] == 1
    assert len(list(SegmentFolder(tmp_path).files())) == 2
    store.close()


def test_pinned_segments_stay_in_memory(tmp_path: Path) -> None:
    one = make_segment([1] * 8)
    store = reopen(tmp_path, device_bytes=one.nbytes, host_bytes=0)
    store.put(one)
    with held(store, [one.key]):
        store.put(make_segment([2] * 8))
        assert store.catalogue.tier_of(one.key) == "device"
    store.put(make_segment([3] * 8))
    store.flush()
    assert store.catalogue.tier_of(one.key) == "disk"
    store.close()


def test_removing_a_label_takes_all_that_saw_its_text(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    header = make_segment([1])
    dog = make_segment([2], after=header, labels=["dog@1"])
    city = make_segment([3], after=dog, labels=["city@1"])
    alone = make_segment([3], after=header, labels=["city@1"])
    for segment in (header, dog, city, alone):
        store.put(segment)
    store.flush()
    assert len(store.catalogue.remove_label("dog@1")) == 2
    assert {entry.key for entry in store.catalogue.entries()} == {header.key, alone.key}
    assert len(list(SegmentFolder(tmp_path).files())) == 2
    for gone in (dog, city):
        assert store.catalogue.tier_of(gone.key) is None
        with pytest.raises(SegmentMissing):
            store.load(gone.key, FINGERPRINT)
    # Work that was under way when the memory was deleted must not bring it back.
    assert not store.put(dog)
    assert not store.put(city)
    store.close()
    again = reopen(tmp_path)
    assert {entry.key for entry in again.catalogue.entries()} == {header.key, alone.key}
    again.close()


def test_sweep_removes_what_no_memory_stands_for(store: TieredStore) -> None:
    header = make_segment([1])
    store.put(header)
    store.put(make_segment([2], after=header, labels=["a@1"]))
    store.put(make_segment([3], after=header, labels=["b@2"]))
    assert store.catalogue.sweep({"b@2"}) == 1
    assert {label for entry in store.catalogue.entries() for label in entry.labels} == {"b@2"}


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "garbage", "vanish", "swap"])
def test_a_bad_file_is_quarantined_and_counted(tmp_path: Path, damage: str) -> None:
    store = reopen(tmp_path)
    segment, other = make_segment([1, 2, 3]), make_segment([4, 5, 6])
    store.put(segment)
    store.put(other)
    store.demote("disk")
    path = SegmentFolder(tmp_path).path_of(segment.key)
    raw = path.read_bytes()
    if damage == "vanish":
        path.unlink()
    elif damage == "swap":
        path.write_bytes(SegmentFolder(tmp_path).path_of(other.key).read_bytes())
    else:
        flipped = raw[:-3] + bytes([raw[-3] ^ 4]) + raw[-2:]
        path.write_bytes({"truncate": raw[:-7], "flip": flipped, "empty": b"", "garbage": b"\xff" * 64}[damage])
    with pytest.raises(SegmentMissing):
        store.load(segment.key, FINGERPRINT)
    assert store.catalogue.match(ROOT, [1, 2, 3]) == []
    assert store.catalogue.stats().quarantined == (0 if damage == "vanish" else 1)
    assert store.load(other.key, FINGERPRINT).tier == "disk"
    assert store.put(segment)
    store.demote("disk")
    assert torch.equal(store.load(segment.key, FINGERPRINT).segment.keys, segment.keys)
    store.close()


def test_a_segment_of_another_model_is_never_loaded(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    segment = make_segment()
    store.put(segment)
    with pytest.raises(Exception, match="another model"):
        store.load(segment.key, replace(FINGERPRINT, tokenizer="other"))
    store.close()


def test_a_damaged_index_is_rebuilt_from_the_files(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    a = make_segment([1, 2], labels=["m@1"])
    store.put(a)
    store.put(make_segment([3], after=a))
    store.close()
    for name in ("index.sqlite-wal", "index.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 100)
    again = reopen(tmp_path)
    assert len(again.catalogue.match(ROOT, [1, 2, 3])) == 2
    assert len(again.catalogue.remove_label("m@1")) == 2
    again.close()


def test_a_file_without_a_row_is_removed_and_a_row_without_a_file_forgotten(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    a, b = make_segment([1]), make_segment([2])
    store.put(a)
    store.put(b)
    store.close()
    SegmentFolder(tmp_path).path_of(a.key).unlink()
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("DELETE FROM segments WHERE key = ?", (b.key,))
    db.close()
    again = reopen(tmp_path)
    assert again.catalogue.entries() == []
    assert list(SegmentFolder(tmp_path).files()) == []
    again.close()


def test_a_full_disk_keeps_the_segment_in_memory(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    segment = make_segment()
    blocker = tmp_path / segment.key[:2]
    blocker.write_text("where the folder would be")
    store.put(segment)
    store.flush()
    assert store.catalogue.stats().write_errors == 1
    assert store.load(segment.key, FINGERPRINT).tier == "device"
    store.close()


def test_verify_and_list(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    a, b = make_segment([1, 2], labels=["m@1"]), make_segment([3, 4])
    store.put(a)
    store.put(b)
    store.close()
    assert [entry.labels for entry in list_folder(tmp_path)] == [frozenset({"m@1"}), frozenset()]
    assert verify_folder(tmp_path).bad == []
    path = SegmentFolder(tmp_path).path_of(b.key)
    path.write_bytes(path.read_bytes()[:-1])
    report = verify_folder(tmp_path)
    assert report.checked == 2
    assert [bad.path for bad in report.bad] == [path]


def test_listing_changes_nothing_under_a_running_store(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    segment = make_segment()
    store.put(segment)
    store.flush()
    being_written = SegmentFolder(tmp_path).path_of("ab" * 32)
    being_written.parent.mkdir(exist_ok=True)
    being_written.write_bytes(b"renamed, its row not yet there")
    assert [entry.key for entry in list_folder(tmp_path)] == [segment.key]
    assert being_written.exists()
    store.close()
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(KVCacheError, match="cannot be read"):
        list_folder(tmp_path)


def test_a_closed_store_refuses(tmp_path: Path) -> None:
    store = reopen(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreClosed):
        store.put(make_segment())


def test_many_threads(tmp_path: Path) -> None:
    one = make_segment([1] * 8)
    store = reopen(tmp_path, device_bytes=5 * one.nbytes, host_bytes=5 * one.nbytes, disk_bytes=1 << 24)
    segments = [make_segment([i] * 8, labels=[f"m{i}@1"]) for i in range(40)]

    def work(offset: int) -> None:
        for i in range(120):
            segment = segments[(i * 7 + offset) % len(segments)]
            store.put(segment)
            try:
                assert torch.equal(store.load(segment.key, FINGERPRINT).segment.keys, segment.keys)
            except SegmentMissing:
                assert segment is segments[0]  # the one that another thread deletes

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(work, i * 5) for i in range(6)]
        store.catalogue.remove_label("m0@1")
        for future in running:
            future.result()
    store.flush()
    stats = store.catalogue.stats()
    assert stats.segments["disk"] == 39
    assert stats.bytes["device"] <= 5 * one.nbytes
    store.close()
    assert verify_folder(tmp_path).bad == []
