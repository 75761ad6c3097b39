"""Decoder layers of Llama's shape with fewer, larger steps, for GPUs.

A GPU that computes a few tokens waits for launches: a layer of transformers is 40 to 60 of them, each behind a call
from Python. Here q, k and v are one product, gate and up another; a norm is one kernel; q and k are normed and turned
together; what attention and the perceptron give is added to the residual by the products that make it. The numbers are
the same up to rounding, and each layer is compared with the one that it stands in for before it does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from engine.transformers.attention.ragged import RaggedBatch
from engine.transformers.layers.fused import in_halves, replace_layers


class _Linear:
    """One or several linear layers over the same numbers, one product."""

    def __init__(self, *linears: Any) -> None:
        biases = [linear.bias for linear in linears]
        self.weight = torch.cat([linear.weight.detach() for linear in linears])
        self.bias: torch.Tensor | None = None
        if any(bias is not None for bias in biases):
            made = [
                linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
                for linear in linears
            ]
            self.bias = torch.cat(made)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Take [tokens, in] to [tokens, out]."""
        return F.linear(x, self.weight, self.bias)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add what it gives of ``x`` to ``residual`` [tokens, out], in place."""
        if self.bias is not None:
            return residual.add_(self(x))
        return residual.addmm_(x, self.weight.t())


class JoinedLayer(nn.Module):
    """Stands in for a decoder layer that :func:`~engine.transformers.layers.fused.can_fuse` has found fit, and calls
    the same attention. The input is written over: transformers' models do not use it again.

    ``is_last``: what it gives is used for logits only.
    """

    def __init__(self, layer: Any, is_last: bool = False) -> None:
        super().__init__()
        self._is_last = is_last
        attention, mlp = layer.self_attn, layer.mlp
        self.self_attn = attention  # what attention functions ask for: layer_idx, is_causal and the like
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self._head_dim = attention.head_dim
        self._heads = attention.q_proj.out_features // attention.head_dim
        self._kv_heads = attention.k_proj.out_features // attention.head_dim
        self._qkv = _Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = _Linear(attention.o_proj)
        self._gate_up = _Linear(mlp.gate_proj, mlp.up_proj)
        self._down = _Linear(mlp.down_proj)
        self._head_norm: torch.Tensor | None = None
        if hasattr(attention, "q_norm"):
            self._head_norm_eps = float(attention.q_norm.variance_epsilon)
            weights = [attention.q_norm.weight.detach()] * self._heads
            weights += [attention.k_norm.weight.detach()] * self._kv_heads
            self._head_norm = torch.stack(weights)
        if hasattr(layer, "attention_type"):
            self.attention_type = layer.attention_type

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Take [1, tokens, width] to the same shape. ``kwargs`` go to the attention function."""
        if hidden_states.shape[0] != 1:
            raise ValueError("sequences stand side by side in one row, not below each other")
        attended = self._attend(hidden_states, position_embeddings, attention_mask, kwargs)
        residual = hidden_states[0]
        ragged: RaggedBatch | None = kwargs.get("ragged")
        if not self._is_last or ragged is None or ragged.wanted is None or len(ragged.wanted) == len(residual):
            return self._after_attention(attended, residual)[None]
        if len(ragged.wanted):
            residual[ragged.wanted] = self._after_attention(attended[ragged.wanted], residual[ragged.wanted])
        return hidden_states

    def _after_attention(self, attended: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Change [tokens, width] in place."""
        residual = self._out.add_to(residual, attended)
        gate, up = torch.chunk(self._gate_up(_normed(residual, self.post_attention_layernorm)), 2, dim=-1)
        return self._down.add_to(residual, F.silu(gate).mul_(up))

    def _attend(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        attention, tokens = self.self_attn, hidden_states.shape[1]
        heads = self._qkv(_normed(hidden_states[0], self.input_layernorm)).view(tokens, -1, self._head_dim)
        turning, value = heads[:, : self._heads + self._kv_heads], heads[:, self._heads + self._kv_heads :]
        if self._head_norm is not None:
            turning = F.rms_norm(turning, (self._head_dim,), None, self._head_norm_eps).mul_(self._head_norm)
        cos, sin = position_embeddings
        turned = in_halves(turning, cos[0].unsqueeze(1), sin[0].unsqueeze(1))
        query, key, value = (
            part.transpose(0, 1)[None] for part in (turned[:, : self._heads], turned[:, self._heads :], value)
        )
        function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, None)
        out, _ = function(
            attention, query, key, value, attention_mask, dropout=0.0, scaling=attention.scaling, **kwargs
        )
        attended: torch.Tensor = out.reshape(tokens, -1)
        return attended


def _normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """Normalise by the root mean square (Zhang and Sennrich, arXiv 1910.07467)."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def join_layers(network: Any) -> int:
    """Replace the decoder layers that can be; returns how many. The original weights are freed, layer by layer."""
    return replace_layers(network, JoinedLayer)
