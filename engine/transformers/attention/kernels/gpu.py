"""Which attention kernels a device and dtype get, decided once at load.

PyTorch's chooser (``scaled_dot_product_attention``) is never asked on a GPU: since torch 2.10 it takes cuDNN's
attention first on an H100, which builds and keeps a graph for every exact length, and here each step has a new one.
Kernels are called by name instead, and each gives its log-sum-exp, so that spans are attended where they lie:

- ``flash``: float16 and bfloat16, without a mask. Causal from the lower right corner, so that one call covers a tail
  and the new tokens at its end. Heads share keys as they are.
- ``efficient`` (PyTorch's memory-efficient kernel): float32, and masks. It does not know of shared keys; but a batch of
  key heads, in each of which the keys have a head stride of zero, says the same without repeating them.
- ``spans.SpanTable``, where Triton is: one token of each of many sequences, over all their spans at once.
- ``written_out``: products and a softmax in blocks, on any device and in any dtype; also the reference of the others.

On a GPU each is compared with the reference at load, and what disagrees or fails is replaced by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

log = logging.getLogger(__name__)

Attended = tuple[torch.Tensor, torch.Tensor]
"""Attention [1, heads, new, head_dim] and the log-sum-exp of its scores, float32 [1, heads, new]."""
Plain = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, bool], Attended]
"""Of query [1, heads, new, head_dim], key and value [1, kv_heads, keys, head_dim], scale, causal. Causal: the last new
token sees all keys, each one before it one key less."""
Masked = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor], Attended]
"""The same with an additive mask [new, keys] in the query's dtype, whose rows begin at multiples of ``MASK_ALIGNMENT``
elements."""


class Table(Protocol):
    """Where the keys and values of sequences lie that compute one token each."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Write each token's key and value, [kv_heads, sequences, head_dim], to its slot, and give its attention over
        all there is of its sequence; query [1, heads, sequences, head_dim] to the same."""


Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a sequence, [layers, kv_heads, tokens, head_dim] each; the last ends with the new token's slot."""

MASK_ALIGNMENT = 16
# The memory-efficient kernel's number for a causal mask from the lower right corner.
_LOWER_RIGHT = 2
# So many scores are held at once by what is written out: 256 MB in float32.
_SCORES = 1 << 26
_FLASH_HEAD_DIMS = range(8, 257, 8)
_HALF = (torch.float16, torch.bfloat16)
# New tokens and keys that a kernel is tried with at load, and how far it may be off.
_TRIED = ((1, 333), (5, 77), (130, 130), (130, 700))
_CLOSE, _CLOSE_IN_HALF = 1e-4, 0.05


@dataclass(frozen=True)
class Kernels:
    """The attention of one device and dtype."""

    plain: Plain
    masked: Masked
    table: Callable[[Sequence[Pairs]], Table] | None = None


