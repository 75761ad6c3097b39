"""Attention written out as products and a softmax: on any device, in any dtype, and the reference of other kernels."""

from __future__ import annotations

import torch

from engine.transformers.attention.kernels.base import Attended, Kernels

# Scores held at once, at most: 256 MB in float32.
_SCORES = 1 << 26


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """Attend by the definition, with float32 scores (float64 ones for float64 numbers)."""
    return _written_out(query, key, value, scale, None, causal)


def written_out_masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> Attended:
    """Attend by the definition with a mask."""
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
    """Multiply query [heads, new, head_dim] with key [kv_heads, keys, head_dim] as [heads, new, keys]."""
    grouped = query.reshape(key.shape[0], -1, *query.shape[1:])
    products = grouped @ key.unsqueeze(1).transpose(2, 3)
    wide = products if products.dtype == torch.float64 else products.float()
    return wide.view(query.shape[0], query.shape[1], -1)


WRITTEN_OUT = Kernels(written_out, written_out_masked)
