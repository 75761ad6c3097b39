"""Which kernels compute a model's attention, decided once when it is loaded.

A CPU has an ordered list of ways, of which the first that fits computes; what is slower than the next, wrong, or cannot
be had on this machine is not in the list.

PyTorch's chooser (``scaled_dot_product_attention``) is never asked on a GPU: since torch 2.10 it takes cuDNN's
attention first on an H100, which builds and keeps a graph for every exact length, and here each step has a new one.
Kernels are called by name instead, and each gives its log-sum-exp, so that spans are attended where they lie. Each is
compared with what is written out at load, and what disagrees or fails is replaced by it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from engine.transformers.attention.kernels import onednn
from engine.transformers.attention.kernels.base import Attended, Kernels, MakeTable, Way, aligned_mask
from engine.transformers.attention.kernels.flash import Flash
from engine.transformers.attention.kernels.gpu import efficient, efficient_masked, flash
from engine.transformers.attention.kernels.native import NativeAttention, example, native_attention
from engine.transformers.attention.kernels.written_out import written_out, written_out_masked
from engine.transformers.attention.one_by_one import OneByOne
from engine.transformers.attention.ragged import Attention, NewTokens, RaggedBatch
from engine.transformers.attention.side_by_side import SideBySide

log = logging.getLogger(__name__)

Heads = tuple[int, int, int]
"""How many, how many with keys of their own, and their width."""
# The kernel is used unless it takes this many times as long as PyTorch.
_SLOWER = 1.05
_TRIES = 5
_FLASH_HEAD_DIMS = range(8, 257, 8)
_HALF = (torch.float16, torch.bfloat16)
# New tokens and keys that a kernel is tried with at load, and how far it may be off.
_TRIED = ((1, 333), (5, 77), (130, 130), (130, 700))
_CLOSE, _CLOSE_IN_HALF = 1e-4, 0.05
_ATTRIBUTE = "recallkv_attention"


# -- of a model ------------------------------------------------------------------------------------------------


def use(network: Any, attention: Attention | None) -> None:
    """Have the passes through a network compute their attention so; None: by what fits its numbers."""
    setattr(network, _ATTRIBUTE, attention)


def attention_of(network: Any) -> Attention:
    """Return the attention that :func:`use` was told of, else what fits by its kind."""
    chosen: Attention | None = getattr(network, _ATTRIBUTE, None)
    return _BY_KIND if chosen is None else chosen


class ByKind:
    """The attention of networks that none was chosen for: what fits the numbers that come, tried by nobody."""

    table: MakeTable | None = None

    def attend(self, batch: RaggedBatch, new: NewTokens) -> torch.Tensor:
        query = new.query
        return by_kind(query.device, query.dtype, query.shape[-1]).attend(batch, new)


_BY_KIND = ByKind()


@functools.cache
def by_kind(device: torch.device, dtype: torch.dtype, head_dim: int) -> Attention:
    """Return the attention that fits numbers of this kind on this device."""
    return for_cpu() if device.type == "cpu" else SideBySide(kernels_for(device, dtype, head_dim))


# -- of a CPU --------------------------------------------------------------------------------------------------


def for_cpu(compiled: NativeAttention | None = None) -> OneByOne:
    """Give a CPU's ways, the quickest first: what was compiled for it, if anything, then PyTorch's."""
    found: list[Way | None] = [compiled, onednn.OneDnn() if onednn.usable() else None, Flash()]
    return OneByOne([way for way in found if way is not None])


@functools.cache
def quick_native() -> NativeAttention | str:
    """Return the compiled kernel where it is no slower than PyTorch's attention as it is used here, else the reason why
    there is none. Found out once per process."""
    kernel = native_attention()
    if isinstance(kernel, str):
        return kernel
    return kernel if _is_quick(kernel) else "PyTorch's is quicker here than what was compiled"


@torch.inference_mode()
def _is_quick(kernel: NativeAttention) -> bool:
    own = theirs = 0.0
    for new, past in ((64, 1024), (256, 256)):
        query, parts = example(new, (past,))
        other = next(way for way in for_cpu().ways if way.fits(query, parts))
        times = [
            (_took(partial(kernel.attend, query, parts, 0.1)), _took(partial(other.attend, query, parts, 0.1)))
            for _ in range(_TRIES)
        ]
        own, theirs = own + min(time for time, _ in times), theirs + min(time for _, time in times)
    return own < _SLOWER * theirs


def _took(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


# -- of other devices ------------------------------------------------------------------------------------------


def kernels_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernels:
    """Give what fits a device other than the CPU by its kind."""
    if dtype in _HALF and head_dim in _FLASH_HEAD_DIMS:
        return Kernels(flash, efficient_masked)
    return Kernels(efficient, efficient_masked)


def for_device(device: torch.device, dtype: torch.dtype, heads: Heads, *, compiled: bool = True) -> SideBySide:
    """Settle the kernels of a device that is not a CPU, after a comparison there, and turn cuDNN's attention off for
    whoever else asks PyTorch's chooser in this process. ``compiled``: whether to have Triton's, where it is
    installed."""
    kernels = tested(kernels_for(device, dtype, heads[2]), device, dtype, heads)
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
        if compiled and dtype in _HALF:
            kernels = replace(kernels, table=_tested_table(device, dtype, heads))
    return SideBySide(kernels)


def _tested_table(device: torch.device, dtype: torch.dtype, heads: Heads) -> MakeTable | None:
    try:
        from engine.transformers.attention.kernels import spans
    except ImportError:
        log.warning("Triton is not installed: sequences are attended to one by one")
        return None
    problem = spans.problem(device, dtype, heads)
    if problem is not None:
        log.warning("Triton's kernels are not used, sequences are attended to one by one: %s", problem)
        return None
    return spans.SpanTable


@torch.inference_mode()
def tested(kernels: Kernels, device: torch.device, dtype: torch.dtype, heads: Heads) -> Kernels:
    """Give ``kernels`` with what is wrong on this device replaced by what is written out. ``heads``: how many, how many
    with keys of their own, and their width."""
    plain, masked = kernels.plain, kernels.masked

    def seeing_all(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> Attended:
        return plain(query, key, value, scale, False)

    def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> Attended:
        return plain(query, key, value, scale, True)

    def scattered(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> Attended:
        return masked(query, key, value, scale, aligned_mask(_visible(query, key, 3), query.dtype))

    problems = [_problem(call, apart, device, dtype, heads) for call, apart in ((seeing_all, 0), (causal, 1))]
    if any(problems):
        log.warning("attention without a mask is by plain products here: %s", next(filter(None, problems)))
        kernels = replace(kernels, plain=written_out)
    if problem := _problem(scattered, 3, device, dtype, heads):
        log.warning("attention with a mask is by plain products here: %s", problem)
        kernels = replace(kernels, masked=written_out_masked)
    return kernels


def _visible(query: torch.Tensor, key: torch.Tensor, apart: int) -> torch.Tensor:
    """Say what tokens ``apart`` positions from each other see, when the last one sees all (0: all do); bool
    [new, keys]."""
    new, keys = query.shape[2], key.shape[2]
    own = (torch.arange(new, device=query.device) - (new - 1)) * apart + keys - 1
    return torch.arange(keys, device=query.device) <= own.clamp_min(0)[:, None]


def _problem(
    kernel: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], Attended],
    apart: int,
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
) -> str | None:
    """Say in what a kernel differs from the definition in float64, over views of longer buffers as it is used; None
    where it does not. ``apart``: see :func:`_visible`."""
    n_heads, kv_heads, head_dim = heads
    generator = torch.Generator().manual_seed(0)
    scale = head_dim**-0.5
    for new, keys in _TRIED:
        query = torch.randn(1, new, n_heads, head_dim, generator=generator).to(device, dtype).transpose(1, 2)
        buffers = torch.randn(2, 1, kv_heads, 768, head_dim, generator=generator).to(device, dtype)
        key, value = buffers[:, :, :, :keys]
        mask = aligned_mask(_visible(query, key, apart), torch.float64)
        expected = written_out_masked(query.double(), key.double(), value.double(), scale, mask)
        try:
            found = kernel(query, key, value, scale)
            off = max((a.double() - b).abs().max().item() for a, b in zip(found, expected, strict=True))
        except RuntimeError as error:
            return str(error).splitlines()[0]
        if not off <= (_CLOSE if dtype == torch.float32 else _CLOSE_IN_HALF):
            return f"error {off:.2g} with {new} tokens over {keys} keys"
    return None
