"""Attention on CPUs through oneDNN's matrix products, where those are faster than the ones PyTorch takes by itself.

On AMD's CPUs the library behind PyTorch's float32 products (MKL) leaves half of the vector units' width unused: 150
GFLOP/s in attention on 2 cores where the linear layers, which go through oneDNN, reach 430. PyTorch hands float32
products to oneDNN when its precision is set to ``bf16``; on CPUs without tile units (AMX) oneDNN then computes them in
full float32 all the same, which is tested here before it is relied on. docs/architecture.md has the figures.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.transformers.attention.kernels.base import Attended, Part
from engine.transformers.attention.kernels.flash import flash, merge

# Rows of scores at once, and how many numbers they may be: they should stay in the cores' caches.
_ROWS = 128
_SCORES = 4 << 20
# From this many new tokens on, one call for all rows is quicker, where all of them see all keys.
_MANY = 256
_NEW, _KEYS = 32, 256
# Of a float32 product of 64 terms of standard normal numbers, against float64.
_FLOAT32_ERROR = 1e-4


def worth(new: int, keys: int) -> bool:
    """Say whether attention of ``new`` tokens over ``keys`` others gains: oneDNN takes some milliseconds for sizes that
    it has not seen before (once for all layers), and single tokens meet a new size at every step."""
    return new >= _NEW and keys >= _KEYS


@functools.cache
def usable() -> bool:
    """Say whether float32 products can, and should, go through oneDNN on this machine."""
    precision = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)
    if precision is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if torch.cpu._is_amx_tile_supported() or not _is_amd():
        return False
    return _is_exact()


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@torch.inference_mode()
def _is_exact() -> bool:
    """Check that products under the other setting are as exact as float32 ones are (in bfloat16 the error would be near
    0.1)."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 512), (64, 64), (192, 2048), (1536, 512)):
        left = torch.randn(2, rows, 64, generator=generator)
        right = torch.randn(2, columns, 64, generator=generator).transpose(1, 2)
        with preferred():
            found = torch.bmm(left, right)
        if (found.double() - torch.bmm(left.double(), right.double())).abs().max() > _FLOAT32_ERROR:
            return False
    return True


@contextmanager
def preferred() -> Iterator[None]:
    """Have float32 products of this process go through oneDNN within the block. (The setting is the process's: what
    other threads compute meanwhile may too, with float32's exactness.)"""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


