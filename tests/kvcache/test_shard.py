from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import Fingerprint, Layout, Segment, SegmentCorrupt, SegmentMissing, TieredStore, root_key, write_segment
from kvcache.entry import Entry
from kvcache.files.folder import SegmentFolder
from kvcache.segment import joined
from kvcache.shard import Shard, complete

LAYOUT = Layout(layers=4, kv_heads=6, head_dim=4, dtype="float32")
FINGERPRINT = Fingerprint("weights", "config", "tokenizer", "template", "full-causal", LAYOUT)
WHOLE = Shard.whole(4, 6)


def segment_of(n_tokens: int = 3) -> Segment:
    generator = torch.Generator().manual_seed(n_tokens)
    keys, values = (torch.randn(LAYOUT.shape(n_tokens), generator=generator) for _ in range(2))
    return Segment.chained(root_key(FINGERPRINT), FINGERPRINT, 0, range(n_tokens), keys, values, frozenset({"m@1"}))


def save(folder: Path, segment: Segment, shards: list[Shard]) -> int:
    return sum(
        write_segment(SegmentFolder(folder).path_of(segment.key, None if shard.is_whole else shard), segment.cut(shard))
        for shard in shards
    )


@st.composite
def cuts(draw: st.DrawFn) -> list[Shard]:
    """The model cut into ranges of layers, each of these into ranges of heads."""
    shards = []
    layers = [0, *sorted(draw(st.sets(st.integers(1, 3)))), 4]
    for a, b in itertools.pairwise(layers):
        heads = [0, *sorted(draw(st.sets(st.integers(1, 5)))), 6]
        shards += [Shard((a, b), (c, d), (4, 6)) for c, d in itertools.pairwise(heads)]
    return shards


@pytest.mark.slow
@given(written=cuts(), wanted=cuts())
def test_any_cut_is_read_from_files_of_any_other(
    tmp_path_factory: pytest.TempPathFactory, written: list[Shard], wanted: list[Shard]
) -> None:
    folder, segment = tmp_path_factory.mktemp("shards"), segment_of()
    assert complete(written)
    save(folder, segment, written)
    assert len(SegmentFolder(folder).paths(segment.key)) == len(written)
    for shard in wanted:
        read = SegmentFolder(folder).read(segment.key, FINGERPRINT, shard)
        assert torch.equal(read.keys, segment.cut(shard).keys)
        assert torch.equal(read.values, segment.cut(shard).values)
        assert (read.held, read.key, read.labels) == (shard, segment.key, segment.labels)


@given(shards=cuts())
def test_names_and_joins_lead_back(shards: list[Shard]) -> None:
    assert [Shard.parse(shard.name) for shard in shards] == shards
    segment = segment_of()
    whole = joined([segment.cut(shard) for shard in reversed(shards)], WHOLE)
    assert torch.equal(whole.keys, segment.keys)
    assert whole.shard is None
    if len(shards) > 1:
        assert not complete(shards[1:])
        with pytest.raises(ValueError, match="hold"):
            joined([segment.cut(shard) for shard in shards[1:]], WHOLE)


@pytest.mark.parametrize(("heads", "world"), [(8, 1), (8, 2), (8, 8), (2, 4), (1, 8), (6, 3)])
def test_ranks_hold_all_heads(heads: int, world: int) -> None:
    shards = [Shard.of_rank(3, heads, rank, world) for rank in range(world)]
    assert {head for shard in shards for head in range(*shard.heads)} == set(range(heads))
    if world <= heads:
        assert complete(shards)
    with pytest.raises(ValueError, match="no range"):
        Shard((0, 3), (2, 2), (3, heads))


def entry_of(segment: Segment, disk_bytes: int) -> Entry:
    return replace(Entry.of(segment), disk_bytes=disk_bytes)


def test_a_store_takes_in_what_others_have_written(tmp_path: Path) -> None:
    segment = segment_of()
    store = TieredStore(tmp_path)
    halves = [Shard.of_rank(4, 6, rank, 2) for rank in range(2)]
    disk_bytes = save(tmp_path, segment, halves)
    assert store.catalogue.record(entry_of(segment, disk_bytes))
    assert store.catalogue.tier_of(segment.key) == "disk"
    assert torch.equal(store.load(segment.key, FINGERPRINT).segment.keys, segment.keys)
    assert disk_bytes == segment.nbytes
    assert store.catalogue.stats().bytes["disk"] == sum(path.stat().st_size for path in SegmentFolder(tmp_path).files())
    store.close()
    (tmp_path / "index.sqlite").unlink()
    again = TieredStore(tmp_path)  # rebuilt from the files
    assert [entry.nbytes for entry in again.catalogue.entries()] == [segment.nbytes]
    assert again.catalogue.remove_label("m@1") == [segment.key]
    assert list(SegmentFolder(tmp_path).files()) == []
    assert not again.catalogue.record(entry_of(segment, save(tmp_path, segment, halves)))  # forgotten stays forgotten
    assert list(SegmentFolder(tmp_path).files()) == []
    again.close()


def test_half_a_segment_is_none(tmp_path: Path) -> None:
    segment = segment_of()
    halves = [Shard.of_rank(4, 6, rank, 2) for rank in range(2)]
    store = TieredStore(tmp_path)
    store.catalogue.record(entry_of(segment, save(tmp_path, segment, halves)))
    SegmentFolder(tmp_path).path_of(segment.key, halves[1]).unlink()
    with pytest.raises(FileNotFoundError):
        SegmentFolder(tmp_path).read(segment.key, FINGERPRINT, WHOLE)
    with pytest.raises(SegmentMissing):
        store.load(segment.key, FINGERPRINT)
    store.close()
    assert TieredStore(tmp_path).catalogue.entries() == []
    assert list(SegmentFolder(tmp_path).files()) == []  # a start clears the rest away


def test_a_file_of_another_shard_is_refused(tmp_path: Path) -> None:
    segment = segment_of()
    first, second = (Shard.of_rank(4, 6, rank, 2) for rank in range(2))
    write_segment(SegmentFolder(tmp_path).path_of(segment.key, first), segment.cut(second))
    with pytest.raises(SegmentCorrupt, match="another segment"):
        SegmentFolder(tmp_path).read(segment.key, FINGERPRINT, first)
