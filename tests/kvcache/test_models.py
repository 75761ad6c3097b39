"""Segments of several models in one folder: each finds its own, one budget holds for all, forgetting reaches all."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kvcache.files.writer
from kvcache import (
    Exchange,
    Fingerprint,
    FingerprintMismatch,
    Layout,
    ModelView,
    Segment,
    SegmentMissing,
    TieredStore,
    root_key,
    verify_folder,
)
from kvcache.files.disk import Disk
from kvcache.files.folder import SegmentFolder
from kvcache.files.quarantine import list_quarantine
from tests.kvcache.conftest import FINGERPRINT, ROOT, make_segment
from tests.kvcache.test_codecs import make_page

A = FINGERPRINT
B = replace(FINGERPRINT, layout=Layout(2, 2, 4, "bfloat16"))
ROOTS = {A.digest: ROOT, B.digest: root_key(B)}


def of(model: Fingerprint, tokens: list[int], after: Segment | None = None, labels: tuple[str, ...] = ()) -> Segment:
    return make_segment(tokens, after=after, labels=labels, fingerprint=model, root=ROOTS[model.digest])


def bytes_below(folder: Path) -> int:
    """What all files take, but for the index."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.name.startswith("index.sqlite") or path.is_dir() else path.stat().st_size
        except FileNotFoundError:  # removed meanwhile
            continue
    return total


@contextmanager
def opened(folder: Path, **wanted: int) -> Iterator[TieredStore]:
    store = TieredStore(folder, **wanted)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        store.close()


def damage(folder: Path, segment: Segment) -> None:
    path = SegmentFolder(folder).path_of(segment.key)
    raw = path.read_bytes()
    path.write_bytes(raw[:-3] + bytes([raw[-3] ^ 4]) + raw[-2:])


def test_what_another_model_has_is_there_when_it_is_back(tmp_path: Path) -> None:
    chains = {}
    for model in (A, B):
        head = of(model, [1, 2])
        chains[model.digest] = [head, of(model, [3, 4], head, ("m@1",))]
    for model, other in ((A, B), (B, A), (A, B)):
        with opened(tmp_path) as store:
            found = store.catalogue.match(ROOTS[model.digest], [1, 2, 3, 4])
            again = model is A and len(store.catalogue.entries()) == 4
            assert len(found) == (2 if again else 0)
            for segment in chains[model.digest]:
                store.put(segment)
            store.flush()
            for entry in store.catalogue.match(ROOTS[model.digest], [1, 2, 3, 4]):
                assert store.load(entry.key, model)
            for segment in chains[other.digest]:
                assert store.catalogue.tier_of(segment.key, model) is None
                assert store.preload(segment.key, model) == 0
                if store.catalogue.tier_of(segment.key) is not None:
                    with pytest.raises(FingerprintMismatch):
                        store.load(segment.key, model)
                    with pytest.raises(SegmentMissing):
                        Exchange(store.catalogue).read_file(segment.key, model)
            held = ModelView(store.catalogue, model).holding(["m@1"], "no root")
            assert [entry.key for entry in held] == [chains[model.digest][1].key]
            assert store.catalogue.stats().quarantined == 0
            assert not (tmp_path / "quarantine").exists()
    with opened(tmp_path) as store:
        assert [share.segments for share in store.catalogue.stats().models] == [2, 2]
        assert torch.equal(store.load(chains[A.digest][1].key, A).segment.keys, chains[A.digest][1].keys)


def test_a_full_folder_gives_up_the_model_that_was_not_used_for_longer(tmp_path: Path) -> None:
    old = [of(A, [i] * 8) for i in range(4)]
    one = 4096 + 8 * 4 + old[0].nbytes
    with opened(tmp_path, disk_bytes=4 * one) as store:
        for segment in old:
            store.put(segment)
        store.flush()
        for segment in old:  # used often: that counts among its own only
            for _ in range(50):
                store.load(segment.key, A)
    with opened(tmp_path, disk_bytes=4 * one) as store:
        for i in range(3):
            new = of(B, [i] * 8)
            store.put(new)
            store.flush()
            assert store.catalogue.tier_of(new.key) is not None
            assert bytes_below(tmp_path) <= 4 * one
        left = {share.fingerprint: share.segments for share in store.catalogue.stats().models}
        assert left[B.digest] == 3
        assert left[A.digest] >= 1
    with opened(tmp_path, disk_bytes=one) as store:  # less than there is: what was used last stays
        assert [entry.fingerprint for entry in store.catalogue.entries()] == [B.digest]
        assert bytes_below(tmp_path) <= one


