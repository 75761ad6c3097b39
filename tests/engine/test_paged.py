"""Between the canonical layout and vLLM's paged one; needs no vLLM."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

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


class _Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def as_vllm_places_them(layers: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Views of one block of memory, behind what does not belong to them, tokens before heads."""
    whole = torch.zeros(7 * 2 * DIM + layers * BLOCKS * SIZE * HEADS * 2 * DIM, dtype=dtype)
    rest = whole[7 * 2 * DIM :].view(layers, BLOCKS, SIZE, HEADS, 2 * DIM)
    return [layer.permute(0, 2, 1, 3) for layer in rest]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [DIM, 6])  # six numbers of two bytes are no whole number of words
def test_layers_in_one_block_of_memory_are_one_operation(dtype: torch.dtype, dim: int) -> None:
    layers = [layer[..., : 2 * dim] for layer in as_vllm_places_them(5, dtype)]
    cache, apart = PagedCache(layers, "joined"), [layer.clone() for layer in layers]
    keys, values = torch.rand(2, 5, HEADS, 40, dim).to(dtype)
    run = cache.run([6, 2, 3], 9, 49)
    with _Counted() as counted:
        cache.write_layers(run, "keys", 1, keys[1:4])
        cache.write_layers(run, "values", 1, values[1:4])
    assert counted.counts["index_put_"] == 2
    out = torch.empty(2, 3, HEADS, 40, dim, dtype=dtype)
    with _Counted() as counted:
        cache.read_layers(run, 1, *out)
    assert counted.counts["index"] == 2
    assert torch.equal(out, torch.stack([keys[1:4], values[1:4]]))
    other = PagedCache(apart, "joined")
    other.write_layers(other.run([6, 2, 3], 9, 49), "keys", 1, keys[1:4])
    other.write_layers(other.run([6, 2, 3], 9, 49), "values", 1, values[1:4])
    assert all(torch.equal(a, b) for a, b in zip(layers, apart, strict=True))


@pytest.mark.parametrize(("tokens", "copies"), [(300, 1), (40_000, 2 * HEADS)])
def test_what_goes_to_a_device_is_copied_from_memory_without_gaps(tokens: int, copies: int) -> None:
    """Else PyTorch makes a copy on the host first, in memory that is not pinned, and waits for it. A part of a long
    segment is copied row by row, a part of a short one with what is beside it."""
    cache = PagedCache([torch.empty(BLOCKS, HEADS, SIZE, 2 * DIM, device="meta") for _ in range(2)], "joined")
    stored = torch.empty(2, HEADS, tokens, DIM)
    with _Counted() as counted:
        part = cache.uploaded(stored, 10, 30)
    assert (tuple(part.shape), part.device.type) == ((2, HEADS, 20, DIM), "meta")
    assert counted.counts["copy_"] + counted.counts["_to_copy"] == copies
    assert cache.uploaded(part, 0, 5).untyped_storage()._cdata == part.untyped_storage()._cdata
