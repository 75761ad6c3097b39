"""Between the canonical layout and vLLM's paged one; needs no vLLM."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.vllm.paged import Packing, PagedCache, packing_of
from kvcache import UnsupportedCache

BLOCKS, HEADS, SIZE, DIM = 9, 3, 32, 16
PACKINGS: tuple[Packing, ...] = ("joined", "transposed", "tiled")


def write_token(layer: torch.Tensor, packing: Packing, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
    """The layouts, told token by token: keys and values [heads, dim]."""
    block, offset = divmod(slot, SIZE)
    if packing == "joined":
        layer[block, :, offset, :DIM], layer[block, :, offset, DIM:] = key, value
        return
    flat = layer[block].view(HEADS, 2 * SIZE * DIM)
    if packing == "tiled":
        tiles = flat[:, : SIZE * DIM].view(HEADS, SIZE // 16, DIM // 2, 16, 2)
        tiles[:, offset // 16, :, offset % 16] = key.view(HEADS, DIM // 2, 2)
        tiles = flat[:, SIZE * DIM :].view(HEADS, DIM // 16, SIZE // 2, 16, 2)
        tiles[:, :, offset // 2, :, offset % 2] = value.view(HEADS, DIM // 16, 16)
        return
    flat[:, : SIZE * DIM].view(HEADS, DIM, SIZE)[:, :, offset] = key
    flat[:, SIZE * DIM :].view(HEADS, SIZE, DIM)[:, offset] = value


@pytest.mark.parametrize("packing", PACKINGS)
@given(data=st.data())
def test_runs_lie_where_the_layout_says_and_come_back(packing: Packing, data: st.DataObject) -> None:
    ids = data.draw(st.permutations(range(BLOCKS)))[: data.draw(st.integers(1, 6))]
    position = data.draw(st.integers(0, len(ids) * SIZE - 1))
    n = data.draw(st.integers(1, len(ids) * SIZE - position))
    layers = [torch.zeros(BLOCKS, HEADS, SIZE, 2 * DIM) for _ in range(2)]
    expected = [torch.zeros_like(layer) for layer in layers]
    keys, values = (torch.rand(2, HEADS, n, DIM) + 1 for _ in range(2))
    cache = PagedCache(layers, packing)
    cache.write(ids, position, keys, values)
    for i, layer in enumerate(expected):
        for t in range(n):
            slot = ids[(position + t) // SIZE] * SIZE + (position + t) % SIZE
            write_token(layer, packing, slot, keys[i, :, t], values[i, :, t])
        assert torch.equal(layers[i], layer)
    found = cache.read(ids, position, position + n)
    assert torch.equal(found[0], keys)
    assert torch.equal(found[1], values)
    one = cache.read_layer(1, ids, position, position + n)
    assert torch.equal(one[0], keys[1])


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_packing_is_found_by_looking(packing: Packing) -> None:
    layer = torch.rand(BLOCKS, HEADS, SIZE, 2 * DIM)
    before = layer.clone()

    def write(keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        for key, value, slot in zip(keys, values, slots.tolist(), strict=True):
            write_token(layer, packing, slot, key, value)

    assert packing_of(layer, write) == packing
    assert torch.equal(layer, before)


def test_an_unknown_packing_is_refused() -> None:
    def write(keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """Keeps everything to itself."""

    with pytest.raises(UnsupportedCache, match="not known"):
        packing_of(torch.zeros(BLOCKS, HEADS, SIZE, 2 * DIM), write)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (1, 0, 2, 3)])
def test_layers_may_lie_in_memory_in_any_order(order: tuple[int, ...]) -> None:
    """FlashAttention's caches are views with other strides (token before head, head before block)."""
    shape = (BLOCKS, HEADS, SIZE, 2 * DIM)
    inverse = [order.index(i) for i in range(4)]
    layer = torch.zeros([shape[i] for i in order]).permute(inverse)
    assert tuple(layer.shape) == shape
    keys, values = torch.rand(1, HEADS, 11, DIM), torch.rand(1, HEADS, 11, DIM)
    cache = PagedCache([layer], "joined")
    cache.write([5, 2], SIZE - 5, keys, values)
    assert torch.equal(cache.read([5, 2], SIZE - 5, SIZE + 6)[0], keys)
    assert torch.equal(layer[5, :, SIZE - 5, :DIM], keys[0, :, 0])
