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

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from engine.vllm.streams import sent
from kvcache import UnsupportedCache

Packing = Literal["joined", "transposed", "tiled"]
_TILE = 16
"""Rows of a matrix tile of AMX; two 16-bit numbers lie beside one another in each of its columns."""
Half = Literal["keys", "values"]
_HALVES: tuple[Half, Half] = ("keys", "values")
_ROW_COPY_BYTES = 256 << 10
"""So many bytes go from host to device in the time that it takes to ask for one more copy."""
WriteTokens = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Keys and values [tokens, kv_heads, head_dim] into slots [tokens]: the back end's own way."""


@dataclass(frozen=True)
class Run:
    """A run of ``n_tokens`` tokens from ``position`` on of the sequence that ``block_ids`` belong to. In joined caches
    ``index`` holds block and offset of each token, int64 [tokens] on the cache's device."""

    block_ids: Sequence[int]
    position: int
    n_tokens: int
    index: tuple[torch.Tensor, torch.Tensor] | None


class PagedCache:
    """Reads and writes runs of tokens of a paged cache, all layers at once.

    ``layers``: per layer the cache as [blocks, kv_heads, block_size, 2 * head_dim]. Where tokens are joined and the
    layers lie at equal distances in one block of memory, as vLLM places them, any number of layers is one operation.
    """

    def __init__(self, layers: Sequence[torch.Tensor], packing: Packing) -> None:
        self.packing = packing
        self.block_size = layers[0].shape[2]
        self.head_dim = layers[0].shape[3] // 2
        self.dtype = layers[0].dtype
        self.device = layers[0].device
        self._layers = layers
        self._views = [_views(layer, packing) for layer in layers]
        self._joined = _joined(layers) if packing == "joined" else []

    @property
    def is_joined(self) -> bool:
        """Say whether any number of layers is best read and written at once."""
        return self.packing == "joined"

    def touch(self) -> None:
        """Write to every page of a cache in host memory that holds nothing yet: otherwise the first requests pay for
        fresh memory, several times what copying into it takes."""
        for layer in self._layers if self.device.type == "cpu" else ():
            layer.view(-1).view(torch.uint8)[:: mmap.PAGESIZE].zero_()

    def shape(self, n_tokens: int) -> tuple[int, int, int, int]:
        """Return the canonical shape of the keys, and of the values, of ``n_tokens`` tokens."""
        return (len(self._views), self._views[0][0].shape[1], n_tokens, self.head_dim)

    def nbytes(self, n_tokens: int) -> int:
        """Return the bytes of the keys and values of ``n_tokens`` tokens."""
        return 2 * math.prod(self.shape(n_tokens)) * self.dtype.itemsize

    def run(self, block_ids: Sequence[int], begin: int, end: int) -> Run:
        """Find where positions ``begin`` to ``end`` lie; made once for as many reads and writes as there are."""
        if not self.is_joined:
            return Run(block_ids, begin, end - begin, None)
        slots = self._slots(block_ids, torch.arange(begin, end))
        blocks, offsets = sent(torch.stack([slots // self.block_size, slots % self.block_size]), self.device)
        return Run(block_ids, begin, end - begin, (blocks, offsets))

    def write(self, block_ids: Sequence[int], position: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put canonical keys and values at ``position`` of the sequence that ``block_ids`` belong to."""
        run = self.run(block_ids, position, position + keys.shape[2])
        self.write_layers(run, "keys", 0, keys)
        self.write_layers(run, "values", 0, values)

    def write_layers(self, run: Run, half: Half, first: int, data: torch.Tensor) -> None:
        """Put the keys or values of some layers, [layers, kv_heads, tokens, head_dim], the first of which is layer
        ``first``, in their places."""
        which = _HALVES.index(half)
        if run.index is None:
            for i, layer in enumerate(data):
                self._write(self._views[first + i][which], run, layer, transposed=self._is_transposed(half))
            return
        data = data.to(self.device, non_blocking=True)
        for begin, end, view in self._parts(first, first + len(data)):
            view[which][:, :, *run.index] = _viewed(data[begin - first : end - first], view.dtype)

    def uploaded(self, data: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Bring tokens ``begin`` to ``end`` of [layers, kv_heads, tokens, head_dim] on the cache's device; the same
        memory where they are there. Copies are of memory without gaps, because others would be made on the host
        first."""
        if data.device == self.device:
            return data[:, :, begin:end]
        layers, heads, tokens, dim = data.shape
        if (tokens - end + begin) * dim * data.itemsize <= _ROW_COPY_BYTES:
            return data.to(self.device, non_blocking=True)[:, :, begin:end]
        rows = torch.empty((layers * heads, end - begin, dim), dtype=data.dtype, device=self.device)
        for row, source in zip(rows, data.flatten(0, 1), strict=True):
            row.copy_(source[begin:end], non_blocking=True)
        return rows.view(layers, heads, end - begin, dim)

    def _write(self, view: torch.Tensor, run: Run, layer: torch.Tensor, *, transposed: bool) -> None:
        for ids, inside, tokens in _runs(run.block_ids, run.position, run.n_tokens, self.block_size):
            source = _by_block(layer[:, tokens], ids.stop - ids.start)
            if self.packing == "tiled":
                _write_tiles(view, ids, inside, source)
            elif transposed:
                view[ids, :, :, inside].copy_(source.transpose(2, 3))
            else:
                view[ids, :, inside].copy_(source)

    def read(
        self, block_ids: Sequence[int], begin: int, end: int, out: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the canonical keys and values of positions ``begin`` to ``end``, into ``out`` where given."""
        shape = self.shape(end - begin)
        keys, values = out or torch.empty((2, *shape), dtype=self.dtype, device=self.device)
        self.read_layers(self.run(block_ids, begin, end), 0, keys, values)
        return keys, values

    def read_layers(self, run: Run, first: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copy keys and values of some layers, the first of which is layer ``first``, into [layers, kv_heads, tokens,
        head_dim] each."""
        if run.index is None:
            for i, into in enumerate(zip(keys, values, strict=True)):
                for half, view, layer in zip(_HALVES, self._views[first + i], into, strict=True):
                    self._read(view, run, layer, transposed=self._is_transposed(half))
            return
        for begin, end, view in self._parts(first, first + len(keys)):
            for source, out in zip(view, (keys, values), strict=True):
                _gather(source, run.index, out[begin - first : end - first])

    def _is_transposed(self, half: Half) -> bool:
        return half == "keys" and self.packing == "transposed"

    def _parts(self, first: int, last: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Return the views that hold layers ``first`` to ``last``, cut to them, and which layers these are."""
        begin = 0
        for view in self._joined:
            end = begin + view.shape[1]
            if begin < last and end > first:
                a, b = max(begin, first), min(end, last)
                yield a, b, view[:, a - begin : b - begin]
            begin = end

    def read_layer(
        self, layer: int, block_ids: Sequence[int], begin: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy as :meth:`read`, of one layer: [kv_heads, tokens, head_dim] each."""
        only = PagedCache([self._layers[layer]], self.packing)
        keys, values = only.read(block_ids, begin, end)
        return keys[0], values[0]

    def _read(self, view: torch.Tensor, run: Run, layer: torch.Tensor, *, transposed: bool) -> None:
        for ids, inside, tokens in _runs(run.block_ids, run.position, run.n_tokens, self.block_size):
            into = _by_block(layer[:, tokens], ids.stop - ids.start)
            if self.packing == "tiled":
                _read_tiles(view, ids, inside, into)
                continue
            into.copy_(view[ids, :, :, inside].transpose(2, 3) if transposed else view[ids, :, inside])

    def slots(self, block_ids: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
        """Return slot numbers, as vLLM counts them, int64 on the cache's device."""
        return sent(self._slots(block_ids, positions), self.device)

    def _slots(self, block_ids: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
        table = torch.tensor(block_ids, dtype=torch.int64)
        return table[positions // self.block_size] * self.block_size + positions % self.block_size


def _joined(layers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Make views [2 (keys, values), layers, kv_heads, blocks, block_size, words] that hold the layers in order: one
    where they lie at equal distances in one block of memory, else one a layer. Words have eight bytes where numbers
    come in such; to copy them, it does not matter what they mean, and takes a fraction of the operations."""
    first = layers[0]
    places = [layer.storage_offset() for layer in layers]
    steps = {after - before for before, after in pairwise(places)} or {0}
    alike = {(layer.untyped_storage().data_ptr(), layer.shape, layer.stride()) for layer in layers}
    if len(steps) == len(alike) == 1 and min(steps) >= 0:
        stacked = [first.as_strided((len(layers), *first.shape), (*steps, *first.stride()), places[0])]
    else:
        stacked = [layer[None] for layer in layers]
    halves = [view.view(*view.shape[:-1], 2, view.shape[-1] // 2) for view in stacked]
    views = [view.permute(4, 0, 2, 1, 3, 5) for view in halves]
    return [_viewed(view, torch.int64) if _has_words(view) else view for view in views]


def _has_words(view: torch.Tensor) -> bool:
    """Say whether a view can be seen as one of eight-byte words."""
    numbers = 8 // view.itemsize
    where = (view.shape[-1], view.storage_offset(), *view.stride()[:-1])
    return view.stride(-1) == 1 and all(n % numbers == 0 for n in where)


def _viewed(data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """View the same bytes as another type, copied where they do not lie so that they can be seen as such."""
    if data.dtype == dtype:
        return data
    return (data if _has_words(data) else data.clone(memory_format=torch.contiguous_format)).view(dtype)


def _gather(view: torch.Tensor, index: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor) -> None:
    """Copy what lies at ``index`` out of a view [layers, kv_heads, blocks, block_size, words] into [layers, kv_heads,
    tokens, head_dim], without a step between where the memory of ``out`` allows it."""
    if out.device == view.device and out.is_contiguous() and (out.dtype == view.dtype or _has_words(out)):
        torch.ops.aten.index.Tensor_out(view, [None, None, *index], out=_viewed(out, view.dtype))
    else:
        out.copy_(view[:, :, *index].view(out.dtype), non_blocking=True)


def _views(layer: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor]:
    """View keys and values of a layer: [blocks, kv_heads, block_size, head_dim], keys with the last two dimensions
    swapped where they are transposed, both with the last two split in two (tile, inside a tile) where they are
    tiled."""
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
    """Return the tile of each slot, and the row in it. Slots of one block, since pieces of several are whole blocks."""
    slots = torch.arange(inside.start, inside.stop, device=view.device)
    return slots // view.shape[3], slots % view.shape[3]


def _by_block(run: torch.Tensor, n: int) -> torch.Tensor:
    """View [heads, tokens, dim] as [n blocks, heads, tokens a block, dim]; a view."""
    heads, tokens, dim = run.shape
    return run.view(heads, n, tokens // n, dim).transpose(0, 1)


def _runs(block_ids: Sequence[int], position: int, n: int, block_size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Group blocks with consecutive ids, the slots in each of them, and which of the ``n`` tokens these are: as few
    pieces as can be, because a copy of many blocks takes a fraction of many copies' time."""
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
    """List the packings that a layer's shape and strides allow."""
    possible: list[Packing] = ["joined"]
    if layer.is_contiguous():
        possible.append("transposed")
        if layer.shape[2] % _TILE == 0 and layer.shape[3] % (2 * _TILE) == 0:
            possible.append("tiled")
    return possible


def packing_of(layer: torch.Tensor, write: WriteTokens) -> Packing:
    """Find how the back end packs a layer's cache by letting it ``write`` to block 0, which vLLM keeps unused.

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
