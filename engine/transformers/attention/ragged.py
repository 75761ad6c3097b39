"""Attention of a ragged batch over segments and growing tails, without copying either.

A forward pass carries the new tokens of many sequences side by side: ``[1, total, ...]``. Everything but
attention treats them alike. Attention is done sequence by sequence, and within one over *spans*: each injected
segment where it lies, the sequence's own tail, and the new tokens among themselves. The partial results are
merged by their log-sum-exp (Milakov and Gimelshein, arXiv 1805.02867; the split over spans is the one of
Flash-Decoding), which is exact up to rounding. Rotary embedding is in the keys, so the spans' physical order
does not matter.

In a composed sequence the tail begins with keys and values that were computed elsewhere and moved here. Its new
tokens need not lie at the end: each goes to the slot of its position, over what was there, and sees the slots
before it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn

import torch
from transformers import AttentionInterface

from engine.errors import UnsupportedModel
from engine.transformers.attention.kernels import gpu, onednn
from engine.transformers.attention.kernels.native import NativeAttention, example, native_attention
from engine.transformers.upload import upload
from kvcache import Layout, Rotation, Segment
from kvcache.repair import Comparison, Signal, Weighing

NAME = "recallkv"
_TAIL_ROUND = 64
Rows = slice | torch.Tensor
# Attention runs on the thread that owns the model.
_SCRATCH = onednn.Scratch()
_native: NativeAttention | None = None
# The kernel is used unless it takes this many times as long as PyTorch.
_SLOWER = 1.05
_TRIES = 5


def use_native(kernel: NativeAttention | None) -> None:
    """Have this process's attention computed by the compiled kernel, where that fits; None: by PyTorch."""
    global _native
    _native = kernel


@functools.cache
def quick_native() -> NativeAttention | str:
    """The compiled kernel, where it is no slower than PyTorch's attention as it is used here; else why there is none.
    Found out once."""
    kernel = native_attention()
    if isinstance(kernel, str):
        return kernel
    return kernel if _is_quick(kernel) else "PyTorch's is quicker here than what was compiled"


@torch.inference_mode()
def _is_quick(kernel: NativeAttention) -> bool:
    own = theirs = 0.0
    for new, past in ((64, 1024), (256, 256)):
        query, pairs = example(new, (past,))
        parts = [(key, value, i == 1) for i, (key, value) in enumerate(pairs)]
        times = [
            (_took(partial(kernel.attend, query, pairs, 0.1)), _took(partial(_attend_cpu, query, parts, 0.1)))
            for _ in range(_TRIES)
        ]
        own, theirs = own + min(time for time, _ in times), theirs + min(time for _, time in times)
    return own < _SLOWER * theirs


