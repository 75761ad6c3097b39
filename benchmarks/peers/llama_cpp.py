"""llama.cpp's prompt cache, through llama-cpp-python."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import llama_cpp

from benchmarks.peers.base import Answer, Job, NotCached, warm_up_tokens


class LlamaCpp:
    """``Llama.generate`` keeps what was evaluated and evaluates what follows the longest common prefix. A second
    context over the same mapped weights answers what is not to be cached, so that the first keeps its cache."""

    notes = "float32 weights and cache, flash attention, built for this machine's instructions"

    def __init__(self, keeping: Any, other: Any) -> None:
        self._keeping = keeping
        self._other = other
        self._context: list[int] = []
        for llama in (keeping, other):
            self._ask(llama, warm_up_tokens(32))

    def versions(self) -> dict[str, str]:
        return {"llama-cpp-python": llama_cpp.__version__}

    def build(self, context: Sequence[int]) -> float:
        self._keeping.reset()
        self._context = list(context)
        begin = time.perf_counter()
        self._keeping.eval(list(context))
        # Evaluation may still be going on until something is read.
        llama_cpp.llama_synchronize(self._keeping.ctx)
        return time.perf_counter() - begin

    def direct(self, tokens: Sequence[int]) -> Answer:
        self._other.reset()
        return self._ask(self._other, tokens)

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        if list(context) != self._context:
            self.build(context)
        if self._keeping.n_tokens != len(context):
            raise NotCached(f"{self._keeping.n_tokens} tokens are cached, not {len(context)}")
        answer = self._ask(self._keeping, [*context, *query])
        self._keeping.n_tokens = len(context)  # the question is forgotten: another may begin like it
        return answer

    @staticmethod
    def _ask(llama: Any, tokens: Sequence[int]) -> Answer:
        prompt = list(tokens)
        begin = time.perf_counter()
        token_id = next(llama.generate(prompt, temp=0.0))
        return Answer(time.perf_counter() - begin, int(token_id))

    def close(self) -> None:
        self._keeping.close()
        self._other.close()


def start(job: Job) -> LlamaCpp:
    def context() -> Any:
        return llama_cpp.Llama(
            str(job.model),
            n_ctx=job.context + 1,
            n_threads=job.threads,
            n_threads_batch=job.threads,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            flash_attn=True,  # as llama.cpp's own programs choose; faster here than without
            verbose=False,
        )

    return LlamaCpp(context(), context())
