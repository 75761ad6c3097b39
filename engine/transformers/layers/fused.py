"""Decoder layers of Llama's shape with their small steps joined, for the CPU in float32.

A pass of a few dozen tokens through a small model is as much small steps as matrix products. So q, k and v are one
product, and so are their rotations; the activation, the product with it and the residual sums are done by oneDNN at
the end of the matrix products that they follow; the norms' weights are part of the weights that they precede. The
numbers are the same up to rounding, and each layer is compared with the one that it stands in for before it does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from engine.transformers.attention.interface import plain_attention
from engine.transformers.attention.ragged import RaggedBatch
from engine.transformers.layers.packing import packed, product

log = logging.getLogger(__name__)

# How far a stand-in may be off, as a share of what the layer changes.
_CLOSE, _CLOSE_IN_HALF = 1e-4, 0.05
_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class _Norm:
    """Root mean square norm (Zhang and Sennrich, arXiv 1910.07467) without its weight."""

    def __init__(self, norm: nn.Module) -> None:
        weight, eps = norm.weight, norm.variance_epsilon
        assert isinstance(weight, torch.Tensor)
        self.weight = weight.detach()
        self._eps = torch.full((1,), float(eps))  # type: ignore[arg-type]
        self._share = 1.0 / weight.numel()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise float32 [..., width]."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self._eps, length, length, value=self._share).rsqrt_()


class FusedLayer(nn.Module):
    """Stands in for a decoder layer that :func:`can_fuse` has found fit, and calls the same attention.

    ``is_last``: what it gives is used for logits only.
    """

    def __init__(self, layer: Any, is_last: bool = False) -> None:
        super().__init__()
        self._is_last = is_last
        attention, mlp = layer.self_attn, layer.mlp
        self.self_attn = attention  # what attention functions ask for: layer_idx, is_causal and the like
        self._before_attention, self._before_mlp = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self._head_norms = [_Norm(attention.q_norm), _Norm(attention.k_norm)] if hasattr(attention, "q_norm") else []
        self._head_dim = attention.head_dim
        self._heads = attention.q_proj.out_features // attention.head_dim
        self._kv_heads = attention.k_proj.out_features // attention.head_dim
        inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
        self._qkv = packed(inputs, self._before_attention.weight)
        self._out = packed([attention.o_proj])
        self._gate = packed([mlp.gate_proj], self._before_mlp.weight)
        self._up = packed([mlp.up_proj], self._before_mlp.weight)
        self._down = packed([mlp.down_proj])
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
        """Take float32 [1, tokens, width] to the same shape. ``kwargs`` go to the attention function."""
        attended = self._attend(hidden_states, position_embeddings, attention_mask, kwargs)
        ragged: RaggedBatch | None = kwargs.get("ragged")
        if not self._is_last or ragged is None or ragged.wanted is None or len(ragged.wanted) == hidden_states.shape[1]:
            return self._after_attention(attended, hidden_states)
        found = torch.zeros_like(hidden_states)
        if len(ragged.wanted):
            found[:, ragged.wanted] = self._after_attention(attended[:, ragged.wanted], hidden_states[:, ragged.wanted])
        return found

    def _after_attention(self, attended: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = product(attended, self._out, plus=hidden_states)
        normed = self._before_mlp(hidden_states)
        gate = product(normed, self._gate, activation="swish")
        return product(product(normed, self._up, times=gate), self._down, plus=hidden_states)

    def _attend(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        attention = self.self_attn
        batch, tokens, _ = hidden_states.shape
        heads = product(self._before_attention(hidden_states), self._qkv)
        heads = heads.view(batch, tokens, -1, self._head_dim).transpose(1, 2)
        turning, value = heads[:, : self._heads + self._kv_heads], heads[:, self._heads + self._kv_heads :]
        for norm, part in zip(self._head_norms, (slice(None, self._heads), slice(self._heads, None)), strict=False):
            turning[:, part] = norm(turning[:, part]) * norm.weight
        turned = in_halves(turning, *(part.unsqueeze(1) for part in position_embeddings))
        function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, None)
        out, _ = function(
            attention,
            turned[:, : self._heads],
            turned[:, self._heads :],
            value,
            attention_mask,
            dropout=0.0,
            scaling=attention.scaling,
            **kwargs,
        )
        attended: torch.Tensor = out.reshape(batch, tokens, -1)
        return attended


def in_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [..., head_dim] by the rotary embedding in halves (Su et al., arXiv 2104.09864); cos and sin broadcast to
    it."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def can_fuse(layer: Any) -> bool:
    """Say whether the layer has the parts of Llama's, and no others."""
    if {name for name, _ in layer.named_children()} != _CHILDREN:
        return False
    attention = {name for name, _ in layer.self_attn.named_children()}
    mlp = {name for name, _ in layer.mlp.named_children()}
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [layer.self_attn.q_norm, layer.self_attn.k_norm] if "q_norm" in attention else []
    linears = [getattr(layer.self_attn, name, None) for name in ATTENTION]
    linears += [getattr(layer.mlp, name, None) for name in _MLP - {"act_fn"}]
    return (
        attention in (ATTENTION, ATTENTION | {"q_norm", "k_norm"})
        and mlp == _MLP
        and "silu" in type(layer.mlp.act_fn).__name__.lower()
        and all(type(linear) is nn.Linear for linear in linears)
        and all(hasattr(norm, "variance_epsilon") and norm.weight.ndim == 1 for norm in norms)
    )


def fuse_layers(network: Any) -> int:
    """Replace the decoder layers that can be; returns how many. The original weights are freed, layer by layer."""
    return replace_layers(network, FusedLayer)


@torch.inference_mode()
def replace_layers(network: Any, stand_in: Callable[[Any, bool], nn.Module]) -> int:
    """Put ``stand_in(layer, is_last)`` in the place of each decoder layer that :func:`can_fuse` finds fit and that it
    agrees with; returns how many. The original weights are freed, layer by layer."""
    layers: Any = getattr(getattr(network, "model", None), "layers", ())
    n = 0
    with plain_attention(network):
        for i, layer in enumerate(layers):
            if not can_fuse(layer):
                continue
            made = stand_in(layer, i == len(layers) - 1)
            if not _agrees(network.model.rotary_emb, layer, made):
                log.warning("layer %d is not what its parts look like: it is left as it is", i)
                continue
            for name in ATTENTION:
                delattr(layer.self_attn, name)
            layers[i] = made
            n += 1
    return n


def _agrees(rotary: Any, layer: Any, made: nn.Module) -> bool:
    """Compare both layers on the same numbers. Either may write over its input."""
    weight = layer.self_attn.q_proj.weight
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 6, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    positions = torch.arange(3, 9, device=weight.device)[None]
    options = {"position_embeddings": rotary(hidden, positions), "attention_mask": None}
    theirs, ours = layer(hidden.clone(), **options), made(hidden.clone(), **options)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    change = (theirs - hidden).abs().max()
    close = _CLOSE if weight.dtype == torch.float32 else _CLOSE_IN_HALF
    return bool((ours - theirs).abs().max() <= close * change)
