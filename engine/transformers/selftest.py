"""What a model is asked at load, before anything is believed of it: whether split keys and values give what its own
attention gives, and whether its keys move as its rotary embedding says.

Rounding adds up over layers. A network of 80 layers in bfloat16 differs from itself, computed in another order, by more
than a wrong key would change a shallow one. So what is computed here is not held against a fixed bound: the model's own
noise is measured, as the difference between its own attention over a whole prompt and plain attention, written out,
over the same prompt cut in two, and several times that is allowed. Each layer's keys and values are compared, too: a
key at the wrong place is as large an error in its own layer at any depth.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from engine.errors import UnsupportedModel
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.runner import ModelRunner, Work
from kvcache import Layout, Rotation, UnsupportedRotation, rotation_of

log = logging.getLogger(__name__)

_NAME = "recallkv_recorded"
_TOKENS, _CUT = 12, 5
_MOVED_TOKENS = 8
# How far the rotation of keys is tested, in positions.
_MOVE = 37
_TIMES_THE_NOISE = 3.0
# Of the largest number: float32 is off by less than this, whatever order it is computed in.
_FLOAT32_BOUND = 1e-3
# Keys of the first layer that move depend on nothing but themselves, those of later ones on layers before them.
_FIRST_LAYER_BOUND, _LATER_LAYER_BOUND = 1e-2, 0.05


@dataclass(frozen=True, eq=False)
class Seen:
    """A model's results for a few tokens: log-probabilities, float32 [tokens behind the cut, vocabulary], and keys and
    values, [layers, kv_heads, tokens, head_dim] each."""

    logprobs: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    largest_logit: float

    def off(self, other: Seen) -> torch.Tensor:
        """Measure how far another is from this one, float32 [1 + 2 x layers], on the CPU: log-probabilities, relative
        to the largest logit, then each layer's keys, then its values, relative to the largest of the layer."""
        logprobs = (other.logprobs - self.logprobs).abs().max() / max(1.0, self.largest_logit)
        kept = [(self.keys, other.keys), (self.values, other.values)]
        layers = [_apart(mine, others) for mine, others in kept]
        return torch.cat([logprobs[None].cpu(), *(layer.cpu() for layer in layers)])


def _apart(mine: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the largest difference of each layer, relative to the layer's largest number, float32 [layers]."""
    mine, other = mine.float().flatten(1), other.float().flatten(1)
    return (mine - other).abs().amax(1) / mine.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)


