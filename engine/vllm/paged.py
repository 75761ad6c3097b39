"""Between the canonical layout and vLLM's paged cache.

Canonical keys and values are [layers, kv_heads, tokens, head_dim]. A layer of the paged cache is, logically, [blocks,
kv_heads, block_size, 2 * head_dim], in one of two packings:

- *joined* (FlashAttention, FlashInfer, Triton): the content of a token is its key followed by its value;
- *transposed* (the CPU back end): a block's head is one flat run, keys transposed [head_dim, block_size] first, then
  values [block_size, head_dim].

Which one it is, is not assumed but found out, by writing through the back end and looking (see ``packing_of``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch

from kvcache import UnsupportedCache

Packing = Literal["joined", "transposed"]
WriteTokens = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Keys and values [tokens, kv_heads, head_dim] into slots [tokens]: the back end's own way."""


class PagedCache:
    """Reads and writes runs of tokens of a paged cache, all layers at once.

    ``layers``: per layer the cache as [blocks, kv_heads, block_size, 2 * head_dim].
    """

    def __init__(self, layers: Sequence[torch.Tensor], packing: Packing) -> None:
        self.packing = packing
        self.block_size = layers[0].shape[2]
        self.head_dim = layers[0].shape[3] // 2
        self.dtype = layers[0].dtype
        self.device = layers[0].device
        self._views = [_views(layer, packing) for layer in layers]

    def write(self, block_ids: Sequence[int], position: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put canonical keys and values at ``position`` of the sequence that ``block_ids`` belong to."""
        if self.packing == "joined":
            blocks, offsets = self._slots(block_ids, position, keys.shape[2])
            keys, values = (t.to(self.device, non_blocking=True) for t in (keys, values))
            for (k, v), key, value in zip(self._views, keys, values, strict=True):
                k[blocks, :, offsets] = key.transpose(0, 1)
                v[blocks, :, offsets] = value.transpose(0, 1)
            return
        for (k, v), key, value in zip(self._views, keys, values, strict=True):
            for block, offset, begin, n in _runs(block_ids, position, keys.shape[2], self.block_size):
                for head in range(key.shape[0]):  # two-dimensional copies: transposing more is far slower
                    k[block, head, :, offset : offset + n].copy_(key[head, begin : begin + n].t())
                v[block, :, offset : offset + n].copy_(value[:, begin : begin + n])

    def read(self, block_ids: Sequence[int], begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the canonical keys and values of positions ``begin`` to ``end``, on the cache's device."""
        heads = self._views[0][0].shape[1]
        shape = (len(self._views), heads, end - begin, self.head_dim)
        keys = torch.empty(shape, dtype=self.dtype, device=self.device)
        values = torch.empty_like(keys)
        if self.packing == "joined":
            blocks, offsets = self._slots(block_ids, begin, end - begin)
            for i, (k, v) in enumerate(self._views):
                keys[i] = k[blocks, :, offsets].transpose(0, 1)
                values[i] = v[blocks, :, offsets].transpose(0, 1)
            return keys, values
        for i, (k, v) in enumerate(self._views):
            for block, offset, at, n in _runs(block_ids, begin, end - begin, self.block_size):
                for head in range(heads):
                    keys[i, head, at : at + n].copy_(k[block, head, :, offset : offset + n].t())
                values[i, :, at : at + n].copy_(v[block, :, offset : offset + n])
        return keys, values

    def slots(self, block_ids: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
        """Slot numbers, as vLLM counts them, int64 on the cache's device."""
        table = torch.tensor(block_ids, dtype=torch.int64)
        return (table[positions // self.block_size] * self.block_size + positions % self.block_size).to(self.device)

    def _slots(self, block_ids: Sequence[int], position: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        slots = self.slots(block_ids, torch.arange(position, position + n))
        return slots // self.block_size, slots % self.block_size


def _views(layer: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a layer: [blocks, kv_heads, block_size, head_dim], keys with the last two dimensions swapped
    where they are transposed."""
    blocks, heads, size, content = layer.shape
    dim = content // 2
    if packing == "joined":
        return layer[..., :dim], layer[..., dim:]
    flat = layer.view(blocks, heads, size * content)
    keys = flat[..., : size * dim].view(blocks, heads, dim, size)
    return keys, flat[..., size * dim :].view(blocks, heads, size, dim)


def _runs(block_ids: Sequence[int], position: int, n: int, block_size: int) -> Iterator[tuple[int, int, int, int]]:
    """Block id, offset in it, offset in the run, and number of tokens, block by block."""
    ends = range((position // block_size + 1) * block_size, position + n, block_size)
    for first, last in pairwise([position, *ends, position + n]):
        yield block_ids[first // block_size], first % block_size, first - position, last - first


def packing_of(layer: torch.Tensor, write: WriteTokens) -> Packing:
    """How the back end packs a layer's cache, found by letting it ``write`` to block 0, which vLLM keeps unused.

    Raises ``UnsupportedCache`` when it is in no way known here.
    """
    heads, size, dim = layer.shape[1], layer.shape[2], layer.shape[3] // 2
    generator = torch.Generator().manual_seed(0)
    tokens = min(size, 5) if size < 8 else size - 3
    shape = (tokens, heads, dim)
    keys, values = (torch.randn(shape, generator=generator).to(layer.device, layer.dtype) for _ in range(2))
    first = min(2, size - tokens)
    before = layer[0].clone()
    write(keys, values, torch.arange(first, first + tokens, device=layer.device))
    try:
        for packing in ("joined", "transposed"):
            if packing == "transposed" and not layer.is_contiguous():
                continue
            cache = PagedCache([layer], packing)
            found_keys, found_values = cache.read([0], first, first + tokens)
            same = torch.equal(found_keys[0].transpose(0, 1), keys)
            if same and torch.equal(found_values[0].transpose(0, 1), values):
                return packing
    finally:
        layer[0].copy_(before)
    raise UnsupportedCache("this attention back end packs keys and values in a way that is not known here")
