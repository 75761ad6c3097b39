"""Attention of a GPU: of all sequences of a pass, with as few launches as there can be."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.transformers.attention.kernels.base import Attended, Kernels, MakeTable
from engine.transformers.attention.probing import attend_weighed, end_if_compared, weighing_of
from engine.transformers.attention.ragged import Chunk, NewTokens, RaggedBatch, Rows


class SideBySide:
    """Computes by kernels that give their log-sum-exp: of each sequence over its tail, which ends with the new tokens,
    then over each span of all rows that see it. No keys or values are copied but the new ones."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels

    @property
    def table(self) -> MakeTable | None:
        return self.kernels.table

    def attend(self, batch: RaggedBatch, new: NewTokens) -> torch.Tensor:
        several, singles = batch.parted
        found = []
        if several.chunks:
            found.append(self._several(several, new).transpose(1, 2))
        if singles is not None:
            layer, query, key, value, scale = new.rows(slice(singles.begin, None))
            found.append(singles.table.attend(layer, query, key, value, scale).transpose(1, 2))
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def _several(self, batch: RaggedBatch, new: NewTokens) -> torch.Tensor:
        """Attend to tails, then to spans; returns [1, heads, total, head_dim]."""
        first = batch.chunks[0]
        if first.slots is not None and (weighing := weighing_of(first)) is not None:  # alone in its pass
            first.kv.write(new.layer, first.slots.index, new.key, new.value)
            return attend_weighed(first, weighing, new)
        out, lse = _side_by_side([self._tail(chunk, new) for chunk in batch.chunks])
        if not batch.rounds:
            return out
        merged, layer = out.float(), new.layer
        for left, spans in enumerate(batch.rounds, 1 - len(batch.rounds)):
            parts = [
                self.kernels.plain(
                    new.query[:, :, rows], span.keys[layer][None], span.values[layer][None], new.scale, False
                )
                for span, rows in spans.spans
            ]
            merge_into(merged, lse, spans.rows, _side_by_side(parts), is_last=left == 0)
        return merged.to(new.query.dtype)

    def _tail(self, chunk: Chunk, new: NewTokens) -> Attended:
        """Write a sequence's new keys and values, and attend to all of its tail that is there."""
        kv, slots = chunk.kv, chunk.slots
        layer, query, key, value, scale = new = new.rows(slice(chunk.begin, chunk.end))
        tail = kv.layer(layer)
        if slots is None:
            seen = kv.tail_tokens + query.shape[2]
            kv.write(layer, slice(kv.tail_tokens, seen), key, value)
        else:
            if chunk.probe is not None:
                end_if_compared(chunk.probe, slots, new, tail)
            seen = slots.seen
            kv.write(layer, slots.index, key, value)
        keys, values = (part[None, :, :seen] for part in tail)
        if slots is None or slots.is_run:
            return self.kernels.plain(query, keys, values, scale, query.shape[2] > 1)
        return self.kernels.masked(query, keys, values, scale, slots.aligned_mask.to(query.dtype))


def _side_by_side(parts: Sequence[Attended]) -> Attended:
    """Join results of different rows."""
    if len(parts) == 1:
        return parts[0]
    out, lse = (torch.cat(tensors, 2) for tensors in zip(*parts, strict=True))
    return out, lse


def merge_into(
    merged: torch.Tensor,
    lse: torch.Tensor,
    rows: Rows,
    part: Attended,
    is_last: bool = False,
) -> None:
    """Join attention over further keys into ``merged``, float32 [1, heads, total, head_dim], and ``lse`` [1, heads,
    total], in the rows that it is of: the same as :func:`~engine.transformers.attention.kernels.flash.merge`, a part at
    a time. After the last one ``lse`` is not kept up."""
    further, own = part[1], lse[:, :, rows]
    out = merged[:, :, rows].lerp_(part[0].float(), torch.sigmoid(further - own).unsqueeze(-1))
    if isinstance(rows, torch.Tensor):  # of a slice it was a view
        merged[:, :, rows] = out
    if not is_last:
        lse[:, :, rows] = torch.logaddexp(own, further)
