"""Greedy tokens of vLLM without a connector, computed in a process of its own: python -m tests.vllm.plain IN OUT.

IN is JSON: {"model": folder, "prompts": [[token, ...], ...], "max_tokens": n}; OUT becomes a list of lists of tokens.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(source: str, target: str) -> None:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    asked = json.loads(Path(source).read_text())
    llm = LLM(
        asked["model"],
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        max_num_batched_tokens=512,
        max_num_seqs=16,
        disable_log_stats=True,
    )
    params = SamplingParams(max_tokens=asked["max_tokens"], temperature=0.0, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in asked["prompts"]], params, use_tqdm=False)
    Path(target).write_text(json.dumps([list(output.outputs[0].token_ids) for output in outputs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
