"""Attention of a CPU: one sequence after the other, over all of its parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.transformers.attention.kernels.base import MakeTable, Part, Way
from engine.transformers.attention.probing import attend_weighed, end_if_compared, parts_up_to, weighing_of
from engine.transformers.attention.ragged import Chunk, NewTokens, RaggedBatch, Slots
from engine.transformers.attention.sequence_kv import SequenceKV


class OneByOne:
    """Computes each sequence's attention by the first of ``ways`` that fits; the last one fits always."""

    table: MakeTable | None = None

    def __init__(self, ways: Sequence[Way]) -> None:
        self.ways = tuple(ways)

    def attend(self, batch: RaggedBatch, new: NewTokens) -> torch.Tensor:
        if len(batch.chunks) == 1:
            return self._one(batch.chunks[0], new).transpose(1, 2)
        query = new.query
        out = query.new_empty(1, query.shape[2], query.shape[1], new.value.shape[-1])
        for chunk in batch.chunks:
            rows = slice(chunk.begin, chunk.end)
            out[:, rows] = self._one(chunk, new.rows(rows)).transpose(1, 2)
        return out

    def _one(self, chunk: Chunk, new: NewTokens) -> torch.Tensor:
        """Attend with one sequence's new tokens; returns [1, heads, new, head_dim]."""
        if chunk.slots is None:
            return self._by_parts(new, _behind(chunk.kv, new), None)
        return self._in_place(chunk, chunk.slots, new)

    def _in_place(self, chunk: Chunk, slots: Slots, new: NewTokens) -> torch.Tensor:
        """Write tokens to slots within the tail, and attend to all spans and the slots that each may see."""
        keys, values = chunk.kv.layer(new.layer)
        if chunk.probe is not None:
            end_if_compared(chunk.probe, slots, new, (keys, values))
        keys[:, slots.index] = new.key
        values[:, slots.index] = new.value
        if (weighing := weighing_of(chunk)) is not None:
            return attend_weighed(chunk, weighing, new)
        return self._by_parts(new, parts_up_to(chunk.kv, new.layer, slots.seen), slots.mask)

    def _by_parts(self, new: NewTokens, parts: Sequence[Part], mask: torch.Tensor | None) -> torch.Tensor:
        way = next(way for way in self.ways if way.fits(new.query, parts))
        return way.attend(new.query, parts, new.scale, mask)


def _behind(kv: SequenceKV, new: NewTokens) -> list[Part]:
    """Write new tokens behind a sequence's tail; returns all its parts, the last of which are the new tokens."""
    layer, past, n = new.layer, kv.tail_tokens, new.query.shape[2]
    keys, values = kv.layer(layer)
    keys[:, past : past + n] = new.key
    values[:, past : past + n] = new.value
    parts = [(span.keys[layer][None], span.values[layer][None]) for span in kv.spans]
    if n == 1:  # a single token sees itself and all before it: one part
        return [*parts, (keys[None, :, : past + 1], values[None, :, : past + 1])]
    if past:
        parts.append((keys[None, :, :past], values[None, :, :past]))
    return [*parts, (new.key[None], new.value[None])]