def _took(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _native_for(query: torch.Tensor, value: torch.Tensor) -> NativeAttention | None:
    """The kernel, where it is used and fits. A single token has nothing to gain: it waits for memory."""
    fits = _native is not None and query.shape[2] > 1 and _native.fits(query, value)
    return _native if fits else None


@dataclass(frozen=True, eq=False)
class Span:
    """Immutable keys and values, [layers, kv_heads, tokens, head_dim] each, all visible to later tokens. ``of``: the
    key of the segment whose first tokens they are, if any: spans of the same tokens of it are the same span."""

    keys: torch.Tensor
    values: torch.Tensor
    of: str | None = None

    @property
    def n_tokens(self) -> int:
        return self.keys.shape[2]


class SequenceKV:
    """All keys and values of one sequence: injected spans, then a tail that grows as tokens are computed."""

    def __init__(self, layout: Layout, device: torch.device, expected_tokens: int) -> None:
        self._layout = layout
        self._device = device
        self._expected = expected_tokens
        self.spans: list[Span] = []
        self.tail_tokens = 0
        self._keys = self._values = self._allocate(0)

    def _allocate(self, n_tokens: int) -> torch.Tensor:
        shape = self._layout.shape(n_tokens)
        return torch.empty(shape, dtype=self._layout.torch_dtype, device=self._device)

    @property
    def n_tokens(self) -> int:
        return sum(span.n_tokens for span in self.spans) + self.tail_tokens

    def inject(self, segment: Segment, min_span: int, limit: int | None = None) -> None:
        """Take over a segment's first ``limit`` tokens: by reference from ``min_span`` tokens on, else by copy.

        Every span costs one more attention call per layer and step, a copy costs once; short ones are copied.
        """
        n = segment.n_tokens if limit is None else limit
        keys, values = segment.keys[:, :, :n], segment.values[:, :, :n]
        if n >= min_span and self.tail_tokens == 0:
            self.spans.append(Span(keys, values, segment.key))
            return
        self.reserve(n)
        end = self.tail_tokens + n
        self._keys[:, :, self.tail_tokens : end] = keys
        self._values[:, :, self.tail_tokens : end] = values
        self.tail_tokens = end

    def open_region(self, n_tokens: int) -> None:
        """Lengthen the tail by ``n_tokens`` slots of zeros, to be filled by :meth:`place` or computed over."""
        self.reserve(n_tokens)
        for buffer in (self._keys, self._values):
            buffer[:, :, self.tail_tokens : self.tail_tokens + n_tokens] = 0.0
        self.tail_tokens += n_tokens

    def place(
        self, keys: torch.Tensor, values: torch.Tensor, position: int, computed_at: int, rotation: Rotation
    ) -> None:
        """Copy keys and values that were computed at position ``computed_at`` to ``position``, inside the tail."""
        begin = position - self.tail_begin
        end = begin + keys.shape[2]
        assert 0 <= begin < end <= self.tail_tokens, "only opened slots can be filled"
        rotation.turned(keys, position - computed_at, out=self._keys[:, :, begin:end])
        self._values[:, :, begin:end] = values

    @property
    def tail_begin(self) -> int:
        """Position of the tail's first slot."""
        return sum(span.n_tokens for span in self.spans)

    def fork(self, expected_tokens: int) -> SequenceKV:
        """A sequence that continues from here on its own. The common past is shared, not copied."""
        other = SequenceKV(self._layout, self._device, expected_tokens)
        other.spans = list(self.spans)
        if self.tail_tokens:
            other.spans.append(Span(*self._range(0, self.tail_tokens)))
        return other

    def reserve(self, n_new: int) -> None:
        """Make room for ``n_new`` more tokens in the tail (amortised: grows by at least half)."""
        needed = self.tail_tokens + n_new
        capacity = self._keys.shape[2]
        if needed <= capacity:
            return
        grown = max(needed, min(self._expected, needed * 4), capacity + capacity // 2)
        grown = -(-grown // _TAIL_ROUND) * _TAIL_ROUND
        for name in ("_keys", "_values"):
            fresh = self._allocate(grown)
            fresh[:, :, : self.tail_tokens] = getattr(self, name)[:, :, : self.tail_tokens]
            setattr(self, name, fresh)

    def copy_range(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Contiguous copies of the keys and values of positions ``start`` to ``end``, which must lie in the tail."""
        keys, values = self._range(start - self.tail_begin, end - self.tail_begin)
        # Not contiguous(): a range that is the whole buffer would be the buffer itself.
        return keys.clone(memory_format=torch.contiguous_format), values.clone(memory_format=torch.contiguous_format)

    def _range(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert 0 <= start < end <= self.tail_tokens, "only computed tokens can be taken out"
        return self._keys[:, :, start:end], self._values[:, :, start:end]

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole tail buffers of one layer, [kv_heads, capacity, head_dim]."""
        return self._keys[index], self._values[index]

    def everything(self, n_new: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of all layers: of each span, and of the tail with ``n_new`` further slots."""
        end = self.tail_tokens + n_new
        spans = [(span.keys, span.values) for span in self.spans]
        return [*spans, (self._keys[:, :, :end], self._values[:, :, :end])]

    def write(self, layer: int, where: slice | torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write one layer's new keys and values, [kv_heads, new, head_dim] each, to tail slots."""
        self._keys[layer, :, where], self._values[layer, :, where] = key, value


@dataclass(frozen=True, eq=False)
class Slots:
    """New tokens that do not follow the tail's end: the tail slot of each, int64 [new], ascending. Each sees the
    tail's slots up to its own, of which there are ``seen`` in all, but not the ``hidden`` ones, bool [seen]."""

    index: torch.Tensor
    seen: int
    hidden: torch.Tensor | None = None
    is_run: bool = False
    """Whether the slots are neighbours and nothing is hidden: each token sees one slot more than the one before it."""

    @functools.cached_property
    def visible(self) -> torch.Tensor:
        """What each token sees, bool [new, seen]."""
        visible = torch.arange(self.seen, device=self.index.device)[None] <= self.index[:, None]
        return visible if self.hidden is None else visible.logical_and_(~self.hidden[None])

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """The same, additive: 0 or -inf, float32."""
        return torch.zeros(self.visible.shape, device=self.index.device).masked_fill_(~self.visible, float("-inf"))

    @functools.cached_property
    def aligned_mask(self) -> torch.Tensor:
        """The same for kernels other than the CPU's, in bfloat16, which holds both numbers; cast where it must be."""
        return gpu.aligned_mask(self.visible, torch.bfloat16)


class Interrupted(Exception):
    """A pass was given up between two layers, because something more urgent has come. The sequences are as they were:
    they grow when a pass is through, and the same pass may be run again."""


class ShallowPassDone(Exception):
    """The first layers have been run, which is all that was wanted."""


@dataclass(eq=False)
class Probe:
    """What a forward pass is to find out about the sequence's memory; nothing of it is kept but this.

    Of a weighing ``signal`` [seen] tells of each slot of the tail, over all layers; of a comparison ``signal`` [new]
    tells of each new token, and the pass ends in the layer that is compared.
    """

    wanted: Signal
    signal: torch.Tensor | None = None

    def add(self, signal: torch.Tensor) -> None:
        self.signal = signal if self.signal is None else self.signal + signal


@dataclass(frozen=True, eq=False)
class Chunk:
    """New tokens of one sequence in a batch: rows ``begin`` to ``end`` of the ragged dimension. Without ``slots``
    they follow the tail."""

    kv: SequenceKV
    begin: int
    end: int
    slots: Slots | None = None
    probe: Probe | None = None

    @property
    def is_single(self) -> bool:
        """Whether it is one token behind the tail."""
        return self.end - self.begin == 1 and self.slots is None


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """What attention needs to know of a forward pass; travels through the model's keyword arguments."""

    chunks: Sequence[Chunk] = field(default_factory=tuple)
    interrupt: Callable[[], bool] | None = None
    """Asked before each layer whether to give up (raising ``Interrupted``)."""
    wanted: torch.Tensor | None = None
    """Rows whose logits are wanted, int64: of the others the last layer need give keys and values only."""

    @functools.cached_property
    def parted(self) -> tuple[RaggedBatch, Singles | None]:
        """The batch without the sequences at its end that compute one token each, and those as a table, where there
        are kernels for that."""
        begin = len(self.chunks)
        while begin and self.chunks[begin - 1].is_single:
            begin -= 1
        singles = self.chunks[begin:]
        chosen = gpu.chosen(singles[0].kv.layer(0)[0]) if singles else None
        if chosen is None or chosen.table is None:
            return self, None
        table = chosen.table([chunk.kv.everything(1) for chunk in singles])
        return RaggedBatch(self.chunks[:begin]), Singles(singles[0].begin, table)

    @functools.cached_property
    def rounds(self) -> list[Round]:
        """All spans, each once: those that several sequences share are read from memory once. Spans of different rows
        go into one round, so that there are as many rounds as the sequence with the most spans has."""
        shared: dict[tuple[object, int], tuple[Span, list[range]]] = {}
        for chunk in self.chunks:
            for span in chunk.kv.spans:
                _, rows = shared.setdefault((span.of or id(span), span.n_tokens), (span, []))
                rows.append(range(chunk.begin, chunk.end))
        rounds: list[list[tuple[Span, list[range]]]] = []
        for span, rows in shared.values():
            taken = ({part for _, parts in other for part in parts} for other in rounds)
            fitting = next((other for other, parts in zip(rounds, taken, strict=True) if parts.isdisjoint(rows)), None)
            if fitting is None:
                rounds.append(fitting := [])
            fitting.append((span, rows))
        return [Round.of(spans) for spans in rounds]


@dataclass(frozen=True, eq=False)
class Singles:
    """The rows from ``begin`` on, a sequence each, and where those sequences lie."""

    begin: int
    table: gpu.Table


@dataclass(frozen=True, eq=False)
class Round:
    """Spans with the rows that see each, none of which sees two; and the rows of all in this order. Rows are a slice,
    or int64 [rows] where they are not neighbours."""

    spans: list[tuple[Span, Rows]]
    rows: Rows

    @staticmethod
    def of(spans: list[tuple[Span, list[range]]]) -> Round:
        spans = sorted(spans, key=lambda pair: pair[1][0].start)
        device = spans[0][0].keys.device
        rows = [part for _, parts in spans for part in parts]
        return Round([(span, _rows_of(parts, device)) for span, parts in spans], _rows_of(rows, device))


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
    """transformers' attention interface. query [1, heads, total, head_dim], key and value [1, kv_heads, total,
    head_dim], keys already rotated; returns [1, total, heads, head_dim]. Appends to each sequence's tail."""
    if ragged is None or attention_mask is not None:
        raise UnsupportedModel("this model does not pass the batch on to its attention")
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModel(f"attention with {name} is not supported")
    if ragged.interrupt is not None and ragged.interrupt():
        raise Interrupted
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if (chosen := gpu.chosen(query)) is not None:
        return _attend_elsewhere(chosen, ragged, module.layer_idx, query, key[0], value[0], scale), None
    if len(ragged.chunks) == 1:
        return _attend_chunk(ragged.chunks[0], module.layer_idx, query, key, value, scale).transpose(1, 2), None
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    for chunk in ragged.chunks:
        rows = slice(chunk.begin, chunk.end)
        new = (query[:, :, rows], key[:, :, rows], value[:, :, rows])
        out[:, rows] = _attend_chunk(chunk, module.layer_idx, *new, scale).transpose(1, 2)
    return out, None


def _attend_chunk(
    chunk: Chunk, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    if chunk.slots is None:
        return _attend(chunk.kv, layer, query, key, value, scale)
    return _attend_in_place(chunk, chunk.slots, layer, query, key, value, scale)


def _attend(
    kv: SequenceKV, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of one sequence's new tokens over its whole past and, causally, over themselves."""
    past, new = kv.tail_tokens, query.shape[2]
    tail_keys, tail_values = kv.layer(layer)
    tail_keys[:, past : past + new] = key[0]
    tail_values[:, past : past + new] = value[0]
    parts = [(span.keys[layer][None], span.values[layer][None], False) for span in kv.spans]
    if new == 1:  # a single token sees itself and all before it: no mask
        parts.append((tail_keys[None, :, : past + 1], tail_values[None, :, : past + 1], False))
    else:
        if past:
            parts.append((tail_keys[None, :, :past], tail_values[None, :, :past], False))
        parts.append((key, value, True))
    native = _native_for(query, value)
    if native is not None:
        return native.attend(query, [(k, v) for k, v, _ in parts], scale)
    return _attend_cpu(query, parts, scale)


def _attend_cpu(
    query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor, bool]], scale: float
) -> torch.Tensor:
    """By PyTorch: over all parts at once, or each by itself and merged."""
    if _at_once(query, sum(key.shape[2] for key, _, _ in parts)):
        return _attend_at_once(query, [(k, v) for k, v, _ in parts], scale, onednn.triangle(query.shape[2]))
    results = [_flash_cpu(query, k, v, causal, scale) for k, v, causal in parts]
    return results[0][0] if len(results) == 1 else _merge(results)


def _attend_in_place(
    chunk: Chunk, slots: Slots, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of tokens that take slots within the tail, over all spans and the slots that each may see."""
    probe = chunk.probe
    tail_keys, tail_values = chunk.kv.layer(layer)
    if probe is not None and isinstance(probe.wanted, Comparison) and layer == probe.wanted.layer:
        _end_shallow_pass(probe, probe.wanted, slots, key[0], value[0], (tail_keys, tail_values))
    tail_keys[:, slots.index] = key[0]
    tail_values[:, slots.index] = value[0]
    if probe is not None and isinstance(probe.wanted, Weighing):
        return _attend_noting(chunk.kv, slots, probe, probe.wanted, layer, query, scale)
    seen = slots.seen
    *spans, tail = _whole(chunk.kv, layer, seen)
    native = _native_for(query, value)
    if native is not None:
        return native.attend(query, [*spans, tail], scale, slots.mask)
    if _at_once(query, chunk.kv.tail_begin + seen):
        return _attend_at_once(query, [*spans, tail], scale, slots.mask)
    results = [_flash_cpu(query, k, v, False, scale) for k, v in spans]
    results.append(_flash_cpu(query, *tail, False, scale, slots.mask))
    return results[0][0] if len(results) == 1 else _merge(results)


def _whole(kv: SequenceKV, layer: int, seen: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of the spans, and last of the tail's first ``seen`` slots."""
    keys, values = kv.layer(layer)
    spans = [(span.keys[layer][None], span.values[layer][None]) for span in kv.spans]
    return [*spans, (keys[None, :, :seen], values[None, :, :seen])]


def _attend_noting(
    kv: SequenceKV,
    slots: Slots,
    probe: Probe,
    weighing: Weighing,
    layer: int,
    query: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention over what has been written, and a note of how much of it each slot of the tail gets."""
    out, weights = _attend_weighed(query, _whole(kv, layer, slots.seen), slots.mask, scale)
    probe.add(weighing.of(weights[..., -slots.seen :]))
    return out


def _end_shallow_pass(
    probe: Probe,
    comparison: Comparison,
    slots: Slots,
    key: torch.Tensor,
    value: torch.Tensor,
    tail: tuple[torch.Tensor, torch.Tensor],
) -> NoReturn:
    """Note how far new keys and values, [kv_heads, new, head_dim], are from those in their slots, and end the pass."""
    probe.add(comparison.of(key, tail[0][:, slots.index]) + comparison.of(value, tail[1][:, slots.index]))
    raise ShallowPassDone


def _attend_weighed(
    query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor]], mask: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, with its weights, float32 [kv_heads, heads / kv_heads, new, keys]. ``mask`` is of the
    last part."""
    _, heads, new, width = query.shape
    keys = torch.cat([key for key, _ in parts], dim=2)[0]
    values = torch.cat([value for _, value in parts], dim=2)[0]
    grouped = query.view(keys.shape[0], -1, new, width)
    scores = (grouped @ keys[:, None].transpose(2, 3)).float() * scale
    scores[..., -mask.shape[1] :] += mask
    weights = scores.softmax(-1)
    out = weights.to(values.dtype) @ values[:, None]
    return out.view(1, heads, new, width), weights


def _by_products(query: torch.Tensor, keys: int) -> bool:
    """Whether attention over so many keys goes through oneDNN."""
    return query.dtype == torch.float32 and onednn.worth(query.shape[2], keys) and onednn.usable()


def _at_once(query: torch.Tensor, keys: int) -> bool:
    return onednn.at_once(query.shape[2]) and _by_products(query, keys)


def _attend_at_once(
    query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor]], scale: float, mask: torch.Tensor
) -> torch.Tensor:
    with onednn.preferred():
        return onednn.attend_parts(query, parts, scale, mask, _SCRATCH)


def _flash_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    scale: float,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and its log-sum-exp, [1, heads, new, head_dim] and [1, heads, new]. ``causal`` needs as many
    keys as queries."""
    if _by_products(query, key.shape[2]):
        with onednn.preferred():
            return onednn.attend(query, key, value, causal, scale, mask, _SCRATCH)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=causal, attn_mask=None if mask is None else mask.to(query.dtype), scale=scale
    )
    return out, lse


def _merge(results: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Join attention over disjoint sets of keys: each weighted by its share of the softmax's denominator."""
    shares = torch.softmax(torch.stack([lse for _, lse in results]), dim=0).unsqueeze(-1)
    merged = shares[0] * results[0][0]
    for share, (out, _) in zip(shares[1:], results[1:], strict=True):
        merged = torch.addcmul(merged, share.to(out.dtype), out)
    return merged.to(results[0][0].dtype)


def _rows_of(parts: Sequence[range], device: torch.device) -> Rows:
    if all(after.start == before.stop for before, after in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return upload([row for part in parts for row in part], device)


def _attend_elsewhere(
    chosen: gpu.Kernels,
    ragged: RaggedBatch,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention of a batch on a device other than the CPU, [1, total, heads, head_dim]; key and value [kv_heads, total,
    head_dim]."""
    several, singles = ragged.parted
    found = []
    if several.chunks:
        found.append(_attend_by(chosen, several, layer, query, key, value, scale).transpose(1, 2))
    if singles is not None:
        rows = slice(singles.begin, None)
        out = singles.table.attend(layer, query[:, :, rows], key[:, rows], value[:, rows], scale)
        found.append(out.transpose(1, 2))
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _attend_by(
    chosen: gpu.Kernels,
    ragged: RaggedBatch,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention by kernels that give their log-sum-exp: of each sequence over its tail, which ends with the new tokens,
    then over each span of all rows that see it. No keys or values are copied but the new ones, [kv_heads, total,
    head_dim]."""
    first = ragged.chunks[0]
    probe = first.probe
    if first.slots is not None and probe is not None and isinstance(probe.wanted, Weighing):  # alone in its pass
        first.kv.write(layer, first.slots.index, key, value)
        return _attend_noting(first.kv, first.slots, probe, probe.wanted, layer, query, scale)
    out, lse = _side_by_side([_attend_tail(chosen, chunk, layer, query, key, value, scale) for chunk in ragged.chunks])
    if not ragged.rounds:
        return out
    merged = out.float()
    for left, spans in enumerate(ragged.rounds, 1 - len(ragged.rounds)):
        parts = [
            chosen.plain(query[:, :, rows], span.keys[layer][None], span.values[layer][None], scale, False)
            for span, rows in spans.spans
        ]
        _merge_into(merged, lse, spans.rows, _side_by_side(parts), is_last=left == 0)
    return merged.to(query.dtype)


def _side_by_side(parts: Sequence[gpu.Attended]) -> gpu.Attended:
    """Results of different rows as one."""
    if len(parts) == 1:
        return parts[0]
    out, lse = (torch.cat(tensors, 2) for tensors in zip(*parts, strict=True))
    return out, lse


def _attend_tail(
    chosen: gpu.Kernels,
    chunk: Chunk,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
) -> gpu.Attended:
    """Write a sequence's new keys and values, and attend to all of its tail that is there."""
    kv, slots, rows = chunk.kv, chunk.slots, slice(chunk.begin, chunk.end)
    query, key, value = query[:, :, rows], key[:, rows], value[:, rows]
    tail = kv.layer(layer)
    if slots is None:
        seen = kv.tail_tokens + query.shape[2]
        kv.write(layer, slice(kv.tail_tokens, seen), key, value)
    else:
        probe = chunk.probe
        if probe is not None and isinstance(probe.wanted, Comparison) and layer == probe.wanted.layer:
            _end_shallow_pass(probe, probe.wanted, slots, key, value, tail)
        seen = slots.seen
        kv.write(layer, slots.index, key, value)
    keys, values = (part[None, :, :seen] for part in tail)
    if slots is None or slots.is_run:
        return chosen.plain(query, keys, values, scale, query.shape[2] > 1)
    return chosen.masked(query, keys, values, scale, slots.aligned_mask.to(query.dtype))


def _merge_into(
    merged: torch.Tensor,
    lse: torch.Tensor,
    rows: Rows,
    part: gpu.Attended,
    is_last: bool = False,
) -> None:
    """Join attention over further keys into ``merged``, float32 [1, heads, total, head_dim], and ``lse`` [1, heads,
    total], in the rows that it is of: the same as :func:`_merge`, a part at a time. After the last one ``lse`` is not
    kept up."""
    further, own = part[1], lse[:, :, rows]
    out = merged[:, :, rows].lerp_(part[0].float(), torch.sigmoid(further - own).unsqueeze(-1))
    if isinstance(rows, torch.Tensor):  # of a slice it was a view
        merged[:, :, rows] = out
    if not is_last:
        lse[:, :, rows] = torch.logaddexp(own, further)


@contextmanager
def plain_attention(network: Any) -> Iterator[None]:
    """transformers' own attention within the block, to compare with."""
    before = network.config._attn_implementation
    network.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def register() -> None:
    """Make the attention known to transformers as ``recallkv``. No mask function: the batch says it all."""
    AttentionInterface.register(NAME, ragged_attention)
