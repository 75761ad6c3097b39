"""vLLM's automatic prefix cache."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.base import Answer, Job, NotCached, warm_up_tokens


class Vllm:
    """One request at a time. ``direct`` has a salt of its own, so that no block is shared with it."""

    notes = "float32 weights and cache, eager, engine in this process; whole blocks of the prefix are reused"

    def __init__(self, llm: Any, block: int) -> None:
        self._llm = llm
        self._block = block
        self._context: list[int] = []
        self._salts = 0
        self.direct(warm_up_tokens(2 * block))

    def versions(self) -> dict[str, str]:
        import torch
        import vllm

        return {"vllm": vllm.__version__, "torch": torch.__version__}

    def build(self, context: Sequence[int]) -> float:
        self._llm.reset_prefix_cache()
        self._context = list(context)
        answer, _ = self._ask(context)
        return answer.seconds

    def direct(self, tokens: Sequence[int]) -> Answer:
        self._salts += 1
        answer, hit = self._ask(tokens, salt=str(self._salts))
        assert hit == 0, f"{hit} tokens of a prompt that was to be computed were cached"
        return answer

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        if list(context) != self._context:
            self.build(context)
        answer, hit = self._ask([*context, *query])
        if hit < len(context) // self._block * self._block:
            raise NotCached(f"{hit} tokens of {len(context)} were found in the prefix cache")
        return answer

    def _ask(self, tokens: Sequence[int], salt: str | None = None) -> tuple[Answer, int]:
        """The answer, and how many tokens came from the cache."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        prompt = TokensPrompt(prompt_token_ids=list(tokens))
        if salt is not None:
            prompt["cache_salt"] = salt
        sampling = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        (output,) = self._llm.generate(prompt, sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return Answer(seconds, output.outputs[0].token_ids[0]), output.num_cached_tokens or 0

    def close(self) -> None:
        """Its processes end with this one."""


def load_vllm(job: Job, connector: str | None = None) -> Any:
    """``vllm.LLM``, with one of its connectors by name."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{job.threads - 1}")
    # No hop to another process and back: its best for one request at a time.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM
    from vllm.config import KVTransferConfig

    return LLM(
        model=str(job.model),
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=True,
        max_model_len=job.context + 1,
        max_num_seqs=2,
        seed=0,
        kv_transfer_config=connector and KVTransferConfig(kv_connector=connector, kv_role="kv_both"),
    )


def start(job: Job) -> Vllm:
    llm = load_vllm(job)
    return Vllm(llm, llm.llm_engine.vllm_config.cache_config.block_size)
