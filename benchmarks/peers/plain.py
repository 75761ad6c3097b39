"""Plain transformers: a ``DynamicCache`` kept between questions, which is what MemOS does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from benchmarks.peers import hf
from benchmarks.peers.base import Answer, Job, warm_up_tokens


class Plain:
    """Keeps one context. A question's tokens are cropped off the cache again outside the measured time, rather than
    the cache copied within it."""

    notes = "float32 weights and cache, sdpa; the cache is cropped back after each question, untimed"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._context: list[int] = []
        self._cache = DynamicCache(config=model.config)
        self.build(warm_up_tokens(32))

    def versions(self) -> dict[str, str]:
        return hf.versions()

    def build(self, context: Sequence[int]) -> float:
        self._cache = DynamicCache(config=self._model.config)
        answer = self._ask(context, self._cache)
        self._context = list(context)
        return answer.seconds

    def direct(self, tokens: Sequence[int]) -> Answer:
        return self._ask(tokens, DynamicCache(config=self._model.config))

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        if list(context) != self._context:
            self.build(context)
        answer = self._ask(query, self._cache)
        self._cache.crop(len(self._context))
        return answer

    @torch.inference_mode()
    def _ask(self, tokens: Sequence[int], cache: Any) -> Answer:
        begin = time.perf_counter()
        out = self._model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        token_id = int(out.logits[0, -1].argmax())
        return Answer(time.perf_counter() - begin, token_id)

    def close(self) -> None:
        """Nothing to end."""


def start(job: Job) -> Plain:
    return Plain(hf.load(job))
