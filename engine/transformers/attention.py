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
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

from engine.errors import UnsupportedModel
from engine.transformers import products
from engine.transformers.native import NativeAttention, example, native_attention
from kvcache import Layout, Rotation, Segment

NAME = "recallkv"
_TAIL_ROUND = 64
# Attention runs on the thread that owns the model.
_SCRATCH = products.Scratch()
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
    """Immutable keys and values, [layers, kv_heads, tokens, head_dim] each, all visible to later tokens."""

    keys: torch.Tensor
    values: torch.Tensor

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
            self.spans.append(Span(keys, values))
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
        # Not contiguous(): all of a buffer is contiguous, and would be handed out itself.
        return keys.clone(memory_format=torch.contiguous_format), values.clone(memory_format=torch.contiguous_format)

    def _range(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert 0 <= start < end <= self.tail_tokens, "only computed tokens can be taken out"
        return self._keys[:, :, start:end], self._values[:, :, start:end]

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole tail buffers of one layer, [kv_heads, capacity, head_dim]."""
        return self._keys[index], self._values[index]


@dataclass(frozen=True, eq=False)
class Slots:
    """New tokens that do not follow the tail's end: the tail slot of each, int64 [new], and what it sees of the
    tail's first slots, additive [new, seen] (0 or -inf)."""

    index: torch.Tensor
    mask: torch.Tensor


class Interrupted(Exception):
    """A pass was given up between two layers, because something more urgent has come. The sequences are as they were:
    they grow when a pass is through, and the same pass may be run again."""


class ShallowPassDone(Exception):
    """The first layers have been run, which is all that was wanted."""


@dataclass(eq=False)
class Probe:
    """What a forward pass is to find out about the sequence's memory; nothing of it is kept but this.

    ``attention``: ``signal`` [seen] is the attention that the new tokens pay to each slot of the tail, summed over
    layers and heads. ``deviation``: ``signal`` [new] is how far the new tokens' keys and values in the second layer
    lie from those in their slots, squared and summed (CacheBlend, arXiv 2405.16444); the pass ends there.
    """

    kind: Literal["attention", "deviation"]
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


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """What attention needs to know of a forward pass; travels through the model's keyword arguments."""

    chunks: Sequence[Chunk] = field(default_factory=tuple)
    interrupt: Callable[[], bool] | None = None
    """Asked before each layer whether to give up (raising ``Interrupted``)."""
    wanted: torch.Tensor | None = None
    """Rows whose logits are wanted, int64: of the others the last layer need give keys and values only."""


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
    return _attend_joined(query, parts, scale) if query.device.type != "cpu" else _attend_cpu(query, parts, scale)


def _attend_cpu(
    query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor, bool]], scale: float
) -> torch.Tensor:
    """By PyTorch: over all parts at once, or each by itself and merged."""
    if _at_once(query, sum(key.shape[2] for key, _, _ in parts)):
        return _attend_at_once(query, [(k, v) for k, v, _ in parts], scale, products.triangle(query.shape[2]))
    results = [_flash_cpu(query, k, v, causal, scale) for k, v, causal in parts]
    return results[0][0] if len(results) == 1 else _merge(results)


def _attend_in_place(
    chunk: Chunk, slots: Slots, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of tokens that take slots within the tail, over all spans and the slots that each may see."""
    probe = chunk.probe
    tail_keys, tail_values = chunk.kv.layer(layer)
    if probe is not None and probe.kind == "deviation" and layer == 1:
        probe.add(_deviation(key[0], tail_keys[:, slots.index]) + _deviation(value[0], tail_values[:, slots.index]))
        raise ShallowPassDone
    tail_keys[:, slots.index] = key[0]
    tail_values[:, slots.index] = value[0]
    seen = slots.mask.shape[1]
    tail = (tail_keys[None, :, :seen], tail_values[None, :, :seen])
    spans = [(span.keys[layer][None], span.values[layer][None]) for span in chunk.kv.spans]
    if probe is not None and probe.kind == "attention":
        out, weights = _attend_weighed(query, [*spans, tail], slots.mask, scale)
        probe.add(weights[..., -seen:].sum(dim=(0, 1, 2)))
        return out
    native = _native_for(query, value)
    if native is not None:
        return native.attend(query, [*spans, tail], scale, slots.mask)
    if query.device.type != "cpu":
        return _attend_masked(query, [*spans, tail], slots.mask, scale)
    if _at_once(query, chunk.kv.tail_begin + seen):
        return _attend_at_once(query, [*spans, tail], scale, slots.mask)
    results = [_flash_cpu(query, k, v, False, scale) for k, v in spans]
    results.append(_flash_cpu(query, *tail, False, scale, slots.mask))
    return results[0][0] if len(results) == 1 else _merge(results)


def _deviation(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Squared distance of each token's vectors, [kv_heads, new, head_dim] to [new], relative to their mean size."""
    return (new - old).float().square().sum(dim=(0, 2)) / new.float().square().sum(dim=(0, 2)).mean()


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


def _attend_masked(
    query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor]], mask: torch.Tensor, scale: float
) -> torch.Tensor:
    # Each head gets keys of its own: no kernel but the plainest takes both a mask and shared ones.
    group = query.shape[1] // parts[0][0].shape[1]
    keys = torch.cat([key for key, _ in parts], dim=2).repeat_interleave(group, dim=1)
    values = torch.cat([value for _, value in parts], dim=2).repeat_interleave(group, dim=1)
    whole = F.pad(mask, (keys.shape[2] - mask.shape[1], 0)).to(query.dtype)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=whole, scale=scale)


def _by_products(query: torch.Tensor, keys: int) -> bool:
    """Whether attention over so many keys goes through oneDNN."""
    return query.dtype == torch.float32 and products.worth(query.shape[2], keys) and products.usable()


def _at_once(query: torch.Tensor, keys: int) -> bool:
    return products.at_once(query.shape[2]) and _by_products(query, keys)


def _attend_at_once(
    query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor]], scale: float, mask: torch.Tensor
) -> torch.Tensor:
    with products.preferred():
        return products.attend_parts(query, parts, scale, mask, _SCRATCH)


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
        with products.preferred():
            return products.attend(query, key, value, causal, scale, mask, _SCRATCH)
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


def _attend_joined(
    query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor, bool]], scale: float
) -> torch.Tensor:
    """The same by one call over copied, joined spans, for devices whose kernels do not return the log-sum-exp."""
    keys = torch.cat([key for key, _, _ in parts], dim=2)
    values = torch.cat([value for _, value, _ in parts], dim=2)
    # Not a mask but a description of one: kernels that skip what is not seen can be chosen for it.
    mask = causal_lower_right(query.shape[2], keys.shape[2]) if parts[-1][2] else None
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale, enable_gqa=True)


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
