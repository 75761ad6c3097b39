"""Whether a stored context gives the output that computing it gives.

Two questions, because rounding depends on how a prompt is cut. *Is what came back what was stored?* Direct prefill that
is cut where the stored context ends does the same products on the same shapes, so the logits must be equal bit by bit.
*Is that near enough to direct prefill in one piece?* The Kullback-Leibler divergence of the next-token distributions
says how near, beside a control: direct prefill in other chunks, which no segment has touched.

Random weights could be such that nothing in the context matters. Therefore the context's keys are also moved by one
token: what that does to the logits is what the comparison would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.transformers import LoadedModel, ModelRunner, SequenceKV, Work
from kvcache import Segment, root_key

_ALWAYS_COPIED = 1 << 30


class NothingSeen(Exception):
    """A request was answered without a pass of the model whose logits could be looked at."""


@dataclass(frozen=True)
class Outputs:
    """``bitwise``: equal to direct prefill cut at the same place (None where there is no such cut). ``kl`` in nats from
    direct prefill in one go, and the largest distance of a log-probability; ``control_kl`` and ``control_dlogp``: of
    direct prefill in other chunks. ``shifted_kl``: with the context's keys one token off; ``is_blind``: even that gives
    the very same logits, so that equality means nothing."""

    bitwise: bool | None
    kl: float
    max_dlogp: float
    control_kl: float
    control_dlogp: float
    shifted_kl: float
    is_blind: bool


class LogitsTap:
    """The logits of the model's last pass that gave any, float32 [vocabulary], for as long as it is open."""

    def __init__(self) -> None:
        self._last: torch.Tensor | None = None

    def __call__(self, module: Any, args: Any, output: Any) -> None:
        if output.logits.shape[1]:
            self._last = output.logits[0, -1].float().clone()

    @property
    def last(self) -> torch.Tensor:
        """Raises ``NothingSeen``."""
        if self._last is None:
            raise NothingSeen("no pass of the model gave logits")
        return self._last


@contextmanager
def tapped(model: LoadedModel) -> Iterator[LogitsTap]:
    """Look at the logits that the model gives within the block, whoever runs it."""
    tap = LogitsTap()
    hook = model.model.register_forward_hook(tap)
    try:
        yield tap
    finally:
        hook.remove()


@dataclass(frozen=True, eq=False)
class References:
    """Logits of the last token of context and query, float32 [vocabulary]: in the engine's chunks, in other ones, cut
    where the context ends (one for each way that its keys and values may be held), and cut with shifted keys."""

    whole: torch.Tensor
    control: torch.Tensor
    shifted: torch.Tensor
    cut: tuple[torch.Tensor, ...]

    def compare(self, logits: torch.Tensor, *, chained: bool) -> Outputs:
        """``chained``: whether all of the context came back as it was computed here."""
        kl, dlogp = divergence(self.whole, logits)
        control_kl, control_dlogp = divergence(self.whole, self.control)
        equal = any(torch.equal(logits, cut) for cut in self.cut)
        shifted_kl, _ = divergence(self.whole, self.shifted)
        is_blind = any(torch.equal(self.shifted, cut) for cut in self.cut)
        return Outputs(equal if chained else None, kl, dlogp, control_kl, control_dlogp, shifted_kl, is_blind)


def divergence(expected: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """KL(expected || found) in nats, and the largest absolute difference of a log-probability."""
    a, b = (torch.log_softmax(logits.double(), -1) for logits in (expected, found))
    return max(0.0, float((a.exp() * (a - b)).sum())), float((a - b).abs().max())


def compute_context(runner: ModelRunner, model: LoadedModel, context: Sequence[int], chunk: int) -> Segment:
    """The context's keys and values, apart from the engine and never stored. On the engine's thread."""
    kv = _sequence(model, len(context))
    _prefill(runner, kv, context, chunk, n_logits=0)
    keys, values = kv.copy_range(0, len(context))
    root = root_key(model.fingerprint)
    return Segment.chained(root, model.fingerprint, 0, context, keys, values)


def references(
    runner: ModelRunner, model: LoadedModel, computed: Segment, query: Sequence[int], chunk: int
) -> References:
    """On the engine's thread."""
    tokens = (*computed.token_ids, *query)

    def behind(segment: Segment, min_span: int) -> torch.Tensor:
        kv = _sequence(model, len(tokens))
        kv.inject(segment, min_span)
        return _prefill(runner, kv, query, chunk)

    moved = replace(computed, keys=computed.keys.roll(1, dims=2))
    pieces = -(-len(tokens) // chunk) + 1
    return References(
        whole=_prefill(runner, _sequence(model, len(tokens)), tokens, chunk),
        control=_prefill(runner, _sequence(model, len(tokens)), tokens, -(-len(tokens) // pieces)),
        shifted=behind(moved, 1),
        cut=(behind(computed, 1), behind(computed, _ALWAYS_COPIED)),
    )


def _sequence(model: LoadedModel, n_tokens: int) -> SequenceKV:
    return SequenceKV(model.fingerprint.layout, model.device, n_tokens)


def _prefill(runner: ModelRunner, kv: SequenceKV, tokens: Sequence[int], chunk: int, n_logits: int = 1) -> torch.Tensor:
    logits = torch.empty(0)
    for at in range(0, len(tokens), chunk):
        is_last = at + chunk >= len(tokens)
        logits = runner.forward([Work(kv, tokens[at : at + chunk], n_logits if is_last else 0)])
    return logits[-1].clone() if n_logits else logits
