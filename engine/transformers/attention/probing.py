"""What passes find out for strategies of repair; see ``kvcache.repair``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch

from engine.transformers.attention.kernels.base import Part
from engine.transformers.attention.ragged import Chunk, NewTokens, Probe, ShallowPassDone, Slots
from engine.transformers.attention.sequence_kv import SequenceKV
from kvcache.repair import Comparison, Weighing


def end_if_compared(probe: Probe, slots: Slots, new: NewTokens, tail: Part) -> None:
    """Note what a comparison gives of new keys and values and of those in their slots of the tail, and end the pass, in
    the layer that it is about. To be called before the slots are written to."""
    if isinstance(probe.wanted, Comparison) and new.layer == probe.wanted.layer:
        _end(probe, probe.wanted, slots, new, tail)


def _end(probe: Probe, comparison: Comparison, slots: Slots, new: NewTokens, tail: Part) -> NoReturn:
    old_keys, old_values = (half[:, slots.index] for half in tail)
    probe.add(comparison.of(new.key, old_keys) + comparison.of(new.value, old_values))
    raise ShallowPassDone


def weighing_of(chunk: Chunk) -> Weighing | None:
    """Return what is to be made of the weights of this sequence's attention, if anything."""
    return chunk.probe.wanted if chunk.probe is not None and isinstance(chunk.probe.wanted, Weighing) else None


def attend_weighed(chunk: Chunk, weighing: Weighing, new: NewTokens) -> torch.Tensor:
    """Attend to what has been written, and note how much of it each slot of the tail gets."""
    assert chunk.slots is not None, "what is weighed lies in slots"
    assert chunk.probe is not None, "somebody wants to know"
    slots = chunk.slots
    out, weights = weighed(new.query, parts_up_to(chunk.kv, new.layer, slots.seen), slots.mask, new.scale)
    chunk.probe.add(weighing.of(weights[..., -slots.seen :]))
    return out


def parts_up_to(kv: SequenceKV, layer: int, seen: int) -> list[Part]:
    """Return one layer's keys and values of the spans, and last of the tail's first ``seen`` slots."""
    keys, values = kv.layer(layer)
    spans = [(span.keys[layer][None], span.values[layer][None]) for span in kv.spans]
    return [*spans, (keys[None, :, :seen], values[None, :, :seen])]


def weighed(
    query: torch.Tensor, parts: Sequence[Part], mask: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend by the definition; returns the attention and its weights, float32 [kv_heads, heads / kv_heads, new, keys].
    ``mask`` is of the last part."""
    _, heads, new, width = query.shape
    keys = torch.cat([key for key, _ in parts], dim=2)[0]
    values = torch.cat([value for _, value in parts], dim=2)[0]
    grouped = query.view(keys.shape[0], -1, new, width)
    scores = (grouped @ keys[:, None].transpose(2, 3)).float() * scale
    scores[..., -mask.shape[1] :] += mask
    weights = scores.softmax(-1)
    out = weights.to(values.dtype) @ values[:, None]
    return out.view(1, heads, new, width), weights
