"""KVBoost: chunks of 128 tokens, stored by their content."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from kvboost import GenerationMode, KVBoost

from benchmarks.peers import hf
from benchmarks.peers.base import Answer, Job, NotCached, warm_up_tokens


class _FirstToken:
    """Notes when the first token came, and which it was."""

    def __init__(self) -> None:
        self.at = 0.0
        self.token_id = -1

    def __call__(self, token_id: int) -> None:
        if not self.at:
            self.at, self.token_id = time.perf_counter(), token_id


class Kvboost:
    """As its documentation says: ``warm`` the context, then ``generate``. What it does after the first token (it
    encodes the question's chunks for its cache) is not timed."""

    notes = (
        "float32 weights and cache, its default strategy (selective); chunks are built one by one, unseen by each other"
    )

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._context: list[int] = []
        self.direct(warm_up_tokens(32))

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"kvboost": version("kvboost"), **hf.versions()}

    def build(self, context: Sequence[int]) -> float:
        self._engine.reset_cache()
        self._context = list(context)
        text = hf.as_text(context)
        begin = time.perf_counter()
        self._engine.warm(text)
        return time.perf_counter() - begin

    def direct(self, tokens: Sequence[int]) -> Answer:
        answer, _ = self._ask(tokens, GenerationMode.BASELINE, keep=None)
        return answer

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        if list(context) != self._context:
            self.build(context)
        # What precedes the question is cached, the question is not to be.
        answer, hit = self._ask([*context, *query], GenerationMode.CHUNK_KV_REUSE, keep=len(context))
        chunk = self._engine.chunk_registry.chunk_size
        if hit < len(context) // chunk * chunk:
            raise NotCached(f"{hit} tokens of {len(context)} were found in its cache")
        return answer

    def _ask(self, tokens: Sequence[int], mode: GenerationMode, keep: int | None) -> tuple[Answer, int]:
        """The answer, and how many tokens came from the cache."""
        text, first = hf.as_text(tokens), _FirstToken()
        begin = time.perf_counter()
        result = self._engine.generate(text, 1, mode, cacheable_prefix_len=keep, on_token=first)
        return Answer(first.at - begin, first.token_id), result.cached_tokens

    def close(self) -> None:
        """Nothing to end."""


def start(job: Job) -> Kvboost:
    # Its own loader takes float16 only; the constructor takes any model.
    model = hf.load(job)
    chunks = 2 * (job.context // 128 + 1)
    engine = KVBoost(model, hf.IdTokenizer(), max_cache_bytes=8 << 30, max_chunks=chunks, device="cpu")
    torch.set_num_threads(job.threads)
    return Kvboost(engine)
