"""Pages that go from one store to another as files."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kvcache import (
    CODECS,
    Certificate,
    CodecName,
    Exchange,
    FingerprintMismatch,
    Segment,
    SegmentCorrupt,
    SegmentFile,
    SegmentMissing,
    TieredStore,
    verify_folder,
)
from kvcache.files.folder import SegmentFolder
from kvcache.files.format import read_header
from kvcache.files.writer import write_segment
from kvcache.shard import Shard
from tests.kvcache.conftest import FINGERPRINT, make_segment
from tests.kvcache.test_codecs import make_page

LABELS = {"a@1": "x@1", "b@1": "y@1", "c@1": "z@2"}
CERTIFICATE = Certificate({"high": 0.02, "fast": 0.03}, {"high": 0.8, "fast": 0.7})


def sent(folder: Path, page: Segment, codec: CodecName = "none") -> SegmentFile:
    store = TieredStore(folder / "from", codec=codec)
    store.put(page)
    store.flush()
    file = Exchange(store.catalogue).read_file(page.key, FINGERPRINT)
    store.close()
    return file


def take(store: TieredStore, file: SegmentFile, key: str, **changes: object) -> bool:
    content = [bytes(part) for part in file.content]
    given = {"digest": file.digest, "fingerprint": FINGERPRINT, "labels": LABELS, "certificate": CERTIFICATE}
    return Exchange(store.catalogue).take_in(key, content, **{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
def test_a_page_is_the_same_under_other_labels(codec: CodecName, tmp_path: Path) -> None:
    """To the bit, also where a codec has lost some: what is encoded is not encoded again."""
    page = make_page()
    file = sent(tmp_path, page, codec)
    store = TieredStore(tmp_path / "to")
    assert take(store, file, page.key)
    assert store.catalogue.tier_of(page.key) == "disk"
    got = store.load(page.key, FINGERPRINT)
    old = TieredStore(tmp_path / "from")
    wanted = old.load(page.key, FINGERPRINT).segment
    assert torch.equal(got.segment.keys, wanted.keys)
    assert torch.equal(got.segment.values, wanted.values)
    assert got.segment.labels == {"x@1", "y@1", "z@2"}
    assert [(part.key, part.label) for part in got.segment.parts] == [
        (part.key, LABELS[part.label or ""]) for part in wanted.parts
    ]
    assert got.segment.certificate == CERTIFICATE
    assert store.catalogue.stats().bytes["disk"] == old.catalogue.stats().bytes["disk"]
    assert verify_folder(tmp_path / "to").bad == []
    assert store.catalogue.remove_label("a@1") == []
    assert store.catalogue.remove_label("z@2") == [page.key]
    assert not take(store, file, page.key), "nothing in flight brings it back"
    assert list((tmp_path / "to").glob("??/*")) == []
    store.close()
    old.close()


def test_a_page_that_is_known_gets_the_labels_as_well(tmp_path: Path) -> None:
    page = make_page()
    file = sent(tmp_path, page)
    for durable in (True, False):  # on disk, and held back in memory
        store = TieredStore(tmp_path / f"to-{durable}")
        store.put(page, durable=durable)
        if durable:
            store.flush()
        assert take(store, file, page.key)
        (entry,) = store.catalogue.entries()
        assert entry.labels == {*LABELS, *LABELS.values()}
        assert entry.certificate == page.certificate
        assert entry.on_disk == durable
        store.close()
        store = TieredStore(tmp_path / f"to-{durable}")
        assert store.catalogue.remove_label("x@1") == [page.key]
        store.close()


def test_what_is_not_as_it_was_said_is_refused(tmp_path: Path) -> None:
    page = make_page()
    file = sent(tmp_path, page)
    store = TieredStore(tmp_path / "to")
    longer = replace(file, content=(*file.content, b"x"))
    for wrong, key, changes in (
        (longer, page.key, {}),
        (file, page.key, {"digest": "0" * 64}),
        (file, "ab" * 32, {}),
        (file, page.key, {"labels": {"a@1": "x@1", "b@1": "y@1"}}),
    ):
        with pytest.raises(SegmentCorrupt):
            take(store, wrong, key, **changes)
    with pytest.raises(FingerprintMismatch):
        take(store, file, page.key, fingerprint=replace(FINGERPRINT, weights="other"))
    chained = make_segment(labels=["a@1"])
    with pytest.raises(SegmentCorrupt):
        take(store, sent(tmp_path, chained), chained.key)
    assert store.catalogue.entries() == []
    assert list((tmp_path / "to").glob("??/*")) == []
    store.close()


def test_what_cannot_be_sent_is_missing(tmp_path: Path) -> None:
    page = make_page()
    store = TieredStore(tmp_path, device_bytes=0, host_bytes=0)
    with pytest.raises(SegmentMissing):
        Exchange(store.catalogue).read_file(page.key, FINGERPRINT)
    store.put(page)
    store.flush()
    path = SegmentFolder(tmp_path).path_of(page.key)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SegmentMissing):
        Exchange(store.catalogue).read_file(page.key, FINGERPRINT)
    assert store.catalogue.stats().quarantined == 1
    store.close()


def test_a_page_in_shards_is_not_sent_and_not_lost(tmp_path: Path) -> None:
    page = make_page()
    for shard in (Shard.of_rank(2, 2, rank, 2) for rank in range(2)):
        write_segment(SegmentFolder(tmp_path).path_of(page.key, shard), page.cut(shard))
    store = TieredStore(tmp_path)
    with pytest.raises(SegmentMissing):
        Exchange(store.catalogue).read_file(page.key, FINGERPRINT)
    assert store.catalogue.tier_of(page.key) == "disk"
    store.close()


def test_pages_that_come_in_keep_to_the_budget(tmp_path: Path) -> None:
    files = {page.key: sent(tmp_path / str(n), page) for n in range(50, 60) for page in [make_page(n)]}
    one = max(file.nbytes for file in files.values())
    store = TieredStore(tmp_path / "to", disk_bytes=3 * one)
    for key, file in files.items():
        assert take(store, file, key)
        assert store.catalogue.stats().bytes["disk"] <= 3 * one
    assert store.catalogue.stats().evictions["disk"] > 0
    assert verify_folder(tmp_path / "to").bad == []
    store.close()


def test_what_a_crash_leaves_of_a_file_that_comes_in_is_removed(tmp_path: Path) -> None:
    path = SegmentFolder(tmp_path).path_of("ab" * 32)
    path.parent.mkdir(parents=True)
    left = path.with_name(f".{path.name}.12-34.tmp")
    left.write_bytes(b"half")
    TieredStore(tmp_path).close()
    assert not left.exists()


def test_a_page_that_comes_twice_at_once_has_the_labels_of_its_file(tmp_path: Path) -> None:
    page = make_page()
    file = sent(tmp_path, page)
    for n in range(20):
        store = TieredStore(tmp_path / f"to-{n}", fsync=False)
        bundles = [{old: f"{new}-{side}" for old, new in LABELS.items()} for side in "lr"]
        together = threading.Barrier(2)

        def one(labels: dict[str, str], store: TieredStore = store, together: threading.Barrier = together) -> bool:
            together.wait()
            return take(store, file, page.key, labels=labels)

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(one, bundles)) == [True, True]
        (entry,) = store.catalogue.entries()
        assert entry.labels == {label for labels in bundles for label in labels.values()}
        path = SegmentFolder(tmp_path / f"to-{n}").path_of(page.key)
        assert read_header(path).labels in [frozenset(labels.values()) for labels in bundles]
        assert store.catalogue.stats().bytes["disk"] == entry.disk_bytes
        assert verify_folder(tmp_path / f"to-{n}").bad == []
        store.close()
