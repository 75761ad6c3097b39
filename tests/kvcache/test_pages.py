"""Standalone segments in the store: found by part, gone with any memory that their numbers depend on."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvcache import SegmentMissing, TieredStore, chain_key, standalone_root, verify_folder
from tests.kvcache.conftest import ROOT, make_segment
from tests.kvcache.test_codecs import make_page

FIRST = chain_key(standalone_root(ROOT), range(30))
SECOND = chain_key(standalone_root(ROOT), range(30, 70))


def test_a_page_is_found_by_each_of_its_parts_after_a_restart_too(tmp_path: Path) -> None:
    page = make_page()
    store = TieredStore(tmp_path)
    assert store.put(page)
    for _ in range(2):
        ((entry, part),) = store.catalogue.find_part(SECOND)
        assert (entry.key, part.begin, part.n_tokens, part.label) == (page.key, 30, 40, "b@1")
        assert entry.certificate == page.certificate
        assert store.catalogue.find_part(FIRST)
        store.close()
        store = TieredStore(tmp_path)
    (tmp_path / "index.sqlite").unlink()
    store.close()
    for stray in tmp_path.glob("index.sqlite*"):
        stray.unlink()
    rebuilt = TieredStore(tmp_path)
    ((entry, part),) = rebuilt.catalogue.find_part(SECOND)
    assert (part.begin, part.label, entry.certificate) == (30, "b@1", page.certificate)
    rebuilt.close()


def test_the_same_text_may_be_in_several_pages(store: TieredStore) -> None:
    store.put(make_page())
    store.put(make_page(lead=(1,)))
    assert len(store.catalogue.find_part(FIRST)) == 2


@pytest.mark.parametrize("label", ["a@1", "b@1", "c@1"])
def test_a_page_goes_with_any_memory_it_was_computed_from(label: str, store: TieredStore) -> None:
    page = make_page()
    store.put(page)
    store.flush()
    assert len(store.catalogue.remove_label(label)) == 1
    assert store.catalogue.find_part(FIRST) == []
    assert store.catalogue.find_part(SECOND) == []
    assert not store.put(page), "nothing in flight brings it back"


def test_a_page_needs_no_parent_and_is_no_prefix(store: TieredStore) -> None:
    store.put(make_page())
    assert store.catalogue.match(ROOT, range(70)) == []


def test_kept_segments_outlive_the_disk_budget(tmp_path: Path) -> None:
    one = make_segment(range(50))
    store = TieredStore(tmp_path, disk_bytes=2 * one.nbytes, device_bytes=0, host_bytes=0)
    store.put(one)
    store.flush()
    store.catalogue.protect(one.key)
    store.close()
    store = TieredStore(tmp_path, disk_bytes=2 * one.nbytes, device_bytes=0, host_bytes=0)
    for i in range(1, 6):
        store.put(make_segment(range(i * 100, i * 100 + 50)))
        store.flush()
    assert store.catalogue.tier_of(one.key) == "disk"
    store.catalogue.protect(one.key, on=False)
    for i in range(6, 9):
        store.put(make_segment(range(i * 100, i * 100 + 50)))
        store.flush()
    assert store.catalogue.tier_of(one.key) is None
    with pytest.raises(SegmentMissing):
        store.catalogue.protect(one.key)
    assert verify_folder(tmp_path).bad == []
    store.close()
