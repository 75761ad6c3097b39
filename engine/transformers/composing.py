"""Building pages and composing prompts of them: once, for requests, for certificates and for benchmarks.

A page is computed behind a header and a lead. A prompt is composed by moving parts of pages to their places in an
opened region of its sequence, finding out which of their tokens to compute anew, and computing those together with
everything that no page holds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from engine.base import PageRequest, Prompt
from engine.placement import composed_of
from engine.transformers.attention.ragged import Interrupted, Probe
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.loading import LoadedModel
from engine.transformers.runner import ModelRunner, Work
from kvcache import Composed, Lead, Part, Repair, Rotation, Segment, chain_key, root_key
from kvcache.repair import Comparison, Weighing

T = TypeVar("T")

# The prompt's last tokens, at most this many, ask the memory what matters. They are the question, or the end of it.
PROBE_TOKENS = 64
# On a CPU larger chunks gain nothing; a GPU waits for launches with small ones, and needs no mask for neighbours.
_COMPARED_CHUNK = {"cpu": 512}
_COMPARED_CHUNK_ELSEWHERE = 8192


@dataclass(frozen=True, eq=False)
class PlacedPart:
    """A part of a segment on the device, and the position of its first token in the prompt."""

    segment: Segment
    part: Part
    position: int

    @property
    def key(self) -> str:
        return self.segment.key


@dataclass(frozen=True)
class Settled:
    """The choice for a composed prompt: the positions to compute, ascending, and those composed positions that are
    among them."""

    todo: list[int]
    recomputed: frozenset[int]


def finished(steps: Generator[None, None, T]) -> T:
    """Take all steps at once, and return what the last one gives."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def place(kv: SequenceKV, parts: Sequence[PlacedPart], n_tokens: int, rotation: Rotation) -> None:
    """Lengthen a sequence to ``n_tokens``, and move each part's keys and values to its place behind what was there."""
    kv.open_region(n_tokens - kv.n_tokens)
    for placed in parts:
        segment, part = placed.segment, placed.part
        tokens = slice(part.begin, part.end)
        keys, values = segment.keys[:, :, tokens], segment.values[:, :, tokens]
        kv.place(keys, values, placed.position, segment.start + part.begin, rotation)


