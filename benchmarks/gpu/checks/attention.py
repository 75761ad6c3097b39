"""Attention alone, against the definition in double precision.

A module stands in for the model whose output *is* attention: a token's queries, keys and values are drawn numbers. So
the engine's own runner, sequences and kernels are what is checked, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.gpu.checks.base import Finding, Site, check, poison, within
from engine.transformers import ModelRunner, SequenceKV, Work
from engine.transformers.attention.interface import ragged_attention
from engine.transformers.attention.ragged import Probe
from kvcache import Fingerprint, Layout, Segment, root_key
from kvcache.repair import SIGNALS

_ALLOWED = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
_NEW = 41
# The definition holds new x seen numbers a head in double precision.
_LONGEST_SQUARE = 3001


class AttentionAlone(torch.nn.Module):
    """``token_ids`` are rows of the drawn queries, keys and values, [tokens, heads, head_dim] each."""

    def __init__(self, shape: tuple[int, int, int], n_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        kv_heads, heads, width = shape
        generator = torch.Generator(device).manual_seed(n_tokens)

        def drawn(n: int) -> torch.Tensor:
            return torch.randn(n_tokens, n, width, generator=generator, device=device, dtype=torch.float32).to(dtype)

        self.queries, self.keys, self.values = drawn(heads), drawn(kv_heads), drawn(kv_heads)
        self.device = device
        self.layer_idx = 0
        self.num_key_value_groups = heads // kv_heads
        self.layout = Layout(1, kv_heads, width, str(dtype).removeprefix("torch."))
        self.fingerprint = Fingerprint("0" * 64, "0" * 64, "0" * 64, "0" * 64, "full-causal", self.layout)

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **kwargs: Any) -> SimpleNamespace:
        """Attention's output as logits, [1, wanted, heads * head_dim]."""
        query, key, value = (
            numbers[input_ids[0]].transpose(0, 1)[None] for numbers in (self.queries, self.keys, self.values)
        )
        passed = {name: value for name, value in kwargs.items() if name not in ("position_ids", "use_cache")}
        out, _ = ragged_attention(self, query, key, value, None, **passed)
        return SimpleNamespace(logits=out[:, logits_to_keep].flatten(2))

    def sequence(self) -> SequenceKV:
        return SequenceKV(self.layout, self.device, 64)

    def segment(self, runner: ModelRunner, tokens: Sequence[int]) -> Segment:
        """Compute these tokens and return their keys and values as a segment."""
        kv = self.sequence()
        runner.forward([Work(kv, tokens, 0)])
        keys, values = kv.copy_range(0, len(tokens))
        return Segment.chained(root_key(self.fingerprint), self.fingerprint, 0, tokens, keys, values)

    def defined(self, new: Sequence[int], seen: Sequence[int], visible: torch.Tensor) -> torch.Tensor:
        """The definition, float64 [new, heads * head_dim]. ``visible``: bool [new, seen]."""
        return torch.stack([out for out, _ in self._by_head(new, seen, visible)], dim=1).flatten(1)

    def paid(self, new: Sequence[int], seen: Sequence[int], visible: torch.Tensor) -> torch.Tensor:
        """The attention paid to each seen token, summed over new tokens and heads, float64 [seen]."""
        return torch.stack([weights.sum(0) for _, weights in self._by_head(new, seen, visible)]).sum(0)

    def _by_head(
        self, new: Sequence[int], seen: Sequence[int], visible: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        new_rows, seen_rows = (torch.tensor(list(ids), device=self.device) for ids in (new, seen))
        hidden = ~visible.to(self.device)
        found = []
        for head in range(self.queries.shape[1]):
            query = self.queries[new_rows, head].double()
            key, value = (x[seen_rows, head // self.num_key_value_groups].double() for x in (self.keys, self.values))
            scores = (query @ key.T * query.shape[1] ** -0.5).masked_fill(hidden, float("-inf"))
            weights = scores.softmax(-1)
            found.append((weights @ value, weights))
        return found


def causal(new: int, seen: int) -> torch.Tensor:
    """The last ``new`` of ``seen`` tokens, each seeing those before it and itself."""
    return torch.ones(new, seen, dtype=torch.bool).tril(seen - new)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Distance relative to what is expected; not a number where something was never written."""
    return float((found.double() - expected).norm() / expected.norm())


@dataclass(frozen=True)
class _Scene:
    module: AttentionAlone
    runner: ModelRunner

    def square(self, n: int) -> float:
        """A prompt's first chunk."""
        tokens = range(n)
        found = self.runner.forward([Work(self.module.sequence(), tokens, n)])
        return off(found, self.module.defined(tokens, tokens, causal(n, n)))

    def behind(self, past: int, min_span: int) -> float:
        """New tokens behind a segment, then more behind those and the segment."""
        kv = self.module.sequence()
        kv.inject(self.module.segment(self.runner, range(past)), min_span)
        first = self.runner.forward([Work(kv, range(past, past + _NEW), _NEW)])
        second = self.runner.forward([Work(kv, range(past + _NEW, past + 2 * _NEW), _NEW)])
        found = torch.cat([first, second])
        end = past + 2 * _NEW
        return off(found, self.module.defined(range(past, end), range(end), causal(2 * _NEW, end)))

    def together(self, lengths: Sequence[int]) -> float:
        """One new token of each of many sequences, and a prompt's chunk beside them, in one pass."""
        work, expected = [], []
        for i, past in enumerate(lengths):
            kv = self.module.sequence()
            kv.inject(self.module.segment(self.runner, range(past)), 1 if i % 2 else 1 << 30)
            work.append(Work(kv, (past,)))
            expected.append(self.module.defined((past,), range(past + 1), causal(1, past + 1)))
        prompt = range(_NEW)
        work.append(Work(self.module.sequence(), prompt, _NEW))
        expected.append(self.module.defined(prompt, prompt, causal(_NEW, _NEW)))
        return off(self.runner.forward(work), torch.cat(expected))

    def in_place(self, n: int) -> float:
        """Every third token of a region that is filled computed over, behind a segment, one slot hidden."""
        span = 2 * _NEW
        kv = self.module.sequence()
        kv.inject(self.module.segment(self.runner, range(span)), 1)
        kv.open_region(n)
        end = span + n
        self.runner.forward([Work(kv, range(span, end), 0, range(span, end))])
        chosen = range(span, end, 3)
        hidden = torch.zeros(n, dtype=torch.bool)
        hidden[1] = n > 1
        found = self.runner.forward([Work(kv, chosen, len(chosen), chosen, hidden=hidden)])
        visible = causal(end, end)[list(chosen)]
        visible[:, span:] &= ~hidden
        return off(found, self.module.defined(chosen, range(end), visible))

    def weighed(self, n: int) -> float:
        """The attention that the last tokens pay to each slot before them."""
        kv = self.module.sequence()
        kv.open_region(n + _NEW)
        self.runner.forward([Work(kv, range(n + _NEW), 0, range(n + _NEW))])
        new = range(n, n + _NEW)
        probe = Probe(SIGNALS["attention"])
        self.runner.forward([Work(kv, new, 0, new, probe)])
        assert probe.signal is not None, "the pass gave no signal"
        return off(probe.signal, self.module.paid(new, range(n + _NEW), causal(_NEW, n + _NEW)))


@torch.inference_mode()
def worst(site: Site, dtype: torch.dtype) -> dict[str, float]:
    """The largest relative error of each kind of pass, over shapes and lengths."""
    figures: dict[str, float] = {}
    longest = max(site.plan.lengths)
    for shape in site.plan.shapes:
        module = AttentionAlone(shape, longest + 2 * _NEW + 1, site.device, dtype)
        scene = _Scene(module, ModelRunner(module))
        found: list[tuple[str, float]] = []
        for n in site.plan.lengths:
            poison(site.device)
            if n <= _LONGEST_SQUARE:
                found.append(("square", scene.square(n)))
            found.append(("behind a span", scene.behind(n, 1)))
            found.append(("behind a copy", scene.behind(n, 1 << 30)))
        poison(site.device)
        found.append(("together", scene.together(site.plan.lengths)))
        middle = min(site.plan.lengths[-2], _LONGEST_SQUARE)
        found += [("in place", scene.in_place(middle)), ("weighed", scene.weighed(middle))]
        for name, error in found:
            # Not a number is the worst of all.
            figures[name] = error if error != error else max(error, figures.get(name, 0.0))
            if error != error:
                return figures
    return figures


def _against_definition(site: Site, dtype: torch.dtype) -> Finding:
    figures = worst(site, dtype)
    allowed = _ALLOWED[str(dtype).removeprefix("torch.")]
    return within(figures, dict.fromkeys(figures, allowed))


@check
def attention_bfloat16(site: Site) -> Finding:
    """The kernels that serve."""
    return _against_definition(site, torch.bfloat16)


@check
def attention_float16(site: Site) -> Finding:
    """The same in the other half precision."""
    return _against_definition(site, torch.float16)


@check
def attention_float32(site: Site) -> Finding:
    """Compare the fallback for float32 with the definition."""
    return _against_definition(site, torch.float32)
