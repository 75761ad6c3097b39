"""Log-likelihoods of prompt tokens against plain transformers, with and without injected memories."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.base import GenerateRequest, MemoryText, PageRequest, Prompt, Sampling, Started
from engine.config import BatchingConfig, CompositionConfig
from engine.transformers import LoadedModel, TransformersEngine
from engine.transformers.runner import ModelRunner
from kvcache import Repair, TieredStore
from tests.engine.test_engine import collect, engine_on, prompt_of, run, tokens_of
from tests.tiny import tiny_model, tiny_network

SCORE = Sampling(max_tokens=0, logprobs=3)
ATOL = 2e-4


def oracle(network: Any, token_ids: tuple[int, ...]) -> torch.Tensor:
    """float32 log-probabilities [tokens - 1, vocabulary] of each next token."""
    with torch.inference_mode():
        return torch.log_softmax(network(torch.tensor([token_ids])).logits[0, :-1].float(), -1)


def check(scores: Any, prompt: Prompt, expected: torch.Tensor, n: int) -> None:
    token_ids = prompt.token_ids
    assert [score.token_id for score in scores] == list(token_ids[-n:])
    for position, score in enumerate(scores, len(token_ids) - n):
        if position == 0:
            assert (score.logprob, score.top) == (None, ())
            continue
        row = expected[position - 1]
        assert score.logprob == pytest.approx(float(row[score.token_id]), abs=ATOL)
        assert [top.logprob for top in score.top] == pytest.approx(row.topk(3).values.tolist(), abs=ATOL)


@pytest.mark.parametrize("n", [1, 2, 7, 90, 420])
def test_scores_are_those_of_plain_transformers(model: LoadedModel, tmp_path: Path, n: int) -> None:
    """Whatever of the prompt is stored: from memory pieces, and in the chunks that a prompt is computed in."""

    async def test() -> None:
        prompt = prompt_of(20, 9, 300, 91)
        assert prompt.n_tokens == 420
        expected = oracle(tiny_network(), prompt.token_ids)
        async with engine_on(model, tmp_path) as engine:
            for request in ({"use_segments": False}, {}, {}):
                started, choices = await collect(engine, prompt, SCORE, score_last=n, **request)
                check(started.scores, prompt, expected, n)
                assert [delta.finish_reason for delta in choices[0]] == ["length"]
                assert tokens_of(choices[0]) == []
            assert started.cached_tokens == max(0, min(329, 420 - n - 1))
            assert started.prompt_tokens == 420

    run(test)


def test_a_single_token_has_no_probability(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            started, choices = await collect(engine, prompt_of(1), SCORE, score_last=1, n=2)
            assert [score.logprob for score in started.scores] == [None]
            assert sorted(choices) == [0, 1]

    run(test)


def test_scored_prompts_beside_streams_and_each_other(model: LoadedModel, tmp_path: Path) -> None:
    """Every row of a step's logits goes to whom it belongs."""

    async def test() -> None:
        prompts = [prompt_of(20 + 7 * i, 5, 60 + i, seed=i) for i in range(5)]
        sampling = Sampling(max_tokens=8, temperature=0.0, ignore_eos=True, logprobs=3)
        async with engine_on(model, tmp_path) as engine:
            alone = [await collect(engine, prompt, sampling, use_segments=False) for prompt in prompts]
            together = await asyncio.gather(
                *(
                    collect(engine, prompt, sampling, use_segments=False, score_last=(prompt.n_tokens if i % 2 else 0))
                    for i, prompt in enumerate(prompts)
                )
            )
        for i, (prompt, (_, expected), (started, choices)) in enumerate(zip(prompts, alone, together, strict=True)):
            assert tokens_of(choices[0]) == tokens_of(expected[0])
            if i % 2:
                check(started.scores, prompt, oracle(tiny_network(), prompt.token_ids), prompt.n_tokens)

    run(test)


def test_logits_are_never_kept_for_a_long_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    forward = ModelRunner.forward

    def watched(self: ModelRunner, *args: Any, **more: Any) -> torch.Tensor:
        logits = forward(self, *args, **more)
        rows.append(len(logits))
        return logits

    async def test() -> None:
        model = tiny_model()
        monkeypatch.setattr(ModelRunner, "forward", watched)
        async with engine_on(model, tmp_path, prefill_chunk=2048) as engine:
            prompts = [prompt_of(900, seed=seed) for seed in range(3)]
            found = await asyncio.gather(*(collect(engine, prompt, SCORE, score_last=900) for prompt in prompts))
            assert [len(started.scores) for started, _ in found] == [900] * 3
        assert max(rows) <= 256

    run(test)


