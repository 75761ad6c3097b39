"""What kernels of attention take and give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Part = tuple[torch.Tensor, torch.Tensor]
"""Keys and values that lie together, [1, kv_heads, keys, head_dim] each."""


class Way(Protocol):
    """A way to attend to the parts of one sequence."""

    def fits(self, query: torch.Tensor, parts: Sequence[Part]) -> bool:
        """Say whether this can be computed here, and gains by it."""

    def attend(
        self, query: torch.Tensor, parts: Sequence[Part], scale: float, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend with query [1, heads, new, head_dim] to all parts; returns the query's shape.

        ``mask`` is of the last part's keys, additive, [new, keys]. Without one the last part is the new tokens' own,
        of which each sees those up to itself, or, of a single new token, whatever there is.
        """


Attended = tuple[torch.Tensor, torch.Tensor]
"""Attention [1, heads, new, head_dim] and the log-sum-exp of its scores, float32 [1, heads, new]."""
Plain = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, bool], Attended]
"""Of query [1, heads, new, head_dim], key and value [1, kv_heads, keys, head_dim], scale, causal. Causal: the last new
token sees all keys, each one before it one key less."""
Masked = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor], Attended]
"""The same with an additive mask [new, keys] in the query's dtype, whose rows begin at multiples of ``MASK_ALIGNMENT``
elements."""


class Table(Protocol):
    """A table of the places where the keys and values of sequences lie that compute one token each."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Write each token's key and value, [kv_heads, sequences, head_dim], to its slot, and give its attention over
        all there is of its sequence; query [1, heads, sequences, head_dim] to the same."""


Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a sequence, [layers, kv_heads, tokens, head_dim] each; the last ends with the new token's slot."""

MakeTable = Callable[[Sequence[Pairs]], Table]
MASK_ALIGNMENT = 16


@dataclass(frozen=True)
class Kernels:
    """The attention of one device and dtype."""

    plain: Plain
    masked: Masked
    table: MakeTable | None = None


def aligned_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give the additive mask, 0 or -inf, of bool ``visible`` [new, keys], with rows at multiples of
    ``MASK_ALIGNMENT``."""
    new, keys = visible.shape
    width = -(-keys // MASK_ALIGNMENT) * MASK_ALIGNMENT
    mask = torch.zeros(new, width, dtype=dtype, device=visible.device)[:, :keys]
    return mask.masked_fill_(~visible, float("-inf"))
