"""Requests to an engine, and what came back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from engine.base import Delta, Engine, GenerateRequest, Piece, Prompt, Sampling, Started


@dataclass(frozen=True)
class Answer:
    """All of one generation."""

    started: Started
    token_ids: tuple[int, ...]
    ttft_s: float
    total_s: float

    @property
    def sources(self) -> list[str]:
        return [report.source for report in self.started.pieces]


async def ask(engine: Engine, request: GenerateRequest) -> Answer:
    begin = time.perf_counter()
    started, tokens, ttft = None, [], 0.0
    async for event in engine.generate(request):
        if isinstance(event, Started):
            started, ttft = event, time.perf_counter() - begin
        elif isinstance(event, Delta):
            tokens.extend(event.token_ids)
    assert started is not None
    return Answer(started, tuple(tokens), ttft, time.perf_counter() - begin)


def greedy(pieces: Sequence[Piece], max_tokens: int = 8, **fields: object) -> GenerateRequest:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return GenerateRequest("r", Prompt(tuple(pieces)), sampling, **fields)  # type: ignore[arg-type]


def kept(kind: str, token_ids: Sequence[int], label: str | None = None) -> Piece:
    return Piece(kind, tuple(token_ids), label=label, keep=True)  # type: ignore[arg-type]
