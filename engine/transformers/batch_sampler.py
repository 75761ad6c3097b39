"""Choosing the next token of many choices where the logits lie, for GPUs: token ids come back, not logits.

The rules are those of :class:`~engine.transformers.sampler.Sampler`, row by row of one matrix. Chance comes from the
choices' own random streams, a number each, and picks by the inverse of the distribution function: so a seed gives the
same token whatever else is in the batch. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.transformers.sampler import Sampler
from engine.transformers.upload import upload

UNCHOSEN = -1
# Above every sum of probabilities, rounding included.
_NO_LIMIT = 2.0


@dataclass(frozen=True)
class _Row:
    """The settings that one row is drawn with."""

    temperature: float
    top_p: float
    top_k: int
    log_min_p: float
    chance: float

    @staticmethod
    def of(sampler: Sampler, vocabulary: int) -> _Row:
        s = sampler.sampling
        top_k = min(s.top_k, vocabulary) if s.top_k > 0 else vocabulary
        top_p = s.top_p if s.top_p < 1.0 else _NO_LIMIT
        # In float32, as on the CPU: the logarithm of what is zero there is minus infinity.
        log_min_p = float(torch.tensor(s.min_p).log())
        return _Row(max(s.temperature, 1e-5), top_p, top_k, log_min_p, sampler.uniform())


def choose_tokens(samplers: Sequence[Sampler], logits: torch.Tensor) -> torch.Tensor:
    """Choose token ids, int64 [choices] on the logits' device, from float32 ``logits`` [choices, vocabulary], a row a
    sampler; ``UNCHOSEN`` where a row cannot be drawn from because something in it is not a number."""
    changed = _changed(samplers, logits)
    likeliest = changed.argmax(-1)
    drawn = [i for i, sampler in enumerate(samplers) if sampler.sampling.temperature > 0.0]
    if not drawn:
        return likeliest
    rows = [_Row.of(samplers[i], logits.shape[1]) for i in drawn]
    if len(drawn) == len(samplers):
        return _draw(rows, changed)
    index = upload(drawn, logits.device)
    return likeliest.index_copy_(0, index, _draw(rows, changed.index_select(0, index)))


def _changed(samplers: Sequence[Sampler], logits: torch.Tensor) -> torch.Tensor:
    """Return the logits with penalties and biases; the same tensor where there are none."""
    repeated = [
        (i, token, sampler.sampling.repetition_penalty)
        for i, sampler in enumerate(samplers)
        for token in sampler.repeated()
    ]
    shifts = [(i, token, by) for i, sampler in enumerate(samplers) for token, by in sampler.shifts().items()]
    excluded = [(i, token, 0.0) for i, sampler in enumerate(samplers) for token in sampler.excluded()]
    if repeated or shifts or excluded:
        logits = logits.clone()
    if repeated:
        at, factors = _entries(repeated, logits)
        values = logits[at]
        logits[at] = torch.where(values > 0, values / factors, values * factors)
    if shifts:
        at, amounts = _entries(shifts, logits)
        logits[at] += amounts
    if excluded:
        at, _ = _entries(excluded, logits)
        logits.index_put_(at, logits.new_full((), -torch.inf))
    return logits


def _entries(
    entries: Sequence[tuple[int, int, float]], logits: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return indices of entries (row, token, number) in a matrix, each at most once, and the numbers."""
    device, vocabulary = logits.device, logits.shape[1]
    flat = upload([row * vocabulary + token for row, token, _ in entries], device)
    numbers = upload([number for *_, number in entries], device, logits.dtype)
    return (flat // vocabulary, flat % vocabulary), numbers


def _draw(rows: Sequence[_Row], logits: torch.Tensor) -> torch.Tensor:
    """Draw token ids [rows] after min_p, top_k and top_p, in this order. At least the likeliest token always
    remains."""
    vocabulary = logits.shape[1]
    numbers = [(row.temperature, row.top_p, row.log_min_p, row.chance, row.top_k) for row in rows]
    table = upload([x for row in numbers for x in row], logits.device, torch.float64).view(len(rows), -1)
    temperature, top_p, log_min_p, chance, top_k = torch.split(table, 1, dim=1)
    # A tiny repetition penalty or temperature makes infinities, of which softmax makes not-a-number.
    logits = (logits / temperature.float()).clamp_(max=torch.finfo(torch.float32).max)
    if any(row.log_min_p > -torch.inf for row in rows):
        floor = logits.amax(-1, keepdim=True) + log_min_p.float()
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if all(row.top_k == vocabulary and row.top_p == _NO_LIMIT for row in rows):
        return _at(chance, torch.softmax(logits, -1))
    width = max(row.top_k for row in rows)
    top, ids = logits.topk(width) if width < vocabulary else logits.sort(descending=True)
    beyond = torch.arange(width, device=logits.device) >= top_k
    probabilities = torch.softmax(top.masked_fill_(beyond, -torch.inf), -1)
    before = probabilities.cumsum(-1) - probabilities
    # The first stays whatever top_p is.
    probabilities = probabilities.masked_fill_((before >= top_p).index_fill_(1, ids.new_zeros(1), False), 0.0)
    ranks = _at(chance, probabilities)
    found = ids.gather(1, ranks.clamp_min(0).unsqueeze(1)).squeeze(1)
    return torch.where(ranks == UNCHOSEN, ranks, found)


def _at(chance: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Find the columns of ``weights`` [rows, columns] where their running sum passes ``chance`` [rows, 1] of their sum,
    int64 [rows]; ``UNCHOSEN`` where that is not a number. One of weight zero is never chosen."""
    sums = weights.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:]
    found = torch.searchsorted(sums, total * chance, right=True).clamp_(max=weights.shape[1] - 1)
    # Sums that are made in parallel may rise by a rounding error where a weight is zero.
    found = torch.where(weights.gather(1, found) > 0, found, weights.argmax(-1, keepdim=True))
    return torch.where(total.isfinite(), found, UNCHOSEN).squeeze(1)