def test_forgetting_under_one_model_takes_all_models_and_what_is_in_quarantine(tmp_path: Path) -> None:
    made = {}
    with opened(tmp_path) as store:
        for model in (A, B):
            head = of(model, [1])
            dog = of(model, [2], head, ("dog@1",))
            behind = of(model, [3], dog, ("city@1",))
            cat = of(model, [4], head, ("cat@1",))
            made[model.digest] = (head, dog, behind, cat)
            for segment in made[model.digest]:
                store.put(segment)
        store.demote("disk")
        damage(tmp_path, made[A.digest][2])
        with pytest.raises(SegmentMissing):
            store.load(made[A.digest][2].key, A)
        assert [(r.labels, r.chained) for r in list_quarantine(tmp_path)] == [(("city@1", "dog@1"), True)]
    with opened(tmp_path) as store:  # B is served now
        assert store.catalogue.stats().in_quarantine == 1
        removed = store.catalogue.remove_label("dog@1")
        assert set(removed) == {made[A.digest][1].key, made[B.digest][1].key, made[B.digest][2].key}
        assert list_quarantine(tmp_path) == []
        assert not store.put(made[A.digest][1])
    with opened(tmp_path) as store:
        kept = {segment.key for segments in made.values() for segment in (segments[0], segments[3])}
        assert {entry.key for entry in store.catalogue.entries()} == kept
        assert {path.stem for path in SegmentFolder(tmp_path).files()} == kept


@pytest.mark.parametrize("restart", [False, True])
def test_a_sweep_and_a_tenants_chains_reach_all_models(tmp_path: Path, restart: bool) -> None:
    store = TieredStore(tmp_path)
    salted = {model.digest: root_key(model, "tenant") for model in (A, B)}
    for model in (A, B):
        store.put(of(model, [1, 2], labels=("gone@1",)))
        store.put(of(model, [3, 4], labels=("kept@1",)))
        turns = make_segment([5], fingerprint=model, root=salted[model.digest])
        store.put(turns)
        store.put(make_segment([6], after=turns, fingerprint=model))
    page = make_page()
    store.put(page)
    store.flush()
    if restart:
        store.close()
        store = TieredStore(tmp_path)
    assert store.catalogue.sweep({"kept@1", *page.labels}) == 2
    assert len(store.catalogue.remove_chains("tenant")) == 4
    left = {entry.key for entry in store.catalogue.entries()}
    assert left == {page.key, *(of(model, [3, 4]).key for model in (A, B))}
    store.close()


def test_what_lies_behind_a_lost_file_goes_with_its_memory(tmp_path: Path) -> None:
    """Also after a restart, and where the file in between was never written."""
    a = of(A, [1], labels=("a@1",))
    b = of(A, [2], a, ("b@1",))
    c = of(A, [3], b)
    with opened(tmp_path) as store:
        for segment in (a, b, c):
            store.put(segment)
        store.demote("disk")
        SegmentFolder(tmp_path).path_of(b.key).unlink()
        damage(tmp_path, a)
        for segment in (a, b):
            with pytest.raises(SegmentMissing):
                store.load(segment.key, A)
    with opened(tmp_path) as store:
        assert [entry.key for entry in store.catalogue.entries()] == [c.key]
        assert store.catalogue.entries()[0].labels == {"a@1", "b@1"}
        assert store.catalogue.remove_label("a@1") == [c.key]
    with opened(tmp_path) as store:
        assert store.catalogue.entries() == []
        assert list(SegmentFolder(tmp_path).files()) == []


