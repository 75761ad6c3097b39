"""Between segments and transformers' caches, for use without an engine (a notebook, a test)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kvcache.errors import UnsupportedCache
from kvcache.fingerprint import Fingerprint
from kvcache.segment import Segment


def segment_from_cache(
    cache: Any,
    fingerprint: Fingerprint,
    parent: str,
    token_ids: Sequence[int],
    *,
    start: int = 0,
    labels: frozenset[str] = frozenset(),
) -> Segment:
    """Copy tokens ``start`` to ``start + len(token_ids)`` out of a ``DynamicCache`` of batch size 1.

    The cache may grow or change afterwards; the segment does not. Raises ``UnsupportedCache`` when the cache
    holds another number of tokens or layers that are not plain attention.
    """
    end = start + len(token_ids)
    for layer in cache.layers:
        keys = getattr(layer, "keys", None)
        if keys is None or keys.shape[0] != 1 or keys.shape[2] < end or getattr(layer, "is_sliding", False):
            raise UnsupportedCache(f"tokens {start} to {end} are not all in this cache's layers")
    keys = torch.stack([layer.keys[0, :, start:end] for layer in cache.layers])
    values = torch.stack([layer.values[0, :, start:end] for layer in cache.layers])
    return Segment.chained(parent, fingerprint, start, token_ids, keys, values, labels)


def cache_from_segments(segments: Sequence[Segment]) -> DynamicCache:
    """Make a fresh ``DynamicCache`` that holds a chain, ready to be passed as ``past_key_values``.

    The segments are copied: a model call mutates the cache, never a segment. Raises ``ValueError`` when they
    do not form one chain from position 0.
    """
    _check_chain(segments)
    cache = DynamicCache()
    for index in range(segments[0].layout.layers):
        keys = torch.cat([segment.keys[index] for segment in segments], dim=1).unsqueeze(0)
        values = torch.cat([segment.values[index] for segment in segments], dim=1).unsqueeze(0)
        # update() marks the layer as initialised; layers filled by hand are dropped by transformers.
        cache.update(keys, values, index)
    return cache


def _check_chain(segments: Sequence[Segment]) -> None:
    if not segments or segments[0].start != 0:
        raise ValueError("a chain starts with a segment at position 0")
    for left, right in pairwise(segments):
        if right.parent != left.key or right.start != left.end:
            raise ValueError(f"segment {right.key[:12]} does not follow {left.key[:12]}")
