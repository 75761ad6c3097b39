"""Choosing the next token from logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from engine.base import Sampling

# A nucleus wider than this is rare; it costs a full sort of the vocabulary then.
_NUCLEUS_GUESS = 1024


class Sampler:
    """The state of one choice's sampling: its random stream and the tokens it has seen."""

    def __init__(self, sampling: Sampling, index: int, prompt: Sequence[int], never_first: frozenset[int]) -> None:
        self._sampling = sampling
        self._never_first = sorted(never_first | frozenset(sampling.stop_token_ids))
        self._counts: Counter[int] = Counter()
        self._prompt = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self._uniform: float | None = None
        self._generator: torch.Generator | None = None
        if sampling.seed is not None:
            self._generator = torch.Generator().manual_seed((sampling.seed + index) % (1 << 63))

    @property
    def greedy(self) -> bool:
        """Say whether the most likely token is taken as it is, without any change to the logits."""
        s = self._sampling
        plain = s.presence_penalty == s.frequency_penalty == 0.0 and s.repetition_penalty == 1.0
        return s.temperature == 0.0 and plain and not s.logit_bias and not self._held_back

    @property
    def _held_back(self) -> bool:
        return sum(self._counts.values()) < self._sampling.min_tokens

    @property
    def sampling(self) -> Sampling:
        return self._sampling

    def repeated(self) -> list[int]:
        """Return the tokens whose logits the repetition penalty changes."""
        return sorted(self._prompt | self._counts.keys()) if self._sampling.repetition_penalty != 1.0 else []

    def shifts(self) -> dict[int, float]:
        """Return what is added to logits after that: the other penalties, negative, and the bias."""
        s = self._sampling
        shifts = dict(s.logit_bias)
        if s.presence_penalty or s.frequency_penalty:
            for token_id, count in self._counts.items():
                penalty = s.presence_penalty + s.frequency_penalty * count
                shifts[token_id] = shifts.get(token_id, 0.0) - penalty
        return shifts

    def excluded(self) -> Sequence[int]:
        """Return the tokens that must not come yet."""
        return self._never_first if self._held_back else ()

    def uniform(self) -> float:
        """Return the number of the choice's random stream, from 0 to 1, that the next token is drawn with: the same
        until that is observed, so that a draw can be made once more."""
        if self._uniform is None:
            self._uniform = float(torch.rand((), dtype=torch.float64, generator=self._generator))
        return self._uniform

    def observe(self, token_id: int) -> None:
        """Count a token that was generated."""
        self._counts[token_id] += 1
        self._uniform = None

    def choose(self, logits: torch.Tensor) -> int:
        """Choose a token id from float32 logits [vocabulary] on the CPU."""
        logits = self._penalised(logits.clone())
        if self._sampling.temperature == 0.0:
            return int(logits.argmax())
        logits = logits / max(self._sampling.temperature, 1e-5)
        # A tiny repetition penalty or temperature makes infinities, of which softmax makes not-a-number.
        return self._draw(logits.clamp_(max=torch.finfo(logits.dtype).max))

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        s = self._sampling
        if s.repetition_penalty != 1.0 and (seen := sorted(self._prompt | self._counts.keys())):
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
        if (s.presence_penalty or s.frequency_penalty) and self._counts:
            ids = list(self._counts)
            counts = torch.tensor([float(self._counts[i]) for i in ids])
            logits[ids] -= s.presence_penalty + s.frequency_penalty * counts
        for token_id, bias in s.logit_bias.items():
            logits[token_id] += bias
        if self._held_back:
            logits[self._never_first] = -torch.inf
        return logits

    def _draw(self, logits: torch.Tensor) -> int:
        """Sample after min_p, top_k and top_p, in vLLM's order. At least the likeliest token always remains."""
        s = self._sampling
        if s.min_p > 0.0:
            floor = logits.max() + torch.log(torch.tensor(s.min_p))
            logits = logits.masked_fill(logits < floor, -torch.inf)
        vocabulary = logits.shape[0]
        kept = min(s.top_k, vocabulary) if s.top_k > 0 else vocabulary
        if kept == vocabulary and s.top_p >= 1.0:
            return self._multinomial(torch.softmax(logits, -1))
        probabilities, ids = self._ranked(logits, kept)
        if s.top_p < 1.0:
            before = probabilities.cumsum(0) - probabilities
            probabilities = probabilities.masked_fill(before >= s.top_p, 0.0)
            probabilities[0] = probabilities[0].clamp_min(1e-30)
        return int(ids[self._multinomial(probabilities)])

    def _ranked(self, logits: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rank the probabilities of the ``kept`` likeliest tokens, in falling order, as far as top_p can reach."""
        if kept < logits.shape[0]:
            top, ids = logits.topk(kept)
            return torch.softmax(top, -1), ids
        everything = torch.softmax(logits, -1)
        top, ids = everything.topk(min(_NUCLEUS_GUESS, kept))
        if float(top.sum()) >= self._sampling.top_p:
            return top, ids
        return everything.sort(descending=True)

    def _multinomial(self, weights: torch.Tensor) -> int:
        return int(torch.multinomial(weights, 1, generator=self._generator))
