"""The package alone, with plain transformers: what docs/kvcache.md shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.cache_utils import DynamicCache

from kvcache import (
    Fingerprint,
    TieredStore,
    UnsupportedCache,
    cache_from_segments,
    read_segment,
    root_key,
    segment_from_cache,
    write_segment,
)
from tests.tiny import tiny_network


@torch.inference_mode()
def test_an_injected_chain_equals_full_prefill(tmp_path: Path) -> None:
    network = tiny_network()
    fingerprint = Fingerprint.of_model(network)
    tokens = [(i * 37) % 250 for i in range(30)]
    full = network(torch.tensor([tokens])).logits[0, -1]

    cache = network(torch.tensor([tokens[:20]]), use_cache=True).past_key_values
    first = segment_from_cache(cache, fingerprint, root_key(fingerprint), tokens[:12])
    second = segment_from_cache(cache, fingerprint, first.key, tokens[12:20], start=12)
    write_segment(tmp_path / "x", second)
    injected = cache_from_segments([first, read_segment(tmp_path / "x", fingerprint)])
    before = first.keys.clone()
    for _ in range(2):  # a model call mutates the cache it is given, never the segments
        out = network(torch.tensor([tokens[20:]]), past_key_values=cache_from_segments([first, second])).logits[0, -1]
        torch.testing.assert_close(out, full, atol=1e-4, rtol=1e-4)
    assert injected.get_seq_length() == 20
    assert torch.equal(first.keys, before)


def test_what_is_no_chain_is_refused() -> None:
    network = tiny_network()
    fingerprint = Fingerprint.of_model(network)
    cache = network(torch.tensor([[1, 2, 3, 4]]), use_cache=True).past_key_values
    first = segment_from_cache(cache, fingerprint, root_key(fingerprint), [1, 2])
    second = segment_from_cache(cache, fingerprint, first.key, [3, 4], start=2)
    for wrong in ([], [second], [first, first], [second, first]):
        with pytest.raises(ValueError, match=r"chain|follow"):
            cache_from_segments(wrong)


def test_caches_that_lack_the_tokens_are_refused() -> None:
    network = tiny_network()
    fingerprint = Fingerprint.of_model(network)
    cache = network(torch.tensor([[1, 2]]), use_cache=True).past_key_values
    with pytest.raises(UnsupportedCache):
        segment_from_cache(cache, fingerprint, root_key(fingerprint), [1, 2, 3])
    with pytest.raises(UnsupportedCache):
        segment_from_cache(DynamicCache(config=network.config), fingerprint, root_key(fingerprint), [1])


def test_a_store_works_without_an_engine(tmp_path: Path) -> None:
    network = tiny_network()
    fingerprint = Fingerprint.of_model(network)
    cache = network(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    store = TieredStore(tmp_path)
    store.put(segment_from_cache(cache, fingerprint, root_key(fingerprint), [5, 6, 7]))
    store.close()
    store = TieredStore(tmp_path)
    chain = [store.load(e.key, fingerprint).segment for e in store.catalogue.match(root_key(fingerprint), [5, 6, 7, 8])]
    assert cache_from_segments(chain).get_seq_length() == 3
    store.close()
