"""vLLM's outputs as events."""

from __future__ import annotations

from typing import Any

from engine.base import Delta, FinishReason, Sampling, TokenLogprob
from engine.listing import Listing
from engine.vocabulary import Vocabulary

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


class Answers:
    """Turns one request's outputs into events."""

    def __init__(self, vocabulary: Vocabulary, sampling: Sampling) -> None:
        self._vocabulary = vocabulary
        self._sampling = sampling
        self._listings: dict[int, Listing] = {}

    def delta(self, choice: Any) -> Delta:
        """Return the next event of a choice."""
        if not self._sampling.max_tokens:  # vLLM chooses one token at least
            return Delta(choice.index, "", finish_reason="length")
        reason = None if choice.finish_reason is None else _FINISH.get(choice.finish_reason, "abort")
        listed, ended_by = self._listed(choice, reason)
        return Delta(choice.index, choice.text, tuple(choice.token_ids), listed, reason, ended_by=ended_by)

    def _listed(self, choice: Any, reason: FinishReason | None) -> tuple[tuple[TokenLogprob, ...], TokenLogprob | None]:
        wanted = self._sampling.logprobs
        if wanted is None:
            return (), None
        listing = self._listings.get(choice.index)
        if listing is None:
            listing = self._listings[choice.index] = Listing(self._vocabulary)
        tokens = [
            token_logprob(token_id, found, wanted, self._vocabulary)
            for token_id, found in zip(choice.token_ids, choice.logprobs or (), strict=False)
        ]
        cut = isinstance(choice.stop_reason, str)  # a stop string is told by its text
        ended_by = tokens.pop() if reason == "stop" and not cut and tokens else None
        for token in tokens:
            listing.push(token)
        return listing.show(choice.text) + (() if reason is None else listing.end(reason)), ended_by


def token_logprob(token_id: int, found: dict[int, Any] | None, wanted: int, vocabulary: Vocabulary) -> TokenLogprob:
    """Give what vLLM says of a token; None: that nothing stands before it. It names the token also where it is not
    among the ``wanted`` likeliest."""
    ranked = sorted((item.rank, i, item.logprob) for i, item in (found or {}).items() if item.rank <= wanted)
    top = tuple(TokenLogprob(i, vocabulary.text_of(i), logprob, vocabulary.bytes_of(i)) for _, i, logprob in ranked)
    logprob = None if found is None else found[token_id].logprob
    return TokenLogprob(token_id, vocabulary.text_of(token_id), logprob, vocabulary.bytes_of(token_id), top)
