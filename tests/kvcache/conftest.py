from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kvcache import Fingerprint, Layout, Segment, TieredStore, root_key

LAYOUT = Layout(layers=2, kv_heads=2, head_dim=4, dtype="float32")
FINGERPRINT = Fingerprint("weights", "config", "tokenizer", "template", "full-causal", LAYOUT)
ROOT = root_key(FINGERPRINT)

MakeSegment = Callable[..., Segment]


def make_segment(
    token_ids: Sequence[int] = (1, 2, 3),
    *,
    after: Segment | None = None,
    labels: Sequence[str] = (),
    fingerprint: Fingerprint = FINGERPRINT,
    root: str = ROOT,
) -> Segment:
    """A segment whose numbers follow from its tokens."""
    generator = torch.Generator().manual_seed(hash(tuple(token_ids)) % (1 << 31))
    shape = fingerprint.layout.shape(len(token_ids))
    keys = torch.randn(shape, generator=generator).to(fingerprint.layout.torch_dtype)
    values = torch.randn(shape, generator=generator).to(fingerprint.layout.torch_dtype)
    parent, start = (root, 0) if after is None else (after.key, after.end)
    return Segment.chained(parent, fingerprint, start, token_ids, keys, values, frozenset(labels))


@contextmanager
def held(store: TieredStore, keys: Sequence[str]) -> Iterator[None]:
    """Hold these segments in memory while the block runs."""
    store.hold(keys)
    try:
        yield
    finally:
        store.release(keys)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TieredStore]:
    opened = TieredStore(tmp_path / "segments")
    yield opened
    opened.close()
