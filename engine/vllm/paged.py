"""Between the canonical layout and vLLM's paged cache.

Canonical keys and values are [layers, kv_heads, tokens, head_dim]. A layer of the paged cache is, logically, [blocks,
kv_heads, block_size, 2 * head_dim], in one of three packings:

- *joined* (FlashAttention, FlashInfer, Triton): the content of a token is its key followed by its value;
- *transposed* (the CPU back end): a block's head is one flat run, keys transposed [head_dim, block_size] first, then
  values [block_size, head_dim];
- *tiled* (the CPU back end in bfloat16 on CPUs with matrix tiles, AMX): also one flat run, in the tiles that these
  instructions read, keys [block_size / 16, head_dim / 2, 16 tokens, 2 dimensions] first, then values [head_dim / 16,
  block_size / 2, 16 dimensions, 2 tokens].

Which one it is, is not assumed but found out, by writing through the back end and looking (see ``packing_of``).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch

from kvcache import UnsupportedCache

Packing = Literal["joined", "transposed", "tiled"]
_TILE = 16
"""Rows of a matrix tile of AMX; two 16-bit numbers lie beside one another in each of its columns."""
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
        self._layers = layers
        self._views = [_views(layer, packing) for layer in layers]

    def touch(self) -> None:
        """Write to every page of a cache in host memory that holds nothing yet: otherwise the first requests pay for
        fresh memory, several times what copying into it takes."""
        for layer in self._layers if self.device.type == "cpu" else ():
            layer.view(-1).view(torch.uint8)[:: mmap.PAGESIZE].zero_()

    def shape(self, n_tokens: int) -> tuple[int, int, int, int]:
        """Canonical shape of the keys (and of the values) of so many tokens."""
        return (len(self._views), self._views[0][0].shape[1], n_tokens, self.head_dim)

    def write(self, block_ids: Sequence[int], position: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put canonical keys and values at ``position`` of the sequence that ``block_ids`` belong to."""
        for i in range(len(self._views)):
            self.write_keys(i, block_ids, position, keys[i])
            self.write_values(i, block_ids, position, values[i])

    def write_keys(self, layer: int, block_ids: Sequence[int], position: int, keys: torch.Tensor) -> None:
        """One layer's keys, [kv_heads, tokens, head_dim]."""
        self._write(self._views[layer][0], block_ids, position, keys, transposed=self.packing == "transposed")

    def write_values(self, layer: int, block_ids: Sequence[int], position: int, values: torch.Tensor) -> None:
        """One layer's values, [kv_heads, tokens, head_dim]."""
        self._write(self._views[layer][1], block_ids, position, values, transposed=False)

    def _write(
        self, view: torch.Tensor, block_ids: Sequence[int], position: int, run: torch.Tensor, *, transposed: bool
    ) -> None:
        if self.packing == "joined":
            blocks, offsets = self._slots(block_ids, position, run.shape[1])
            view[blocks, :, offsets] = run.to(self.device, non_blocking=True).transpose(0, 1)
            return
        for ids, inside, tokens in _runs(block_ids, position, run.shape[1], self.block_size):
            source = _by_block(run[:, tokens], ids.stop - ids.start)
            if self.packing == "tiled":
                _write_tiles(view, ids, inside, source)
            elif transposed:
                view[ids, :, :, inside].copy_(source.transpose(2, 3))
            else:
                view[ids, :, inside].copy_(source)

    def read(
        self, block_ids: Sequence[int], begin: int, end: int, out: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the canonical keys and values of positions ``begin`` to ``end``, into ``out`` where given."""
        shape = self.shape(end - begin)
        keys, values = out or [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2)]
        for i, (k, v) in enumerate(self._views):
            self._read(k, block_ids, begin, keys[i], transposed=self.packing == "transposed")
            self._read(v, block_ids, begin, values[i], transposed=False)
        return keys, values

    def read_layer(
        self, layer: int, block_ids: Sequence[int], begin: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`read`, of one layer: [kv_heads, tokens, head_dim] each."""
        only = PagedCache([self._layers[layer]], self.packing)
        keys, values = only.read(block_ids, begin, end)
        return keys[0], values[0]

    def _read(
        self, view: torch.Tensor, block_ids: Sequence[int], position: int, run: torch.Tensor, *, transposed: bool
    ) -> None:
        if self.packing == "joined":
            blocks, offsets = self._slots(block_ids, position, run.shape[1])
            run.copy_(view[blocks, :, offsets].transpose(0, 1), non_blocking=True)
            return
        for ids, inside, tokens in _runs(block_ids, position, run.shape[1], self.block_size):
            into = _by_block(run[:, tokens], ids.stop - ids.start)
            if self.packing == "tiled":
                _read_tiles(view, ids, inside, into)
                continue
            into.copy_(view[ids, :, :, inside].transpose(2, 3) if transposed else view[ids, :, inside])

    def slots(self, block_ids: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
        """Slot numbers, as vLLM counts them, int64 on the cache's device."""
        table = torch.tensor(block_ids, dtype=torch.int64)
        return (table[positions // self.block_size] * self.block_size + positions % self.block_size).to(self.device)

    def _slots(self, block_ids: Sequence[int], position: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        slots = self.slots(block_ids, torch.arange(position, position + n))
        return slots // self.block_size, slots % self.block_size


def _views(layer: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a layer: [blocks, kv_heads, block_size, head_dim], keys with the last two dimensions swapped
    where they are transposed, both with the last two split in two (tile, inside a tile) where they are tiled."""
    blocks, heads, size, content = layer.shape
    dim = content // 2
    if packing == "joined":
        return layer[..., :dim], layer[..., dim:]
    flat = layer.view(blocks, heads, size * content)
    if packing == "tiled":
        keys = flat[..., : size * dim].view(blocks, heads, size // _TILE, dim // 2, _TILE, 2)
        values = flat[..., size * dim :].view(blocks, heads, dim // _TILE, size // 2, _TILE, 2)
        return keys.permute(0, 1, 2, 4, 3, 5), values.permute(0, 1, 3, 5, 2, 4)
    keys = flat[..., : size * dim].view(blocks, heads, dim, size)
    return keys, flat[..., size * dim :].view(blocks, heads, size, dim)


def _write_tiles(view: torch.Tensor, ids: slice, inside: slice, source: torch.Tensor) -> None:
    """Put ``source`` [n blocks, heads, tokens, dim] into slots ``inside`` the blocks ``ids``.

    ``view``: [blocks, heads, tiles of tokens, tokens, tiles of dimensions, dimensions].
    """
    if inside.stop - inside.start == view.shape[2] * view.shape[3]:
        view[ids].copy_(source.view(view[ids].shape))
        return
    tile, row = _in_tiles(view, inside)
    n, heads, tokens, _ = source.shape
    view[ids.start][:, tile, row] = source.view(n, heads, tokens, *view.shape[4:])[0].to(view.device)


def _read_tiles(view: torch.Tensor, ids: slice, inside: slice, into: torch.Tensor) -> None:
    """Copy slots ``inside`` the blocks ``ids`` of a view of tiles to ``into``, the reverse of :func:`_write_tiles`."""
    if inside.stop - inside.start == view.shape[2] * view.shape[3]:
        into.view(view[ids].shape).copy_(view[ids])
        return
    tile, row = _in_tiles(view, inside)
    n, heads, tokens, _ = into.shape
    into.view(n, heads, tokens, *view.shape[4:])[0].copy_(view[ids.start][:, tile, row])


def _in_tiles(view: torch.Tensor, inside: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """The tile of each slot, and the row in it. Slots of one block, since pieces of several are whole blocks."""
    slots = torch.arange(inside.start, inside.stop, device=view.device)
    return slots // view.shape[3], slots % view.shape[3]


def _by_block(run: torch.Tensor, n: int) -> torch.Tensor:
    """[heads, tokens, dim] as [n blocks, heads, tokens a block, dim]; a view."""
    heads, tokens, dim = run.shape
    return run.view(heads, n, tokens // n, dim).transpose(0, 1)


def _runs(block_ids: Sequence[int], position: int, n: int, block_size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks with consecutive ids, the slots in each of them, and which of the ``n`` tokens these are: as few pieces as
    can be, because a copy of many blocks takes a fraction of many copies' time."""
    done = 0
    while done < n:
        at = position + done
        inside = at % block_size
        if inside or n - done < block_size:
            take = min(block_size - inside, n - done)
            block = block_ids[at // block_size]
            yield slice(block, block + 1), slice(inside, inside + take), slice(done, done + take)
            done += take
            continue
        first = at // block_size
        last = first + 1
        while last < first + (n - done) // block_size and block_ids[last] == block_ids[last - 1] + 1:
            last += 1
        take = (last - first) * block_size
        yield slice(block_ids[first], block_ids[first] + last - first), slice(0, block_size), slice(done, done + take)
        done += take


def _possible(layer: torch.Tensor) -> list[Packing]:
    """The packings that a layer's shape and strides allow."""
    possible: list[Packing] = ["joined"]
    if layer.is_contiguous():
        possible.append("transposed")
        if layer.shape[2] % _TILE == 0 and layer.shape[3] % (2 * _TILE) == 0:
            possible.append("tiled")
    return possible


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
        for packing in _possible(layer):
            cache = PagedCache([layer], packing)
            found_keys, found_values = cache.read([0], first, first + tokens)
            same = torch.equal(found_keys[0].transpose(0, 1), keys)
            if same and torch.equal(found_values[0].transpose(0, 1), values):
                return packing
    finally:
        layer[0].copy_(before)
    raise UnsupportedCache("this attention back end packs keys and values in a way that is not known here")