def test_composed_memories_are_scored_behind(model: LoadedModel, tmp_path: Path) -> None:
    """What is scored is computed, and what is composed before it moves no row: with all of it repaired the scores are
    those of full prefill."""

    async def test() -> None:
        store = TieredStore(tmp_path)
        composing = CompositionConfig(max_kl=float("inf"), min_saved_tokens=0)
        engine = TransformersEngine(
            model, store, model_id="tiny", batching=BatchingConfig(16, 64, 16), composing=composing
        )
        try:
            memories = [MemoryText(f"m{i}@1", f"Fact {i}: the {i} foxes live in the {i} woods.") for i in range(3)]
            prompt = engine.prompts.render_completion(engine.prompts.tokenize("The foxes live"), memories)
            header, *pieces, _ = prompt.pieces
            assert await engine.build_page(PageRequest(header, tuple(reversed(pieces))))
            n = len(engine.prompts.tokenize("The foxes live"))
            expected = oracle(tiny_network(), prompt.token_ids)
            started, _ = await collect(
                engine, prompt, SCORE, fidelity="high", repair=Repair("first", 1.0), score_last=n
            )
            assert any(report.fidelity == "high" for report in started.pieces)
            check(started.scores, prompt, expected, n)
            # A part of what is composed is asked for: it is computed as well.
            started, _ = await collect(engine, prompt, SCORE, fidelity="fast", score_last=prompt.n_tokens - 3)
            assert len(started.scores) == prompt.n_tokens - 3
        finally:
            await engine.close()

    run(test)


@pytest.mark.parametrize("kind", ["qwen3", "gemma", "mistral"])
def test_other_architectures(kind: str, tmp_path: Path) -> None:
    """Fused layers, and layers that are left as they are."""

    async def test() -> None:
        prompt = prompt_of(12, 40, 30)
        async with engine_on(tiny_model(kind), tmp_path) as engine:
            started, _ = await collect(engine, prompt, SCORE, score_last=30)
            check(started.scores, prompt, oracle(tiny_network(kind), prompt.token_ids), 30)

    run(test)


def test_the_demo_model_scores_memories_as_plain_transformers(
    demo_model: LoadedModel, demo_folder: Path, tmp_path: Path
) -> None:
    async def test() -> None:
        engine = TransformersEngine(demo_model, TieredStore(tmp_path), model_id="demo")
        try:
            memories = [MemoryText("a@1", "My dog is called Biscuit."), MemoryText("b@1", "I live in Lisbon.")]
            tokens = engine.prompts.tokenize("My dog, whose name is Biscuit, lives in Lisbon with me.")
            prompt = engine.prompts.render_completion(tokens, memories)
            found: list[Started] = []
            for request in ({"use_segments": False}, {}, {}):
                started, _ = await collect(engine, prompt, SCORE, score_last=len(tokens), **request)
                found.append(started)
        finally:
            await engine.close()
        network = AutoModelForCausalLM.from_pretrained(demo_folder, dtype=torch.float32).eval()
        expected = oracle(network, prompt.token_ids)
        for started in found:
            check(started.scores, prompt, expected, len(tokens))
        assert [report.source for report in found[-1].pieces] == ["resident"] * 3 + ["computed"]

    run(test)


def test_what_is_scored_is_not_taken_from_a_conversation(model: LoadedModel, tmp_path: Path) -> None:
    """The turns of a conversation are stored to their end; tokens in them are computed when they are to be scored."""

    async def test() -> None:
        prompt = prompt_of(20, 9, 40)
        async with engine_on(model, tmp_path) as engine:
            await collect(engine, prompt, keep_turns=True)
            again, _ = await collect(engine, prompt, keep_turns=True)
            assert again.cached_tokens == 68
            started, _ = await collect(engine, prompt, SCORE, score_last=25)
            check(started.scores, prompt, oracle(tiny_network(), prompt.token_ids), 25)
            assert started.cached_tokens == 69 - 26

    run(test)


def test_a_request_says_what_it_needs() -> None:
    prompt = prompt_of(4, 6)
    assert GenerateRequest("r", prompt).needed_from == 9
    assert GenerateRequest("r", prompt, score_last=6).needed_from == 3
    assert GenerateRequest("r", prompt, score_last=10).needed_from == 0