def test_a_child_that_is_on_disk_before_its_parent_knows_of_it(tmp_path: Path) -> None:
    a, store = of(A, [1], labels=("a@1",)), TieredStore(tmp_path)
    b = of(A, [2], a)
    (tmp_path / a.key[:2]).write_text("where the folder would be")
    if a.key[:2] != b.key[:2]:
        store.put(a)
        store.put(b)
        store.flush()
        assert store.catalogue.stats().write_errors == 1
        store._index._mirror.close()  # as a kill leaves it
        (tmp_path / a.key[:2]).unlink()
        with opened(tmp_path) as again:
            assert again.catalogue.remove_label("a@1") == [b.key]


def test_quarantine_counts_goes_first_and_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = [of(A, [i] * 8) for i in range(20)]
    one = 4096 + 8 * 4 + segments[0].nbytes
    budget = 20 * one
    with opened(tmp_path, device_bytes=0, host_bytes=0, disk_bytes=budget) as store:
        for segment in segments:
            store.put(segment)
        store.flush()
        assert bytes_below(tmp_path) == budget
        for segment in segments[:5]:
            damage(tmp_path, segment)
            with pytest.raises(SegmentMissing):
                store.load(segment.key, A)
            assert bytes_below(tmp_path) <= budget
        stats = store.catalogue.stats()
        assert stats.quarantined == 5
        assert stats.in_quarantine == 2  # an eighth of the budget
        assert stats.quarantine_bytes <= budget // 8
        assert stats.bytes["disk"] + stats.quarantine_bytes == bytes_below(tmp_path)
        assert stats.evictions["disk"] == 0
        for i in range(5):
            store.put(of(A, [i, i]))
            store.flush()
            assert bytes_below(tmp_path) <= budget
        assert store.catalogue.stats().in_quarantine == 0
        assert verify_folder(tmp_path).bad == []
        damage(tmp_path, segments[10])
        with pytest.raises(SegmentMissing):
            store.load(segments[10].key, A)
        assert store.catalogue.stats().in_quarantine == 1
    with opened(tmp_path) as store:
        assert store.catalogue.stats().in_quarantine == 1
    late = time.time() + 8 * 86_400
    monkeypatch.setattr("kvcache.files.quarantine.time.time", lambda: late)
    with opened(tmp_path) as store:
        assert store.catalogue.stats().in_quarantine == 0
    assert list((tmp_path / "quarantine").iterdir()) == []


def test_quarantined_files_that_nobody_can_vouch_for_are_removed(tmp_path: Path) -> None:
    jail = tmp_path / "quarantine"
    jail.mkdir()
    key = "ab" * 32
    (jail / f"{key}.safetensors").write_bytes(b"of an earlier version")
    (jail / f"{'cd' * 32}.json").write_text(json.dumps({"key": "cd" * 32, "labels": [], "chained": True, "at": 0}))
    (jail / f"{'ef' * 32}.json").write_text("{")
    (jail / f"{'ef' * 32}.safetensors").write_bytes(b"x")
    with opened(tmp_path) as store:
        assert list(jail.iterdir()) == []
        store.catalogue.quarantine(key)  # nothing is known of it
        assert store.catalogue.stats().in_quarantine == 0


def test_a_quarantine_that_cannot_be_written_loses_the_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = of(A, [1, 2])
    with opened(tmp_path, device_bytes=0, host_bytes=0) as store:
        store.put(segment)
        store.flush()
        damage(tmp_path, segment)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(SegmentMissing):
            store.load(segment.key, A)
        assert bytes_below(tmp_path) == 0
        assert store.catalogue.stats().bytes["disk"] == store.catalogue.stats().in_quarantine == 0
        monkeypatch.undo()
        assert store.put(segment)


def test_a_rebuilt_index_keeps_each_models_and_drops_what_is_behind_a_gap(tmp_path: Path) -> None:
    a, b = of(A, [1], labels=("a@1",)), of(B, [1], labels=("a@1",))
    behind = of(A, [2], a)
    lone = of(A, [4], of(A, [3], labels=("x@1",)))
    with opened(tmp_path) as store:
        for segment in (a, b, behind):
            store.put(segment)
        store.put(of(A, [3], labels=("x@1",)))
        store.put(lone)
    SegmentFolder(tmp_path).path_of(lone.parent).unlink()
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 100)
    with opened(tmp_path) as store:
        assert {entry.key for entry in store.catalogue.entries()} == {a.key, b.key, behind.key}
        assert set(store.catalogue.remove_label("a@1")) == {a.key, b.key, behind.key}


