"""Log-probabilities of tokens, with the likeliest ones beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.base import TokenLogprob
from engine.transformers.runner import Work
from engine.transformers.sequence import Group
from engine.vocabulary import Vocabulary

# So many rows of logits are normalised at once: a row of a large vocabulary is 0.6 MB.
_ROWS = 64


def token_logprobs(
    logits: torch.Tensor, token_ids: Sequence[int], wanted: int, vocabulary: Vocabulary
) -> list[TokenLogprob]:
    """Return the log-probability of each token under its row of float32 ``logits`` [tokens, vocabulary], on any device,
    and the ``wanted`` likeliest ones."""
    found = []
    for begin in range(0, len(token_ids), _ROWS):
        ids = token_ids[begin : begin + _ROWS]
        rows = torch.log_softmax(logits[begin : begin + len(ids)], -1)
        own = rows.gather(1, torch.tensor(ids, device=rows.device)[:, None])[:, 0].tolist()
        values, rivals = rows.topk(wanted)
        for token_id, logprob, *likeliest in zip(ids, own, rivals.tolist(), values.tolist(), strict=True):
            top = tuple(named(i, value, vocabulary) for i, value in zip(*likeliest, strict=True))
            found.append(named(token_id, logprob, vocabulary, top))
    return found


def named(
    token_id: int, logprob: float | None, vocabulary: Vocabulary, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    """Return a token's log-probability with its text."""
    return TokenLogprob(token_id, vocabulary.text_of(token_id), logprob, vocabulary.bytes_of(token_id), top)


def take_scores(
    prompts: Sequence[tuple[Group, int]], work: Sequence[Work], logits: torch.Tensor, vocabulary: Vocabulary
) -> torch.Tensor:
    """Score prompt tokens by those rows of a step's logits that are for that; returns the rows to choose tokens from.

    ``prompts``: each with how many of its tokens the step computes; ``work`` is parallel to them, then to streams.
    """
    if not any(group.request.score_last for group, _ in prompts):
        return logits
    chosen_from: list[int] = []
    row = 0
    for (group, n), own in zip(prompts, work, strict=False):
        if group.request.score_last and own.n_logits:
            end = group.next_positions(n)[-1] + 1
            rows = logits[row : row + own.n_logits]
            group.scores += _scores(group, end - own.n_logits, rows, vocabulary)
        row += own.n_logits
        if n == group.remaining and not group.background:
            chosen_from.append(row - 1)
    return logits[[*chosen_from, *range(row, len(logits))]]


def _scores(group: Group, begin: int, rows: torch.Tensor, vocabulary: Vocabulary) -> list[TokenLogprob]:
    """Give those of the prompt's tokens behind positions ``begin`` and following, a row of logits each."""
    first = group.token_ids[0]
    alone = [named(first, None, vocabulary)] if begin == 0 and group.request.score_last == len(group.token_ids) else []
    token_ids = group.token_ids[begin + 1 : begin + 1 + len(rows)]
    return alone + token_logprobs(rows, token_ids, group.request.sampling.logprobs or 0, vocabulary)
