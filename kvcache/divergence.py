"""The divergence of one model output from another."""

from __future__ import annotations

import torch


def divergence(exact: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Return the mean KL(exact || other) in nats and the share of rows with the same likeliest token, of two tensors of
    logits [rows, vocabulary]. Raises ``ValueError`` when they are not of the same rows: one row would be compared with
    each of many without a word."""
    if exact.shape != other.shape:
        raise ValueError(f"logits of {tuple(exact.shape)} and {tuple(other.shape)} are not of the same tokens")
    p, q = torch.log_softmax(exact.double(), -1), torch.log_softmax(other.double(), -1)
    kl = (p.exp() * (p - q)).sum(-1).clamp_min(0.0)
    return kl.mean().item(), (p.argmax(-1) == q.argmax(-1)).double().mean().item()
