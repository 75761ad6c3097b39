"""One forward pass of a ragged batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.transformers.attention import Chunk, RaggedBatch, SequenceKV


@dataclass(frozen=True, eq=False)
class Work:
    """New tokens of one sequence. ``last_only`` logits are wanted of the last one, or of none."""

    kv: SequenceKV
    token_ids: Sequence[int]
    wants_logits: bool = True


class ModelRunner:
    """Runs the model on new tokens and grows the sequences' tails. Owned by one thread."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.device: torch.device = model.device

    @torch.inference_mode()
    def forward(self, batch: Sequence[Work]) -> torch.Tensor:
        """Float32 logits [wanted, vocabulary], a row for each piece of work with ``wants_logits``, in order."""
        chunks: list[Chunk] = []
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for work in batch:
            work.kv.reserve(len(work.token_ids))
            begin, past = len(tokens), work.kv.n_tokens
            tokens.extend(work.token_ids)
            positions.extend(range(past, past + len(work.token_ids)))
            chunks.append(Chunk(work.kv, begin, len(tokens)))
            if work.wants_logits:
                wanted.append(len(tokens) - 1)
        logits = self._call(tokens, positions, wanted, RaggedBatch(chunks))
        for work in batch:
            work.kv.tail_tokens += len(work.token_ids)
        return logits

    def _call(self, tokens: list[int], positions: list[int], wanted: list[int], ragged: RaggedBatch) -> torch.Tensor:
        output = self._model(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, dtype=torch.long, device=self.device),
            ragged=ragged,
        )
        logits: torch.Tensor = output.logits[0].float()
        return logits
