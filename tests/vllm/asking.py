"""Requests to an engine, and what came back."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from engine.base import Delta, Engine, GenerateRequest, Piece, Prompt, Sampling, Started
from kvcache import Catalogue, chain_key, root_key


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
    return Piece(kind, tuple(token_ids), label=label, storable=True)  # type: ignore[arg-type]


def tokens(seed: int, n: int, low: int = 300, high: int = 40_000) -> list[int]:
    """Tokens at random, of those that are words or pieces of them."""
    random_ = random.Random(seed)
    return [random_.randrange(low, high) for _ in range(n)]


def prompt_of(seed: int, *lengths: int, question: int = 12, low: int = 300, high: int = 40_000) -> list[Piece]:
    """A header that all prompts share, memories of these lengths, and a question."""
    pieces = [kept("memory", tokens(seed * 100 + i, n, low, high), f"m{seed}.{i}@1") for i, n in enumerate(lengths)]
    turns = Piece("turns", tuple(tokens(seed * 100 + 99, question, low, high)))
    return [kept("header", tokens(7, 9, low, high)), *pieces, turns]


def chain_keys(engine: Engine, pieces: Sequence[Piece], salt: str = "") -> list[str]:
    """Keys of the chained segments of a prompt's kept pieces."""
    key, keys = root_key(engine.fingerprint, salt), []
    for piece in pieces[:-1]:
        key = chain_key(key, piece.token_ids)
        keys.append(key)
    return keys


def copy_segments(source: Catalogue, target: Catalogue, keys: Sequence[str]) -> None:
    """Copy segments' files from one catalogue to another, as they are."""
    known = {entry.key: entry for entry in source.entries()}
    for key in keys:
        for path in source.folder.paths(key):
            copy = target.folder.path / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        target.record(known[key])
