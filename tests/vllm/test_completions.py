"""Log-likelihoods of prompts in vLLM: those of plain transformers, whatever of the prompt is stored."""

from __future__ import annotations

import pytest
import torch

from engine.base import Delta, GenerateRequest, MemoryText, Sampling, Started
from engine.vllm.engine import VllmEngine
from tests.tiny import tiny_network
from tests.vllm.asking import ask, greedy
from tests.vllm.shared import TINY, engine_thread, tiny_engine

run = engine_thread().run


async def events_of(engine: VllmEngine, request: GenerateRequest) -> tuple[Started, list[Delta]]:
    started, deltas = None, []
    async for event in engine.generate(request):
        if isinstance(event, Started):
            started = event
        else:
            deltas.append(event)
    assert started is not None
    return started, deltas


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_scores_behind_memories_are_those_of_plain_transformers(max_tokens: int) -> None:
    """Also when all of the prompt is in vLLM's cache and in segments: what is scored is computed, and the receipt says
    so."""
    engine = tiny_engine()
    memories = [MemoryText("a@1", "My dog is called Biscuit."), MemoryText("b@1", "I live in Lisbon by the sea.")]
    tokens = engine.prompts.tokenize("Biscuit lives in Lisbon 🦊")
    prompt = engine.prompts.render_completion(tokens, memories)
    with torch.inference_mode():
        logits = tiny_network(**TINY)(torch.tensor([prompt.token_ids])).logits[0].float()
    rows = torch.log_softmax(logits, -1)[-len(tokens) - 1 : -1]
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, logprobs=3)

    async def go() -> None:
        await ask(engine, greedy(prompt.pieces))
        again = await ask(engine, greedy(prompt.pieces))
        assert again.started.cached_tokens > 0
        for fidelity in ("exact", "fast"):
            request = GenerateRequest("r", prompt, sampling, n=2, fidelity=fidelity, score_last=len(tokens))
            started, deltas = await events_of(engine, request)
            assert [score.token_id for score in started.scores] == tokens
            for score, row in zip(started.scores, rows, strict=True):
                assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-3)
                assert [top.logprob for top in score.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
            assert started.cached_tokens == 0
            assert {report.source for report in started.pieces} == {"computed"}
            for index in range(2):
                mine = [delta for delta in deltas if delta.index == index]
                assert sum(len(delta.token_ids) for delta in mine) == max_tokens
                assert [delta.finish_reason for delta in mine if delta.finish_reason] == ["length"]

    run(go())


def test_the_first_token_of_all_has_no_probability() -> None:
    engine = tiny_engine()
    prompt = engine.prompts.render_completion(engine.prompts.tokenize("abc"))

    async def go() -> None:
        request = GenerateRequest("r", prompt, Sampling(max_tokens=0, logprobs=0), score_last=3)
        started, _ = await events_of(engine, request)
        assert [score.logprob is None for score in started.scores] == [True, False, False]

    run(go())
