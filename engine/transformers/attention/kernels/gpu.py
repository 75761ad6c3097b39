"""PyTorch's kernels for GPUs, called by name so that each gives its log-sum-exp.

- ``flash``: float16 and bfloat16, without a mask. Causal from the lower right corner, so that one call covers a tail
  and the new tokens at its end. Heads share keys as they are.
- ``efficient`` (PyTorch's memory-efficient kernel): float32, and masks. It does not know of shared keys; but a batch of
  key heads, in each of which the keys have a head stride of zero, says the same without repeating them.
"""

from __future__ import annotations

import torch

from engine.transformers.attention.kernels.base import Attended

# The memory-efficient kernel's number for a causal mask from the lower right corner.
_LOWER_RIGHT = 2


def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """Attend by FlashAttention-2 (Dao, arXiv 2307.08691), split over the keys where the new tokens are few."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)
    return out, lse


def efficient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """Attend by memory-efficient attention (Rabe and Staats, arXiv 2112.05682) without a mask."""
    return _efficient(query, key, value, scale, None, _LOWER_RIGHT if causal else 0)


def efficient_masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> Attended:
    """Attend by memory-efficient attention with a mask, which is not repeated per head."""
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
