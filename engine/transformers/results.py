"""What a forward pass gave: scores, tokens to the streams they belong to, and segments to the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.errors import EngineError
from engine.placement import MissingPiece
from engine.transformers.choosing import Asked, Chooser, chooser
from engine.transformers.loading import LoadedModel
from engine.transformers.requests import Requests
from engine.transformers.runner import Work
from engine.transformers.scoring import take_scores
from engine.transformers.sequence import Choice, Group
from engine.transformers.step import Step
from engine.vocabulary import Vocabulary
from kvcache import KVCacheError, Segment

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Row:
    """A choice of a request that chooses a token from row ``row`` of a step's logits."""

    group: Group
    choice: Choice
    row: int


class Results:
    """Takes the results of steps, on the engine's thread. ``observe_loads`` is told of requests whose loads a pass has
    proven to be through."""

    def __init__(
        self,
        model: LoadedModel,
        requests: Requests,
        vocabulary: Vocabulary,
        observe_loads: Callable[[Group], None],
    ) -> None:
        self._model = model
        self._requests = requests
        self._store = requests.store
        self._memory = requests.memory
        self._vocabulary = vocabulary
        self._observe_loads = observe_loads

    def choose(self, step: Step, work: Sequence[Work], logits: torch.Tensor) -> tuple[list[Row], Chooser]:
        """Count a pass's progress, and choose tokens from its logits. Raises ``torch.OutOfMemoryError``."""
        logits = self._memory.retried(lambda: self._scored(step, work, logits))
        for group, n in step.prompts:
            group.done += n
        rows = self._memory.retried(lambda: self._rows(step))
        return rows, self._memory.retried(lambda: self._chosen(rows, logits))

    def _scored(self, step: Step, work: Sequence[Work], logits: torch.Tensor) -> torch.Tensor:
        """Return the rows to choose tokens from, once the prompts' tokens were scored by the others."""
        for group in step.groups:
            del group.scores[group.scored :]  # of an attempt that was given up
        rows = take_scores(step.prompts, work, logits, self._vocabulary)
        for group in step.groups:
            group.scored = len(group.scores)
        return rows

    def _rows(self, step: Step) -> list[Row]:
        """Say who chooses a token, and from which row of logits: finished prompts first, whose choices begin, then
        streams."""
        begun = [group for group in step.ended if not group.background]
        for group in begun:
            group.begin_choices(self._model, self._vocabulary)
        rows = [Row(group, choice, row) for row, group in enumerate(begun) for choice in group.choices]
        return rows + [Row(group, choice, row) for row, (group, choice) in enumerate(step.streams, len(begun))]

    def _chosen(self, rows: Sequence[Row], logits: torch.Tensor) -> Chooser:
        """Choose the tokens, as far as they are chosen on the device; the pass is through then."""
        asked = [Asked(row.choice.sampler, row.row, row.group.request.sampling.logprobs) for row in rows]
        return chooser(asked, logits, self._vocabulary)

    def deliver(self, step: Step, rows: Sequence[Row], chosen: Chooser) -> None:
        """Hand each token to the stream it belongs to."""
        for group in step.ended:
            self._observe_loads(group)
        for index, row in enumerate(rows):
            if row.choice.index == 0 and not row.choice.token_ids:
                row.group.sink(row.group.started())
            self._advance(row.group, row.choice, chosen, index)
        for group in step.ended:  # after the first tokens are out
            self._store_pieces(group)

    def _advance(self, group: Group, choice: Choice, chosen: Chooser, index: int) -> None:
        if group.aborted:
            return
        if not group.request.sampling.max_tokens:
            group.sink(choice.end())
            return
        try:
            token_id, logprob = chosen.take(index)
            group.sink(choice.accept(token_id, logprob, group, self._model))
        except Exception as error:
            # The worker's edge: logits that cannot be sampled from (not a number, say) fail their own request.
            log.exception("request %s: choosing a token failed", group.request.request_id)
            self._requests.failures += 1
            group.aborted = True
            group.sink(EngineError(f"choosing a token failed: {type(error).__name__}"))

    def _store_pieces(self, group: Group) -> None:
        """Store what was computed anyway as chained segments: activation costs a copy, not a prefill."""
        if group.request.use_segments:
            missing = group.missing_pieces()
            self._store.catalogue.counts.miss(len(missing))
            for piece in missing:
                if not self._store_piece(group, piece):
                    break
        if group.background:
            group.aborted = True  # nothing more to do: dropped as finished

    def store_session(self, group: Group) -> None:
        """Store the turns and the answer, for the conversation's next request."""
        request = group.request
        if group.aborted or not (request.keep_turns and request.use_segments and request.n == 1):
            return
        for piece in group.session_pieces():
            if not self._store_piece(group, piece):
                break

    def _store_piece(self, group: Group, piece: MissingPiece) -> bool:
        try:
            keys, values = group.started_kv.copy_range(piece.start, piece.end)
        except torch.OutOfMemoryError as error:
            log.warning("there is no memory to store a segment in: %s", error)
            self._memory.times_short += 1
            return False
        token_ids = group.fed_tokens[piece.start : piece.end]
        fingerprint = self._model.fingerprint
        segment = Segment.chained(piece.parent, fingerprint, piece.start, token_ids, keys, values, piece.labels)
        try:
            # A conversation's turns are large and may never come back: they go to disk when memory is short.
            return self._store.put(segment, durable=not piece.session)
        except KVCacheError as error:
            log.warning("a segment could not be stored: %s", error)
            return False
