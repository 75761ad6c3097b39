"""transformers' attention interface: where its models' layers hand over to this engine's attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

from engine.errors import UnsupportedModel
from engine.transformers.attention.ragged import Interrupted, NewTokens, RaggedBatch

NAME = "recallkv"


def ragged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    ragged: RaggedBatch | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' attention interface has it. query [1, heads, total, head_dim], key and value [1,
    kv_heads, total, head_dim], keys already rotated; returns [1, total, heads, head_dim]. Appends to each sequence's
    tail."""
    if ragged is None or attention_mask is not None:
        raise UnsupportedModel("this model does not pass the batch on to its attention")
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModel(f"attention with {name} is not supported")
    if ragged.interrupt is not None and ragged.interrupt():
        raise Interrupted
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    new = NewTokens(module.layer_idx, query, key[0], value[0], scale)
    return ragged.attention.attend(ragged, new), None


@contextmanager
def plain_attention(network: Any) -> Iterator[None]:
    """Have a network use transformers' own attention within the block, to compare with."""
    before = network.config._attn_implementation
    network.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def register() -> None:
    """Make the attention known to transformers as ``recallkv``. No mask function: the batch says it all."""
    AttentionInterface.register(NAME, ragged_attention)
