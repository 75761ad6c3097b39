"""The tokens of one step: chosen on the host from logits there, or on the device, from which only ids come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from engine.base import TokenLogprob
from engine.transformers.batch_sampler import UNCHOSEN, choose_tokens
from engine.transformers.sampler import Sampler
from engine.transformers.scoring import named, token_logprobs
from engine.transformers.upload import upload
from engine.vocabulary import Vocabulary


@dataclass(frozen=True)
class Asked:
    """A token to choose: by whom, from which row of the logits, with how many likelier ones beside its log-probability
    (None: without that)."""

    sampler: Sampler
    row: int
    logprobs: int | None


class Chooser(Protocol):
    """The tokens that were asked for in a step, in order."""

    def take(self, index: int) -> tuple[int, TokenLogprob | None]:
        """Return the token of one that asked. Raises ``RuntimeError`` where its logits cannot be drawn from."""


def chooser(asked: Sequence[Asked], logits: torch.Tensor, vocabulary: Vocabulary) -> Chooser:
    """Choose from float32 ``logits`` [rows, vocabulary] where they are."""
    return (OnHost if logits.device.type == "cpu" else OnDevice)(asked, logits, vocabulary)


class OnHost:
    """Each token when it is taken."""

    def __init__(self, asked: Sequence[Asked], logits: torch.Tensor, vocabulary: Vocabulary) -> None:
        self._asked, self._logits, self._vocabulary = asked, logits, vocabulary
        self._best: list[int] = logits.argmax(-1).tolist() if len(logits) else []

    def take(self, index: int) -> tuple[int, TokenLogprob | None]:
        asked = self._asked[index]
        logits = self._logits[asked.row]
        token_id = self._best[asked.row] if asked.sampler.greedy else asked.sampler.choose(logits)
        if asked.logprobs is None:
            return token_id, None
        (logprob,) = token_logprobs(logits[None], [token_id], asked.logprobs, self._vocabulary)
        return token_id, logprob


class OnDevice:
    """All tokens at once; the host waits once, for one small tensor."""

    def __init__(self, asked: Sequence[Asked], logits: torch.Tensor, vocabulary: Vocabulary) -> None:
        self._asked, self._vocabulary = asked, vocabulary
        self._found: list[list[float]] = self._choose(logits).tolist() if asked else []

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Make rows of: token, its log-probability, those of the likeliest, and these; float64, which holds every
        id."""
        rows = [asked.row for asked in self._asked]
        if rows != list(range(len(logits))):
            logits = logits.index_select(0, upload(rows, logits.device))
        ids = choose_tokens([asked.sampler for asked in self._asked], logits).unsqueeze(1)
        wanted = [asked.logprobs for asked in self._asked if asked.logprobs is not None]
        if not wanted:
            return ids.double()
        logprobs = torch.log_softmax(logits, -1)
        values, rivals = logprobs.topk(max(wanted))
        return torch.cat([ids.double(), logprobs.gather(1, ids.clamp_min(0)).double(), values, rivals.double()], 1)

    def take(self, index: int) -> tuple[int, TokenLogprob | None]:
        asked, (token, *rest) = self._asked[index], self._found[index]
        token_id = int(token)
        if token_id == UNCHOSEN:
            raise RuntimeError("the logits hold what is not a number")
        if asked.logprobs is None:
            return token_id, None
        logprob, *likeliest = rest
        most = len(likeliest) // 2
        pairs = zip(likeliest[: asked.logprobs], likeliest[most : most + asked.logprobs], strict=True)
        top = tuple(named(int(rival), value, self._vocabulary) for value, rival in pairs)
        return token_id, named(token_id, logprob, self._vocabulary, top)