def test_two_models_with_one_text_are_two_segments(tmp_path: Path) -> None:
    other = replace(A, weights="tuned")
    with opened(tmp_path) as store:
        for model in (A, other):
            store.put(make_segment([1, 2], fingerprint=model, root=root_key(model)))
        assert len(store.catalogue.entries()) == 2
        assert [len(store.catalogue.match(root_key(model), [1, 2])) for model in (A, other)] == [1, 1]
        assert len(store.catalogue.match(root_key(replace(A, config="longer")), [1, 2])) == 0


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """How much the folder holds each time that a file was written, before anything else is done."""
    held: list[int] = []
    save = kvcache.files.writer._save

    def watching(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        save(path, tensors, metadata)
        held.append(bytes_below(folder))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kvcache.files.writer._save", watching)
        yield held


@pytest.mark.parametrize("seed", range(4))
def test_the_budget_holds_at_every_moment(tmp_path: Path, seed: int) -> None:
    """Whatever is put, used, damaged, forgotten, of whichever model, and across restarts."""
    folder, rng = tmp_path, random.Random(seed)
    budget = rng.randrange(20_000, 90_000)
    limits = {"disk_bytes": budget, "device_bytes": 1000, "host_bytes": 1000, "fsync": False}
    alive: list[Segment] = []
    for _ in range(3):
        model = rng.choice([A, B])
        with watched(folder) as held, opened(folder, **limits) as store:
            for step in range(25):
                tokens = [rng.randrange(50) for _ in range(rng.randrange(1, 40))]
                parents = [
                    s for s in alive if s.fingerprint == model.digest and store.catalogue.tier_of(s.key) is not None
                ]
                after = rng.choice([None, *parents])
                segment = of(model, tokens, after, (f"m{rng.randrange(8)}@1",))
                if store.put(segment, durable=rng.random() < 0.7):
                    alive.append(segment)
                if step % 4 == 3:
                    store.flush()
                    on_disk = [e for e in store.catalogue.entries() if store.catalogue.tier_of(e.key, model) == "disk"]
                    for entry in rng.sample(on_disk, min(2, len(on_disk))):
                        damage(folder, next(s for s in alive if s.key == entry.key))
                        with pytest.raises(SegmentMissing):
                            store.load(entry.key, model)
                if step % 7 == 6:
                    label = f"m{rng.randrange(8)}@1"
                    store.catalogue.remove_label(label)
                    assert label not in {each for refused in list_quarantine(folder) for each in refused.labels}
                    assert label not in {each for entry in store.catalogue.entries() for each in entry.labels}
            store.flush()
            told = store.catalogue.stats()
            assert told.bytes["disk"] + told.quarantine_bytes == bytes_below(folder) <= budget
            assert held
            assert max(held) <= budget, "while files are written, too"


def test_a_promise_is_kept_until_it_is_settled(tmp_path: Path) -> None:
    with opened(tmp_path, disk_bytes=100_000) as store:
        disk: Disk = store.catalogue.disk
        assert store.catalogue.expect("ab" * 32, 50_000)
        assert disk.used > 50_000
        assert not store.catalogue.expect("cd" * 32, 50_000)
        assert store.catalogue.expect("ab" * 32, 10_000)  # of the same, not another
        disk.settle("ab" * 32)
        assert disk.used == 0
        assert not store.catalogue.expect("ab" * 32, 200_000)


def test_old_rows_count_what_their_files_take(tmp_path: Path) -> None:
    """Earlier versions counted keys and values only."""
    segment = of(A, [1, 2, 3])
    with opened(tmp_path) as store:
        store.put(segment)
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("UPDATE segments SET disk_bytes = ?", (segment.nbytes,))
    db.close()
    with opened(tmp_path) as store:
        assert store.catalogue.stats().bytes["disk"] == os.stat(SegmentFolder(tmp_path).path_of(segment.key)).st_size