@dataclass(eq=False)
class Recorder:
    """The keys and values of a pass of transformers' own, by layer. ``written_out``: attention is computed here,
    plainly, over what earlier passes have recorded and, causally, over the new tokens; else by transformers, over those
    alone."""

    written_out: bool = False
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def add(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in new keys and values, [1, kv_heads, new, head_dim], and give all of the layer's."""
        for kept, new in ((self.keys, key), (self.values, value)):
            kept[layer] = torch.cat([kept[layer], new], 2) if layer in kept else new
        return self.keys[layer], self.values[layer]

    def stacked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all keys and all values, [layers, kv_heads, tokens, head_dim] each."""
        keys, values = (torch.stack([kept[i][0] for i in sorted(kept)]) for kept in (self.keys, self.values))
        return keys, values


def _recorded(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    recorder: Recorder | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend by transformers' own scaled dot-product attention, with a recorder listening."""
    if recorder is None:
        raise UnsupportedModel("this model does not pass the batch on to its attention")
    key, value = recorder.add(module.layer_idx, key, value)
    if recorder.written_out:
        return _plain(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return out, None


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attend by the definition: query [1, heads, new, head_dim], the last of key and value's tokens; to [1, new, heads,
    head_dim]."""
    _, heads, new, _ = query.shape
    grouped = query[0].view(key.shape[1], -1, *query.shape[2:])
    scores = (grouped @ key[0, :, None].transpose(2, 3)).float() * scale
    behind = torch.ones(new, key.shape[2], dtype=torch.bool, device=query.device).triu(key.shape[2] - new + 1)
    weights = scores.masked_fill(behind, float("-inf")).softmax(-1).to(value.dtype)
    out: torch.Tensor = weights @ value[0, :, None]
    return out.reshape(1, heads, new, -1).transpose(1, 2)


@contextmanager
def _recording(network: Any) -> Any:
    """Have the model use transformers' own attention within the block, which can be listened to."""
    AttentionInterface.register(_NAME, _recorded)
    AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    before = network.config._attn_implementation
    network.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def _theirs(network: Any, token_ids: Sequence[int], cuts: Sequence[int], recorder: Recorder) -> Seen:
    """Run the tokens in passes that end at ``cuts``."""
    logits = torch.empty(0)
    begin = 0
    for end in cuts:
        ids = torch.tensor([token_ids[begin:end]], device=network.device)
        positions = torch.arange(begin, end, device=network.device)[None]
        out = network(input_ids=ids, position_ids=positions, use_cache=False, recorder=recorder)
        logits, begin = out.logits[0], end
    return _seen(logits[-(len(token_ids) - _CUT) :], *recorder.stacked())


def _ours(network: Any, layout: Layout, token_ids: Sequence[int]) -> Seen:
    """Run the tokens in two passes of this engine, the first ones' keys and values injected into the second."""
    kv = SequenceKV(layout, network.device, len(token_ids))
    runner = ModelRunner(network)
    runner.forward([Work(kv, token_ids[:_CUT], 0)])
    rest = kv.fork(len(token_ids))
    logits = runner.forward([Work(rest, token_ids[_CUT:], len(token_ids) - _CUT)])
    parts = zip(kv.copy_range(0, _CUT), rest.copy_range(_CUT, len(token_ids)), strict=True)
    keys, values = (torch.cat(part, 2) for part in parts)
    return _seen(logits, keys, values)


def _seen(logits: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> Seen:
    logits = logits.float()
    return Seen(torch.log_softmax(logits, -1), keys, values, float(logits.abs().max()))


@torch.inference_mode()
def check_attention(network: Any, layout: Layout) -> None:
    """Compare split, injected-style attention with the model's own on a few tokens, in the model's own numbers.

    Catches every model whose attention has a part that this engine does not know of. Raises ``UnsupportedModel``.
    """
    tokens = [(7 * i) % network.config.vocab_size for i in range(1, _TOKENS + 1)]
    ours = _ours(network, layout, tokens)
    with _recording(network):
        whole = _theirs(network, tokens, [_TOKENS], Recorder())
        off = whole.off(ours)
        allowed = torch.full_like(off, max(_FLOAT32_BOUND, 2.0 * torch.finfo(layout.torch_dtype).eps))
        if layout.torch_dtype != torch.float32 and not bool((off <= allowed).all()):
            again = _theirs(network, tokens, [_CUT, _TOKENS], Recorder(written_out=True))
            allowed = torch.maximum(allowed, _TIMES_THE_NOISE * whole.off(again))
    if not bool((off <= allowed).all()):  # also what is not a number
        worst = int((off / allowed).nan_to_num(torch.inf).argmax())
        raise UnsupportedModel(
            f"this model's attention is not reproduced over split keys and values ({_name(worst, layout)} are off by "
            f"{off[worst]:.2g}, allowed {allowed[worst]:.2g})"
        )


def _name(index: int, layout: Layout) -> str:
    if not index:
        return "logits"
    return f"layer {(index - 1) % layout.layers}'s {'keys' if index <= layout.layers else 'values'}"


@torch.inference_mode()
def find_rotation(network: Any, layout: Layout) -> Rotation | None:
    """Return the model's rotation, found to give the keys that the model itself gives elsewhere; None where none does.

    Held against the first layer of each kind of rotation alone, in float32: all others of the kind turn alike.
    """
    try:
        found = rotation_of(network)
    except UnsupportedRotation as error:
        log.warning("memories cannot be composed: %s", error)
        return None
    tokens = [(11 * i) % network.config.vocab_size for i in range(1, _MOVED_TOKENS + 1)]
    here, there = (_keys_at(network, layout, tokens, position).float() for position in (0, _MOVE))
    layers = _first_layers(found)
    bounds = torch.tensor([_bound(layer, layout.torch_dtype) for layer in layers])
    for rotation in (found, replace(found, interleaved=True)):
        off = _apart(there, rotation.turned(here, _MOVE)).cpu()[layers]
        if bool((off <= bounds).all()):
            return rotation
    log.warning("memories cannot be composed: this model's keys do not move as its rotary embedding says")
    return None


def _first_layers(rotation: Rotation) -> list[int]:
    """Return the first layer of each kind of frequencies."""
    rows = rotation.inv_freq.tolist()
    return [i for i, row in enumerate(rows) if row not in rows[:i]]


def _bound(layer: int, dtype: torch.dtype) -> float:
    if dtype == torch.float32:
        return _FLOAT32_BOUND
    return _LATER_LAYER_BOUND if layer else _FIRST_LAYER_BOUND


def _keys_at(network: Any, layout: Layout, tokens: list[int], position: int) -> torch.Tensor:
    """Compute keys of ``tokens`` alone, the first at ``position``: they see nothing before them."""
    end = position + len(tokens)
    kv = SequenceKV(layout, network.device, end)
    kv.open_region(end)
    hidden = torch.arange(end) < position
    ModelRunner(network).forward([Work(kv, tokens, 0, range(position, end), hidden=hidden)])
    return kv.copy_range(position, end)[0]