class Scratch:
    """Two buffers that are used again and again: fresh memory of this size costs more than the products. For one
    thread."""

    def __init__(self) -> None:
        self._buffers = [torch.empty(0), torch.empty(0)]

    def pair(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two float32 tensors of ``shape``, with whatever is in them."""
        wanted = 1
        for n in shape:
            wanted *= n
        if self._buffers[0].numel() < wanted:
            with torch.inference_mode(False):  # so that they can be written to in any mode
                self._buffers = [torch.empty(wanted) for _ in self._buffers]
        first, second = (buffer[:wanted].view(shape) for buffer in self._buffers)
        return first, second


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    scale: float,
    mask: torch.Tensor | None,
    scratch: Scratch,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with float32 query [1, heads, new, head_dim] to key and value [1, kv_heads, keys, head_dim]; returns the
    attention, shaped as the query, and its log-sum-exp [1, heads, new]. ``causal`` needs as many keys as queries;
    ``mask`` is additive, [new, keys]."""
    _, heads, new, width = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    group = heads // kv_heads
    if new >= _MANY and not causal and mask is None:
        # The heads that share keys become rows of one head.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query.reshape(1, kv_heads, group * new, width), key, value, scale=scale
        )
        return out.reshape(1, heads, new, width), lse.reshape(1, heads, new)
    grouped = (query * scale).view(kv_heads, group, new, width)
    out, lse = query.new_empty(1, heads, new, value.shape[-1]), query.new_empty(1, heads, new)
    rows = max(1, min(_ROWS, _SCORES // (heads * keys)))
    for begin in range(0, new, rows):
        end = min(begin + rows, new)
        seen = end if causal else keys
        part = grouped[:, :, begin:end].reshape(kv_heads, group * (end - begin), width)
        scores, weights = scratch.pair(kv_heads, part.shape[1], seen)
        for head in range(kv_heads):  # one by one: a batch of slices would be copied first
            torch.mm(part[head], key[0, head, :seen].t(), out=scores[head])
        by_row = scores.view(kv_heads, group, end - begin, seen)
        if causal:
            by_row[..., begin:] += triangle(end - begin)
        elif mask is not None:
            by_row += mask[begin:end]
        torch.ops.aten._softmax.out(scores, -1, False, out=weights)
        for head in range(kv_heads):
            attended = torch.mm(weights[head], value[0, head, :seen])
            out.view(kv_heads, group, new, -1)[head, :, begin:end] = attended.view(group, end - begin, -1)
        # The largest score has the largest weight, exp(score - lse).
        found = scores.amax(-1) - weights.amax(-1).log()
        lse.view(kv_heads, group, new)[:, :, begin:end] = found.view(kv_heads, group, end - begin)
    return out, lse


def at_once(new: int) -> bool:
    """Say whether so few new tokens are attended to all parts at once, by :func:`attend_parts`."""
    return new < _MANY


def attend_parts(
    query: torch.Tensor,
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
    scale: float,
    mask: torch.Tensor | None,
    scratch: Scratch,
) -> torch.Tensor:
    """Attend with float32 query [1, heads, new, head_dim] over all parts (keys and values, [1, kv_heads, keys,
    head_dim] each), [1, heads, new, head_dim]. ``mask`` is of the last part, additive, [new, keys]. The parts are
    copied behind each other: for few new tokens that costs less than products and a softmax for each, and joining
    those."""
    _, heads, new, width = query.shape
    keys, values = (parts[0][i][0] if len(parts) == 1 else torch.cat([part[i][0] for part in parts], 1) for i in (0, 1))
    kv_heads, n_keys, _ = keys.shape
    group = heads // kv_heads
    blocks = []
    rows = max(1, min(new, _SCORES // (heads * n_keys)))
    for begin in range(0, new, rows):
        end = min(begin + rows, new)
        some = query.new_empty(kv_heads, group, end - begin, width)
        torch.mul(query[0, :, begin:end].view(kv_heads, group, end - begin, width), scale, out=some)
        scores, weights = scratch.pair(kv_heads, group * (end - begin), n_keys)
        torch.bmm(some.view(kv_heads, -1, width), keys.transpose(1, 2), out=scores)
        if mask is not None:
            scores.view(kv_heads, group, end - begin, n_keys)[..., n_keys - mask.shape[1] :] += mask[begin:end]
        torch.ops.aten._softmax.out(scores, -1, False, out=weights)
        blocks.append(torch.bmm(weights, values).view(1, heads, end - begin, -1))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)


@functools.cache
def triangle(n: int) -> torch.Tensor:
    """Make the additive causal mask of ``n`` tokens among themselves, [n, n]."""
    return torch.zeros(n, n).masked_fill_(torch.ones(n, n, dtype=torch.bool).triu_(1), float("-inf"))


class OneDnn:
    """Attends by oneDNN's products: to all parts at once where the new tokens are few, else part by part."""

    def __init__(self) -> None:
        self._scratch = Scratch()

    def fits(self, query: torch.Tensor, parts: Sequence[Part]) -> bool:
        return query.dtype == torch.float32 and worth(query.shape[2], sum(key.shape[2] for key, _ in parts))

    def attend(
        self, query: torch.Tensor, parts: Sequence[Part], scale: float, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        new = query.shape[2]
        if at_once(new):
            with preferred():
                return attend_parts(query, parts, scale, triangle(new) if mask is None else mask, self._scratch)
        *before, last = parts
        found = [self._part(query, part, scale) for part in before]
        return merge([*found, self._part(query, last, scale, causal=mask is None, mask=mask)])

    def _part(
        self,
        query: torch.Tensor,
        part: Part,
        scale: float,
        *,
        causal: bool = False,
        mask: torch.Tensor | None = None,
    ) -> Attended:
        if not worth(query.shape[2], part[0].shape[2]):
            return flash(query, *part, scale, mask=mask, causal=causal)
        with preferred():
            return attend(query, *part, causal, scale, mask, self._scratch)
