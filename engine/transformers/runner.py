"""One forward pass of a ragged batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.transformers.attention.choose import attention_of
from engine.transformers.attention.ragged import Chunk, Probe, RaggedBatch, ShallowPassDone, Slots
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.governor import Kind, ThreadGovernor, governed
from engine.transformers.upload import upload
from kvcache.repair import Comparison

_LAYERS_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Work:
    """New tokens of one sequence, and of how many of the last ones logits are wanted.

    Without ``positions`` they follow the sequence's end. With them (ascending) each is computed at its place in an
    opened region of the tail, over what was there; ``hidden`` are slots that it must not see, bool [slots], because
    nothing is there yet.
    """

    kv: SequenceKV
    token_ids: Sequence[int]
    n_logits: int = 1
    positions: Sequence[int] | None = None
    probe: Probe | None = None
    hidden: torch.Tensor | None = None

    def all_positions(self) -> Sequence[int]:
        begin = self.kv.n_tokens
        return range(begin, begin + len(self.token_ids)) if self.positions is None else self.positions


class PacedInterrupt:
    """Asks ``interrupt`` at the pace of the device, not of the launches: a GPU is given all layers of a pass at once,
    after which nothing can be given up. At most twice ``_LAYERS_AHEAD`` layers are launched and not done."""

    def __init__(self, interrupt: Callable[[], bool], new_event: Callable[[], Any]) -> None:
        self._interrupt = interrupt
        self._new_event = new_event
        self._asked = 0
        self._before: Any = None

    def __call__(self) -> bool:
        """Say whether to give up; called before each layer."""
        if self._asked % _LAYERS_AHEAD == 0:
            event = self._new_event()
            event.record()
            if self._before is not None:
                self._before.synchronize()
            self._before = event
        self._asked += 1
        return self._interrupt()


class ModelRunner:
    """Runs the model on new tokens and grows the sequences' tails. Owned by one thread, which computes with as many
    CPU threads as ``governor`` says (None: with as many as it was told to)."""

    def __init__(self, model: Any, governor: ThreadGovernor | None = None) -> None:
        self._model = model
        self._governor = governor
        self.device: torch.device = model.device

    @torch.inference_mode()
    def forward(self, batch: Sequence[Work], interrupt: Callable[[], bool] | None = None) -> torch.Tensor:
        """Run a pass; returns float32 logits [wanted, vocabulary], of each piece of work the wanted rows, in order.
        Raises ``Interrupted`` as soon as ``interrupt`` says so; nothing has happened then."""
        if interrupt is not None and self.device.type == "cuda":
            interrupt = PacedInterrupt(interrupt, torch.cuda.Event)
        chunks: list[Chunk] = []
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for work in batch:
            chunks.append(self._chunk(work, len(tokens)))
            tokens.extend(work.token_ids)
            positions.extend(work.all_positions())
            wanted.extend(range(len(tokens) - work.n_logits, len(tokens)))
        if self._governor is not None:
            interrupt = self._governor.watching(interrupt)
        call = functools.partial(self._call, tokens, positions, wanted, chunks, interrupt)
        plain = all(work.positions is None for work in batch)  # others stop half way, or see less
        kind = Kind.of(len(batch), len(tokens), sum(work.kv.n_tokens for work in batch)) if plain else None
        logits = call() if self._governor is None else governed(self._governor, kind, len(tokens), call)
        for work in batch:
            if work.positions is None:
                work.kv.tail_tokens += len(work.token_ids)
        return logits

    @torch.inference_mode()
    def compared(
        self, kv: SequenceKV, token_ids: Sequence[int], positions: Sequence[int], signal: Comparison
    ) -> torch.Tensor:
        """Compare the keys and values that these tokens ask for with those in the sequence, float32 [tokens] on the
        model's device. The sequence stays as it is but for the layers before the one that is compared."""
        probe = Probe(signal)
        try:
            self.forward([Work(kv, token_ids, 0, positions, probe)])
        except ShallowPassDone:
            assert probe.signal is not None
            return probe.signal
        raise AssertionError("the pass went past the layer that it was to stop at")

    def wait(self) -> None:
        """Wait until the device has done what it was given: without logits to fetch, a pass on a GPU returns at
        once."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _chunk(self, work: Work, begin: int) -> Chunk:
        end = begin + len(work.token_ids)
        if work.positions is None:
            work.kv.reserve(len(work.token_ids))
            return Chunk(work.kv, begin, end)
        slots = [position - work.kv.tail_begin for position in work.positions]
        seen = slots[-1] + 1
        assert 0 <= slots[0] < seen <= work.kv.tail_tokens, "only opened slots can be computed over"
        hidden = None if work.hidden is None else work.hidden[:seen].to(self.device)
        is_run = hidden is None and seen - slots[0] == len(slots)
        return Chunk(work.kv, begin, end, Slots(upload(slots, self.device), seen, hidden, is_run), work.probe)

    def _call(
        self,
        tokens: list[int],
        positions: list[int],
        wanted: list[int],
        chunks: Sequence[Chunk],
        interrupt: Callable[[], bool] | None,
    ) -> torch.Tensor:
        # One transfer for all three.
        numbers = upload([*tokens, *positions, *wanted], self.device)
        ids, places, rows = torch.split(numbers, [len(tokens), len(positions), len(wanted)])
        output = self._model(
            input_ids=ids[None],
            position_ids=places[None],
            use_cache=False,
            logits_to_keep=rows,
            ragged=RaggedBatch(chunks, attention_of(self._model), interrupt, rows),
        )
        logits: torch.Tensor = output.logits[0].float()
        return logits
