"""PyTorch's flash attention for CPUs, part by part."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.transformers.attention.kernels.base import Attended, Part


class Flash:
    """Attends to each part by itself and merges the results. Fits whatever a CPU can compute."""

    def fits(self, query: torch.Tensor, parts: Sequence[Part]) -> bool:
        return True

    def attend(
        self, query: torch.Tensor, parts: Sequence[Part], scale: float, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        *before, last = parts
        causal = mask is None and query.shape[2] > 1
        return merge(
            [*(flash(query, *part, scale) for part in before), flash(query, *last, scale, mask=mask, causal=causal)]
        )


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
) -> Attended:
    """Attend with query [1, heads, new, head_dim] to one part. ``causal`` needs as many keys as queries; ``mask`` is
    additive, [new, keys]."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=causal, attn_mask=None if mask is None else mask.to(query.dtype), scale=scale
    )
    return out, lse


def merge(results: Sequence[Attended]) -> torch.Tensor:
    """Join attention over disjoint sets of keys: each weighted by its share of the softmax's denominator."""
    if len(results) == 1:
        return results[0][0]
    shares = torch.softmax(torch.stack([lse for _, lse in results]), dim=0).unsqueeze(-1)
    merged = shares[0] * results[0][0]
    for share, (out, _) in zip(shares[1:], results[1:], strict=True):
        merged = torch.addcmul(merged, share.to(out.dtype), out)
    return merged.to(results[0][0].dtype)
