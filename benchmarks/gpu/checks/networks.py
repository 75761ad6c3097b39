"""Small networks of each kind: however a prompt is cut, stored, forked or composed, the logits are those of the whole.

What a way of computing may differ by is judged by the network's own rounding: transformers' own pass over the whole
prompt in the same dtype is some distance from the same pass in double precision, and ours may be a few times that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.checks.base import Finding, Site, check
from benchmarks.lab.architectures import Architecture
from benchmarks.lab.weights import random_network, word_tokenizer
from engine.transformers import LoadedModel, ModelRunner, SequenceKV, Work, prepare
from engine.transformers.attention.interface import plain_attention
from kvcache import Segment, root_key

_WORDS = 300
_TOKENS = 90
_CUT = 50
_SETTINGS: dict[str, Any] = {
    "vocab_size": _WORDS,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "tie_word_embeddings": False,
}
KINDS = ("qwen3", "qwen2", "llama", "gemma")
# Times the network's own rounding, and beside it, relative to the largest logit.
_TIMES = 4.0
_BESIDE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}


def network_of(kind: str, device: torch.device, dtype: torch.dtype, **settings: Any) -> Any:
    """A seeded network of a few layers."""
    made = {**_SETTINGS, **settings}
    if kind == "qwen2":
        made.pop("head_dim")
    network = random_network(Architecture(kind, made), 1024, device, dtype)
    generator = torch.Generator(device).manual_seed(2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.5, generator=generator)
    return network


@dataclass(frozen=True)
class _Ways:
    """Each method gives the logits of the last token, float32 [vocabulary]."""

    model: LoadedModel
    runner: ModelRunner
    tokens: tuple[int, ...]

    def whole(self) -> torch.Tensor:
        return self.runner.forward([Work(self._fresh(), self.tokens)])[0]

    def chunked(self) -> torch.Tensor:
        kv = self._fresh()
        for at in range(0, _TOKENS, 7):
            logits = self.runner.forward([Work(kv, self.tokens[at : at + 7])])
        return logits[-1]

    def token_by_token(self) -> torch.Tensor:
        kv = self._fresh()
        self.runner.forward([Work(kv, self.tokens[:-5])])
        for token in self.tokens[-5:]:
            logits = self.runner.forward([Work(kv, (token,))])
        return logits[-1]

    def injected(self) -> torch.Tensor:
        """Two segments where they lie."""
        return self._behind_segments(1)

    def injected_by_copy(self) -> torch.Tensor:
        return self._behind_segments(1 << 30)

    def forked(self) -> torch.Tensor:
        kv = self._fresh()
        self.runner.forward([Work(kv, self.tokens[:_CUT])])
        other = kv.fork(_TOKENS)
        self.runner.forward([Work(kv, self.tokens[:3])])  # goes its own way
        return self.runner.forward([Work(other, self.tokens[_CUT:])])[0]

    def composed(self) -> torch.Tensor:
        """Keys moved there and back, then everything behind them computed in its slot."""
        rotation = self.model.rotation
        assert rotation is not None, "this model's keys cannot be moved"
        first, second = self._segments()
        kv = self._fresh()
        kv.open_region(_TOKENS)
        for segment in (first, second):
            away = rotation.turned(segment.keys, 11)
            kv.place(away, segment.values, segment.start, segment.start + 11, rotation)
        return self.runner.forward([Work(kv, self.tokens[_CUT:], 1, range(_CUT, _TOKENS))])[0]

    def _behind_segments(self, min_span: int) -> torch.Tensor:
        kv = self._fresh()
        for segment in self._segments():
            kv.inject(segment, min_span)
        return self.runner.forward([Work(kv, self.tokens[_CUT:])])[0]

    def _segments(self) -> tuple[Segment, Segment]:
        """The tokens up to the cut."""
        kv = self._fresh()
        self.runner.forward([Work(kv, self.tokens[:_CUT], 0)])
        parent, made = root_key(self.model.fingerprint), []
        for begin, end in ((0, _CUT // 2), (_CUT // 2, _CUT)):
            keys, values = kv.copy_range(begin, end)
            tokens = self.tokens[begin:end]
            made.append(Segment.chained(parent, self.model.fingerprint, begin, tokens, keys, values))
            parent = made[-1].key
        return made[0], made[1]

    def _fresh(self) -> SequenceKV:
        return SequenceKV(self.model.fingerprint.layout, self.model.device, _TOKENS + 8)

    def all(self) -> dict[str, Callable[[], torch.Tensor]]:
        ways = (
            self.whole,
            self.chunked,
            self.token_by_token,
            self.injected,
            self.injected_by_copy,
            self.forked,
            self.composed,
        )
        return {way.__name__.replace("_", " "): way for way in ways}


@torch.inference_mode()
def _judged(site: Site, dtype: torch.dtype) -> Finding:
    figures: dict[str, Any] = {}
    wrong = []
    for kind in KINDS:
        network = network_of(kind, site.device, dtype)
        tokens = tuple((7 * i + 3) % _WORDS for i in range(_TOKENS))
        ids = torch.tensor([tokens], device=site.device)
        with plain_attention(network):
            exact = copy.deepcopy(network).double()(input_ids=ids, use_cache=False).logits[0, -1]
            plain = network(input_ids=ids, use_cache=False).logits[0, -1].double()
        rounding = float((plain - exact).abs().max())
        allowed = _TIMES * rounding + _BESIDE[dtype] * float(exact.abs().max())
        model = prepare(network, word_tokenizer(_WORDS))
        errors = {}
        for name, way in _Ways(model, ModelRunner(network), tokens).all().items():
            errors[name] = float((way().double() - exact).abs().max())
            if not errors[name] <= allowed:
                wrong.append(f"{kind}, {name}: {errors[name]:.3g} off, at most {allowed:.3g}")
        figures[kind] = {"transformers": rounding, "allowed": allowed, **errors}
    return Finding(not wrong, figures, "; ".join(wrong))


@check
def networks_float32(site: Site) -> Finding:
    """Full = chunked = injected = forked = composed, in float32."""
    return _judged(site, torch.float32)


@check
def networks_bfloat16(site: Site) -> Finding:
    """The same in bfloat16."""
    return _judged(site, torch.bfloat16)