class Composer:
    """Builds and composes with one model, on the thread that owns it, in passes of at most ``step_tokens`` tokens.

    Methods that are generators take a step at a time: a pass, or an attempt that ``interrupt`` broke off (such a pass
    is run again). :func:`finished` takes all steps at once.
    """

    def __init__(
        self,
        model: LoadedModel,
        runner: ModelRunner,
        step_tokens: int,
        interrupt: Callable[[], bool] | None = None,
    ) -> None:
        self._model = model
        self._runner = runner
        self._step_tokens = step_tokens
        self._interrupt = interrupt

    # -- passes ----------------------------------------------------------------------------------------------

    def empty(self, expected_tokens: int) -> SequenceKV:
        """Make a sequence without tokens."""
        return SequenceKV(self._model.fingerprint.layout, self._model.device, expected_tokens)

    def run(self, work: Work) -> Generator[None, None, torch.Tensor]:
        """Run one pass, as often as it takes to get through it; returns its logits."""
        while True:
            try:
                logits = self._runner.forward([work], self._interrupt)
                if self._interrupt is not None:
                    self._runner.wait()
            except Interrupted:
                yield
            else:
                yield
                return logits

    def extend(self, kv: SequenceKV, token_ids: Sequence[int]) -> Generator[None, None, None]:
        """Compute these tokens behind what the sequence holds."""
        for begin in range(0, len(token_ids), self._step_tokens):
            yield from self.run(Work(kv, token_ids[begin : begin + self._step_tokens], 0))

    def fill(
        self, kv: SequenceKV, token_ids: Sequence[int], positions: Sequence[int]
    ) -> Generator[None, None, torch.Tensor]:
        """Compute the tokens at these positions of ``token_ids``, one at least, in an opened region; returns the logits
        of the last one."""
        for begin in range(0, len(positions), self._step_tokens):
            some = positions[begin : begin + self._step_tokens]
            is_last = begin + len(some) == len(positions)
            logits = yield from self.run(Work(kv, [token_ids[i] for i in some], int(is_last), some))
        return logits

    # -- pages -----------------------------------------------------------------------------------------------

    def build_page(self, request: PageRequest, salt: str) -> Generator[None, None, Segment]:
        """Compute a page behind its header and lead; it has no certificate yet."""
        pieces = Prompt((request.header, *request.lead, *request.parts))
        kv = self.empty(pieces.n_tokens)
        yield from self.extend(kv, pieces.token_ids)
        return self.cut_page(kv, request, salt)

    def cut_page(self, kv: SequenceKV, request: PageRequest, salt: str) -> Segment:
        """Copy a page out of a sequence that begins with its header, lead and parts."""
        fingerprint, header = self._model.fingerprint, request.header.token_ids
        lead, page = Prompt(request.lead), Prompt(request.parts)
        start = len(header) + lead.n_tokens
        keys, values = kv.copy_range(start, start + page.n_tokens)
        return Segment.standalone(
            chain_key(root_key(fingerprint, salt), header),
            fingerprint,
            start,
            [(part.token_ids, part.label) for part in request.parts],
            keys,
            values,
            lead=Lead(lead.token_ids, frozenset(piece.label for piece in request.lead if piece.label is not None)),
        )

    # -- prompts ---------------------------------------------------------------------------------------------

    def compose(self, kv: SequenceKV, parts: Sequence[PlacedPart], token_ids: Sequence[int], repair: Repair) -> Settled:
        """Place parts behind what the sequence holds, and settle what of the prompt ``token_ids`` is computed."""
        begin = kv.n_tokens
        self.place(kv, parts, len(token_ids))
        return self.settle(kv, parts, token_ids, begin, repair)

    def place(self, kv: SequenceKV, parts: Sequence[PlacedPart], n_tokens: int) -> None:
        """Lengthen the sequence to ``n_tokens``, and move each part's keys and values to its place there."""
        rotation = self._model.rotation
        assert rotation is not None, "nothing is composed where keys cannot be moved"
        place(kv, parts, n_tokens, rotation)

    def settle(
        self,
        kv: SequenceKV,
        parts: Sequence[PlacedPart],
        token_ids: Sequence[int],
        begin: int,
        repair: Repair,
        needed: int | None = None,
    ) -> Settled:
        """Choose which tokens of placed parts are computed anew; from position ``needed`` on all are. Up to ``begin``
        the sequence holds what was computed for this prompt, behind that what was placed."""
        composed = composed_of(parts)
        positions = set(composed.positions)
        recomputed = set(repair.choose(composed, self._signal(kv, composed, token_ids, begin, repair)))
        if needed is not None:
            recomputed |= {position for position in positions if position >= needed}
        kept = positions - recomputed
        todo = [position for position in range(begin, len(token_ids)) if position not in kept]
        return Settled(todo, frozenset(recomputed))

    def _signal(
        self, kv: SequenceKV, composed: Composed, token_ids: Sequence[int], begin: int, repair: Repair
    ) -> torch.Tensor | None:
        """Find out what the repair's strategy must know of each composed token, float32 [composed tokens]."""
        if repair.signal is None or not composed.n_tokens:
            return None
        if isinstance(repair.signal, Comparison):
            return self._compared(kv, composed.positions, token_ids, begin, repair.signal)
        return self._weighed(kv, composed.positions, token_ids, begin, repair.signal)

    def _compared(
        self, kv: SequenceKV, positions: list[int], token_ids: Sequence[int], begin: int, signal: Comparison
    ) -> torch.Tensor:
        # In chunks: the first layer's keys and values depend on nothing before them, so the rest is in place already.
        rows = range(begin, positions[-1] + 1)
        size = _COMPARED_CHUNK.get(self._runner.device.type, _COMPARED_CHUNK_ELSEWHERE)
        chunks = [rows[at : at + size] for at in range(0, len(rows), size)]
        found = [self._runner.compared(kv, [token_ids[i] for i in chunk], chunk, signal) for chunk in chunks]
        return torch.cat(found).cpu()[torch.tensor(positions) - begin]

    def _weighed(
        self, kv: SequenceKV, positions: list[int], token_ids: Sequence[int], begin: int, signal: Weighing
    ) -> torch.Tensor:
        # Positions from ``begin`` on that are not composed hold nothing yet: nothing may look at them.
        rows = range(max(positions[-1] + 1, len(token_ids) - PROBE_TOKENS), len(token_ids))
        hidden = torch.ones(len(token_ids) - kv.tail_begin, dtype=torch.bool)
        hidden[: begin - kv.tail_begin] = False
        hidden[torch.tensor([*positions, *rows]) - kv.tail_begin] = False
        probe = Probe(signal)
        self._runner.forward([Work(kv, [token_ids[i] for i in rows], 0, rows, probe, hidden)])
        assert probe.signal is not None
        return probe.signal.cpu()[torch.tensor(positions) - kv.tail_begin]