def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """FlashAttention-2 (Dao, arXiv 2307.08691), split over the keys where the new tokens are few."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)
    return out, lse


def efficient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """Memory-efficient attention (Rabe and Staats, arXiv 2112.05682) without a mask."""
    return _efficient(query, key, value, scale, None, _LOWER_RIGHT if causal else 0)


def efficient_masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> Attended:
    """Memory-efficient attention with a mask, which is not repeated per head."""
    return _efficient(query, key, value, scale, mask, 0)


def _efficient(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None, kind: int
) -> Attended:
    _, heads, new, width = query.shape
    kv_heads = key.shape[1]
    grouped = query.view(kv_heads, -1, new, width)
    group = grouped.shape[1]
    keys, values = (x[0].unsqueeze(1).expand(-1, group, -1, -1).transpose(1, 2) for x in (key, value))
    bias = None if mask is None else mask.expand(kv_heads, group, -1, -1)
    out, lse, *_ = torch.ops.aten._efficient_attention_forward(
        grouped.transpose(1, 2), keys, values, bias, None, None, None, None, 0.0, kind, True, scale=scale
    )
    return out.transpose(1, 2).reshape(1, heads, new, width), lse[:, :, :new].reshape(1, heads, new)


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """The definition, with float32 scores (float64 ones for float64 numbers)."""
    return _written_out(query, key, value, scale, None, causal)


def written_out_masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> Attended:
    """The definition with a mask."""
    return _written_out(query, key, value, scale, mask, False)


def _written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None, causal: bool
) -> Attended:
    heads, new, n_keys = query.shape[1], query.shape[2], key.shape[2]
    rows = max(1, _SCORES // (heads * n_keys))
    seen = torch.arange(n_keys, device=query.device) - (n_keys - new) if causal else None
    found = []
    for begin in range(0, new, rows):
        block = query[0, :, begin : begin + rows]
        scores = _scores(block, key[0]) * scale
        if mask is not None:
            scores += mask[begin : begin + rows]
        if seen is not None:
            own = torch.arange(begin, begin + block.shape[1], device=query.device)
            scores.masked_fill_(seen > own[:, None], float("-inf"))
        lse = scores.logsumexp(-1)
        weights = torch.exp_(scores.sub_(lse.unsqueeze(-1))).to(value.dtype)
        out = weights.view(key.shape[1], -1, *weights.shape[1:]) @ value[0].unsqueeze(1)
        found.append((out.view(block.shape), lse))
    return torch.cat([out for out, _ in found], 1)[None], torch.cat([lse for _, lse in found], 1)[None]


def _scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Products of query [heads, new, head_dim] with key [kv_heads, keys, head_dim] as [heads, new, keys]."""
    grouped = query.reshape(key.shape[0], -1, *query.shape[1:])
    products = grouped @ key.unsqueeze(1).transpose(2, 3)
    wide = products if products.dtype == torch.float64 else products.float()
    return wide.view(query.shape[0], query.shape[1], -1)


WRITTEN_OUT = Kernels(written_out, written_out_masked)
_chosen: dict[tuple[str, torch.dtype], Kernels] = {}


def kernels_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernels | None:
    """Give what fits by its kind; None on a CPU, whose attention is chosen elsewhere."""
    if device.type == "cpu":
        return None
    if dtype in _HALF and head_dim in _FLASH_HEAD_DIMS:
        return Kernels(flash, efficient_masked)
    return Kernels(efficient, efficient_masked)


def use(kernels: Kernels | None, device: torch.device, dtype: torch.dtype) -> None:
    """Have this process's attention on such devices in this dtype computed by ``kernels``; None: as it was."""
    if kernels is None:
        _chosen.pop((device.type, dtype), None)
    else:
        _chosen[device.type, dtype] = kernels


def chosen(query: torch.Tensor) -> Kernels | None:
    """Give the kernels for such numbers: those of :func:`use`, else those that fit by their kind."""
    found = _chosen.get((query.device.type, query.dtype))
    return kernels_for(query.device, query.dtype, query.shape[-1]) if found is None else found


def choose_at_load(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], *, compiled: bool = True
) -> None:
    """Settle the kernels of a device that is not a CPU, after a comparison there, and turn cuDNN's attention off for
    whoever else asks PyTorch's chooser in this process. ``heads``: how many, how many with keys of their own, and their
    width; ``compiled``: whether to have Triton's, where it is installed."""
    kernels = kernels_for(device, dtype, heads[2])
    if kernels is None:
        return
    kernels = tested(kernels, device, dtype, heads)
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
        if compiled and dtype in _HALF:
            kernels = replace(kernels, table=_tested_table(device, dtype, heads))
    use(kernels, device, dtype)


def _tested_table(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]
) -> Callable[[Sequence[Pairs]], Table] | None:
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
def tested(kernels: Kernels, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> Kernels:
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


def aligned_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give the additive mask, 0 or -inf, of bool ``visible`` [new, keys], with rows at multiples of
    ``MASK_ALIGNMENT``."""
    new, keys = visible.shape
    width = -(-keys // MASK_ALIGNMENT) * MASK_ALIGNMENT
    mask = torch.zeros(new, width, dtype=dtype, device=visible.device)[:, :keys]
    return mask.masked_fill_(~visible, float("-inf"))


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
    heads: tuple[int, int, int],
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
