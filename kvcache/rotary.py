"""Moving keys to other positions.

Rotary embedding (Su et al., arXiv 2104.09864) turns pairs of a key's channels by an angle of position x frequency.
Turning a key that was computed at position p by a further d x frequency gives the key at p + d, exactly: attention
sees differences of positions only, so every layer's keys of a run of tokens move alike, and values do not move at
all. Scalings (linear, llama3, yarn) change the frequencies; yarn's factor on cosine and sine is in the stored keys
already and must not be applied again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kvcache.errors import UnsupportedRotation


@dataclass(frozen=True, eq=False)
class Rotation:
    """The rotary embedding of one model.

    ``inv_freq`` is float64 on the CPU, [layers or 1, rotary_dim / 2]: radians a position. Channels beyond
    rotary_dim are not rotated. ``interleaved`` pairs channel 2i with 2i + 1, otherwise i with i + rotary_dim / 2.
    """

    inv_freq: torch.Tensor
    interleaved: bool = False

    @property
    def rotary_dim(self) -> int:
        return 2 * self.inv_freq.shape[-1]

    def turned(self, keys: torch.Tensor, offset: int | torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return keys [layers, kv_heads, tokens, head_dim] moved by ``offset`` positions, all layers in one operation.

        ``offset`` is one distance for all tokens or an integer tensor [tokens]; negative moves to the left. Computed
        in float32 and rounded to the dtype of ``out`` (default: a new tensor like ``keys``), which must not overlap
        ``keys``.
        """
        cos, sin = self._angles(offset, keys.device)
        if out is None:
            out = torch.empty_like(keys, memory_format=torch.contiguous_format)
        rotary = self.rotary_dim
        first, second = self._pairs(keys[..., :rotary].float())
        # Straight into the destination where that is float32: temporaries cost several times the arithmetic.
        work = out if out.dtype == torch.float32 else torch.empty(out.shape, device=out.device)
        into_first, into_second = self._pairs(work[..., :rotary])
        torch.mul(first, cos, out=into_first)
        into_first.addcmul_(second, sin, value=-1.0)
        torch.mul(second, cos, out=into_second)
        into_second.addcmul_(first, sin)
        if work is not out:
            out[..., :rotary] = work[..., :rotary]
        if rotary < keys.shape[-1]:
            out[..., rotary:] = keys[..., rotary:]
        return out

    def _pairs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.interleaved:
            return x[..., 0::2], x[..., 1::2]
        half = self.rotary_dim // 2
        return x[..., :half], x[..., half:]

    def _angles(self, offset: int | torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine, float32 [layers or 1, 1, tokens or 1, rotary_dim / 2]. Angles are taken in float64: a
        far move has many turns, and float32 would lose what is left of the last one."""
        steps = torch.as_tensor(offset, dtype=torch.float64).reshape(-1).cpu()
        angles = steps[None, None, :, None] * self.inv_freq[:, None, None, :]
        return angles.cos().to(device, torch.float32), angles.sin().to(device, torch.float32)


def rotation_of(model: Any) -> Rotation:
    """Return the rotation of a transformers causal language model, its frequencies read from the model's own module.

    Models whose layers turn at different rates by kind (Gemma 3) have one row of frequencies a layer. How channels
    are paired cannot be read off: callers check it (see ``engine.transformers.loading``). Raises
    ``UnsupportedRotation`` where there is no rotary module.
    """
    rotary = next((m for name, m in model.named_modules() if name.rpartition(".")[2] == "rotary_emb"), None)
    if rotary is None:
        raise UnsupportedRotation(f"{type(model).__name__} has no rotary embedding; its keys cannot be moved")
    shared = getattr(rotary, "inv_freq", None)
    if shared is not None:
        return Rotation(shared.detach().double().cpu()[None])
    kinds = getattr(model.config, "layer_types", None) or ()
    rows = [row for kind in kinds if (row := getattr(rotary, f"{kind}_inv_freq", None)) is not None]
    if not rows or len(rows) != len(kinds) or any(row.shape != rows[0].shape for row in rows):
        raise UnsupportedRotation(f"{type(model).__name__} has rotary frequencies of a kind not known here")
    return Rotation(torch.stack([row.detach().double().cpu() for row in rows]))
