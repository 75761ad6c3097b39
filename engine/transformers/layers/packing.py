"""Linear layers with their weights packed for the CPU's matrix units.

``torch.nn.functional.linear`` in float32 goes through a general matrix product that lays the weights out anew for
every call. oneDNN takes them in its own layout, laid out once: on 2 cores with AVX-512 that is 2 to 4 times as fast
at every batch size (docs/architecture.md has the figures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights in oneDNN's layout, and the bias."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@torch.no_grad()
def packed(linears: Sequence[nn.Linear], scale: torch.Tensor | None = None) -> Packed:
    """Pack layers with the same input as one, their outputs one after the other. ``scale``, float32 [in_features],
    multiplies the input beforehand."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    if scale is not None:
        weight = weight * scale
    biases = [torch.zeros(linear.out_features) if linear.bias is None else linear.bias.data for linear in linears]
    has_bias = any(linear.bias is not None for linear in linears)
    return Packed(torch.ops.mkldnn._reorder_linear_weight(weight), torch.cat(biases) if has_bias else None)


def product(
    inputs: torch.Tensor,
    layer: Packed,
    *,
    activation: str = "none",
    times: torch.Tensor | None = None,
    plus: torch.Tensor | None = None,
) -> torch.Tensor:
    """Take float32 [..., in_features] to [..., out_features], with one of these done to it on the way out:
    ``activation`` (a name of oneDNN's), a product with ``times``, a sum with ``plus``."""
    other = times if plus is None else plus
    out: torch.Tensor
    if other is None:
        out = torch.ops.mkldnn._linear_pointwise(inputs, layer.weight, layer.bias, activation, [], "")
    else:
        kind = "mul" if plus is None else "add"
        out = torch.ops.mkldnn._linear_pointwise.binary(inputs, other, layer.weight, layer.bias, kind)
    return out


class PackedLinear(nn.Module):
    """Stands in for an ``nn.Linear`` on the CPU in float32, with the same result up to rounding."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._packed = packed([linear])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Take float32 [..., in_features] to [..., out_features]."""
        return product(inputs, self._packed)


def can_pack(network: nn.Module) -> bool:
    """Say whether the network's linear layers gain from packing here."""
    first = next(network.parameters())
    return (
        first.device.type == "cpu"
        and first.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


@torch.no_grad()
def pack_linears(network: nn.Module) -> int:
    """Replace every plain linear layer below ``network``; returns how many. The original weights are freed, but
    for those shared with the embedding."""
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))
    return len(found)
