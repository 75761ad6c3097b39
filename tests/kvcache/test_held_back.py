"""Segments that are put without being written at once: a conversation's turns."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kvcache import Segment, SegmentMissing, TieredStore, verify_folder
from kvcache.files.folder import SegmentFolder
from tests.kvcache.conftest import FINGERPRINT, ROOT, make_segment


def chain_of(n: int, n_tokens: int = 8) -> list[Segment]:
    segments: list[Segment] = []
    for i in range(n):
        segments.append(make_segment([i] * n_tokens, after=segments[-1] if segments else None))
    return segments


def tokens_of(segments: Sequence[Segment]) -> list[int]:
    return [token for segment in segments for token in segment.token_ids]


def files(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in SegmentFolder(folder).files()}


def test_it_is_written_on_closing_and_comes_back(tmp_path: Path) -> None:
    segments = chain_of(3)
    store = TieredStore(tmp_path)
    for segment in segments:
        assert store.put(segment, durable=False)
    assert files(tmp_path) == set()
    assert [store.catalogue.tier_of(segment.key) for segment in segments] == ["device"] * 3
    store.close()
    store = TieredStore(tmp_path)
    assert [entry.key for entry in store.catalogue.match(ROOT, tokens_of(segments))] == [
        segment.key for segment in segments
    ]
    assert torch.equal(store.load(segments[2].key, FINGERPRINT).segment.keys, segments[2].keys)
    store.close()


def test_flush_writes_more_than_the_queue_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = chain_of(9)
    monkeypatch.setattr("kvcache.writing._MAX_QUEUED_BYTES", 2 * segments[0].nbytes)
    store = TieredStore(tmp_path, fsync=False)
    for segment in segments:
        store.put(segment, durable=False)
    store.flush()
    assert files(tmp_path) == {segment.key for segment in segments}
    assert store.catalogue.stats().dropped_writes == 0
    store.close()


def test_it_is_written_when_it_leaves_memory_its_chain_before_it(tmp_path: Path) -> None:
    segments = chain_of(3)
    store = TieredStore(tmp_path, device_bytes=2 * segments[0].nbytes, host_bytes=segments[0].nbytes)
    for segment in segments:
        store.put(segment, durable=False)
    assert files(tmp_path) == set()
    store.load(segments[0].key, FINGERPRINT)  # used last: a child of it leaves first
    store.put(make_segment([99] * 8), durable=False)
    store.put(make_segment([98] * 8), durable=False)
    store._writes.queue.join()
    written = files(tmp_path)
    assert segments[0].key in written
    assert segments[1].key in written
    assert store.catalogue.match(ROOT, tokens_of(segments[:2]))[1].key == segments[1].key
    assert torch.equal(store.load(segments[1].key, FINGERPRINT).segment.values, segments[1].values)
    store.close()


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_demoting_loses_nothing(tmp_path: Path, tier: str) -> None:
    segments = chain_of(2)
    store = TieredStore(tmp_path)
    for segment in segments:
        store.put(segment, durable=False)
    store.demote(tier)  # type: ignore[arg-type]
    assert [store.catalogue.tier_of(segment.key) for segment in segments] == [tier] * 2
    store.close()
    assert files(tmp_path) == {segment.key for segment in segments}


def test_without_room_in_memory_it_is_written_at_once(tmp_path: Path) -> None:
    store = TieredStore(tmp_path, device_bytes=0, host_bytes=0)
    segment = make_segment()
    assert store.put(segment, durable=False)
    store._writes.queue.join()
    assert store.load(segment.key, FINGERPRINT).tier == "disk"
    store.close()


def test_persisting_a_child_persists_the_chain_before_it(tmp_path: Path) -> None:
    segments = chain_of(3)
    store = TieredStore(tmp_path)
    for segment in segments:
        store.put(segment, durable=False)
    store.persist([segments[1].key, "0" * 64])
    store._writes.queue.join()
    assert files(tmp_path) == {segments[0].key, segments[1].key}
    store.put(segments[2])  # now to be written: its chain is
    store._writes.queue.join()
    assert files(tmp_path) == {segment.key for segment in segments}
    store.close()


def test_a_durable_child_takes_its_chain_with_it(tmp_path: Path) -> None:
    first, second = chain_of(2)
    store = TieredStore(tmp_path)
    store.put(first, durable=False)
    store.put(second)
    store._writes.queue.join()
    assert files(tmp_path) == {first.key, second.key}
    store.close()


def test_what_lies_behind_a_gap_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = chain_of(2)
    store = TieredStore(tmp_path, device_bytes=2 * first.nbytes, host_bytes=0)
    store.put(first, durable=False)
    store.put(second, durable=False)
    monkeypatch.setattr(store._writes.queue, "offer", lambda segment: False)  # a disk that is too slow
    store.put(make_segment([9] * 8), durable=False)
    assert store.catalogue.tier_of(first.key) is None
    assert store.catalogue.stats().dropped_writes == 1
    monkeypatch.undo()
    store.flush()
    assert second.key not in files(tmp_path)
    assert store.catalogue.match(ROOT, tokens_of([first, second])) == []
    store.close()


def test_deleting_a_memory_takes_what_is_held_back_behind_it(tmp_path: Path) -> None:
    memory = make_segment([1], labels=["dog@1"])
    turns = make_segment([2], after=memory)
    answer = make_segment([3], after=turns)
    store = TieredStore(tmp_path)
    store.put(memory)
    store.put(turns, durable=False)
    store.put(answer, durable=False)
    assert len(store.catalogue.remove_label("dog@1")) == 3
    store.flush()
    assert files(tmp_path) == set()
    assert not store.put(answer, durable=False)
    with pytest.raises(SegmentMissing):
        store.load(turns.key, FINGERPRINT)
    store.close()


def test_many_threads(tmp_path: Path) -> None:
    chains = [[first := make_segment([i] * 8), make_segment([50 + i] * 8, after=first)] for i in range(12)]
    one = chains[0][0].nbytes
    store = TieredStore(tmp_path, device_bytes=4 * one, host_bytes=4 * one, fsync=False)

    def work(offset: int) -> None:
        for i in range(60):
            for segment in chains[(i * 5 + offset) % len(chains)]:
                assert store.put(segment, durable=i % 3 == 0)
                assert torch.equal(store.load(segment.key, FINGERPRINT).segment.keys, segment.keys)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, i * 3) for i in range(4)]:
            future.result()
    store.close()
    assert files(tmp_path) == {segment.key for chain in chains for segment in chain}
    assert verify_folder(tmp_path).bad == []
