"""The embedded engine on a tiny model: batching, reuse, aborting, failing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.base import Delta, GenerateRequest, Piece, PieceKind, Prompt, Sampling, Started
from engine.config import BatchingConfig
from engine.errors import ContextTooLong, EngineClosed, EngineError, QueueFull
from engine.transformers import LoadedModel, TransformersEngine, choosing
from engine.transformers.attention import choose
from engine.transformers.attention.kernels.written_out import WRITTEN_OUT
from engine.transformers.attention.side_by_side import SideBySide
from kvcache import TieredStore
from kvcache.files.folder import SegmentFolder
from tests.tiny import tiny_model, tiny_network

GREEDY = Sampling(max_tokens=8, temperature=0.0, ignore_eos=True)


def prompt_of(*lengths: int, seed: int = 0, keep: bool = True) -> Prompt:
    """A prompt of pieces of these lengths; the last one is never kept."""
    pieces = []
    for i, n in enumerate(lengths):
        tokens = tuple((seed * 131 + i * 37 + j * 61) % 250 for j in range(n))
        last = i == len(lengths) - 1
        label = None if i == 0 or last else f"m{seed}.{i}@1"
        kind: PieceKind = "memory" if label else "turns" if last else "header"
        pieces.append(Piece(kind, tokens, label, storable=keep and not last))
    return Prompt(tuple(pieces))


@asynccontextmanager
async def engine_on(model: LoadedModel, folder: Path, **settings: Any) -> AsyncIterator[TransformersEngine]:
    store = TieredStore(folder, **settings.pop("store", {}))
    batching = {"max_running": 16, "max_waiting": 64, "prefill_chunk": 64, "busy_prefill_chunk": 16, **settings}
    engine = TransformersEngine(model, store, model_id="tiny", batching=BatchingConfig(**batching))
    try:
        yield engine
    finally:
        await engine.close()


async def collect(
    engine: TransformersEngine, prompt: Prompt, sampling: Sampling = GREEDY, **request: Any
) -> tuple[Started, dict[int, list[Delta]]]:
    started: Started | None = None
    choices: dict[int, list[Delta]] = {}
    async for event in engine.generate(GenerateRequest("r", prompt, sampling, **request)):
        if isinstance(event, Started):
            assert started is None
            started = event
        else:
            choices.setdefault(event.index, []).append(event)
    assert started is not None
    return started, choices


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def oracle(prompt: Prompt, n: int) -> list[int]:
    """Greedy continuation by plain transformers, without any cache."""
    network = tiny_network()
    ids = list(prompt.token_ids)
    with torch.inference_mode():
        for _ in range(n):
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt.token_ids) :]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.fixture(params=["cpu", "gpu"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> Iterator[None]:
    """Once as on a CPU, once with attention by named kernels and tokens chosen as where the logits are on a GPU."""
    before = choose.attention_of(model.model)
    if request.param == "gpu":
        monkeypatch.setattr(choosing, "OnHost", choosing.OnDevice)
        choose.use(model.model, SideBySide(WRITTEN_OUT))
    yield
    choose.use(model.model, before)


@pytest.mark.usefixtures("_either_way")
def test_every_source_gives_the_tokens_of_full_prefill(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        prompt = prompt_of(20, 9, 300, 11)
        expected = oracle(prompt, 8)
        async with engine_on(model, tmp_path) as engine:
            text, choices = await collect(engine, prompt, use_segments=False)
            assert tokens_of(choices[0]) == expected
            assert engine.catalogue.stats().misses == 0
            sources = []
            for tier in (None, None, "host", "disk"):
                if tier is not None:
                    engine.store.demote(tier)
                started, choices = await collect(engine, prompt)
                assert tokens_of(choices[0]) == expected
                sources.append([report.source for report in started.pieces])
            assert sources[0] == ["computed"] * 4
            assert sources[1] == ["resident"] * 3 + ["computed"]
            assert sources[2] == ["host"] * 3 + ["computed"]
            assert sources[3] == ["disk"] * 3 + ["computed"]
            assert started.cached_tokens == 329
            assert started.prompt_tokens == text.prompt_tokens == 340
        async with engine_on(model, tmp_path) as engine:
            started, choices = await collect(engine, prompt)
            assert tokens_of(choices[0]) == expected
            assert [report.source for report in started.pieces] == ["disk"] * 3 + ["computed"]

    run(test)


def test_a_new_memory_extends_the_chain(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            await collect(engine, prompt_of(20, 9, 11))
            longer = prompt_of(20, 9, 15, 8)
            started, choices = await collect(engine, longer)
            assert [report.source for report in started.pieces] == ["resident", "resident", "computed", "computed"]
            assert tokens_of(choices[0]) == oracle(longer, 8)
            started, _ = await collect(engine, longer)
            assert started.cached_tokens == 44

    run(test)


def test_a_prompt_that_is_stored_whole_still_computes_its_last_token(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            stored = Prompt(prompt_of(20, 9, 11).pieces[:2])
            for _ in range(2):
                started, choices = await collect(engine, stored)
                assert tokens_of(choices[0]) == oracle(stored, 8)
            assert started.cached_tokens == 28

    run(test)


def test_tenants_share_nothing(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(20, 9, 11)
            await collect(engine, prompt, salt="a")
            started, _ = await collect(engine, prompt, salt="b")
            assert started.cached_tokens == 0
            started, _ = await collect(engine, prompt, salt="a")
            assert started.cached_tokens == 29

    run(test)


def test_a_deleted_memory_is_computed_from_text_again(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(20, 9, 30, 11)
            await collect(engine, prompt)
            assert len(engine.catalogue.remove_label("m0.1@1")) == 2
            for _ in range(2):  # the label stays dead: nothing of it is stored again
                started, choices = await collect(engine, prompt)
                assert started.cached_tokens == 20
                assert tokens_of(choices[0]) == oracle(prompt, 8)

    run(test)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 200, None])
def test_a_bad_file_is_computed_from_text(model: LoadedModel, tmp_path: Path, damage: bytes | None) -> None:
    async def test() -> None:
        prompt = prompt_of(20, 9, 30, 11)
        async with engine_on(model, tmp_path) as engine:
            await collect(engine, prompt)
        for path in list(SegmentFolder(tmp_path).files()):
            raw = path.read_bytes()
            path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:] if damage is None else damage)
        async with engine_on(model, tmp_path) as engine:
            started, choices = await collect(engine, prompt)
            assert tokens_of(choices[0]) == oracle(prompt, 8)
            assert started.cached_tokens == 0
            assert engine.catalogue.stats().quarantined == 3  # the chain is read at once, and each file refused
            started, choices = await collect(engine, prompt)
            assert tokens_of(choices[0]) == oracle(prompt, 8)
            assert started.cached_tokens == 59

    run(test)


def test_concurrent_requests_are_independent(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path, max_running=4) as engine:
            prompts = [prompt_of(20, 5 + 7 * i, 3 + i, seed=i % 3) for i in range(9)]
            results = await asyncio.gather(*[collect(engine, prompt) for prompt in prompts])
            for prompt, (_, choices) in zip(prompts, results, strict=True):
                assert tokens_of(choices[0]) == oracle(prompt, 8)

    run(test)


def test_a_new_request_does_not_wait_for_others_to_end(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            long = Sampling(max_tokens=1500, temperature=0.0, ignore_eos=True)
            streams = [asyncio.create_task(collect(engine, prompt_of(9, seed=i), long)) for i in range(8)]
            while engine.capacity().running < 8:
                await asyncio.sleep(0.01)
            _, choices = await collect(engine, prompt_of(700, 5))  # many small chunks
            assert len(tokens_of(choices[0])) == 8
            assert not any(stream.done() for stream in streams)
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            while engine.capacity().running:
                await asyncio.sleep(0.01)

    run(test)


def test_closing_the_stream_aborts_within_a_step(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            sampling = Sampling(max_tokens=1900, temperature=0.0, ignore_eos=True)
            stream = engine.generate(GenerateRequest("r", prompt_of(9), sampling))
            seen = 0
            async for event in stream:
                seen += isinstance(event, Delta)
                if seen == 3:
                    break
            await stream.aclose()
            while engine.capacity().running:
                await asyncio.sleep(0.005)
            _, choices = await collect(engine, prompt_of(9))
            assert len(tokens_of(choices[0])) == 8

    run(test)


def test_n_choices_share_the_prompt(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            _, greedy = await collect(engine, prompt_of(20, 9, 11), n=3)
            assert [tokens_of(greedy[i]) for i in range(3)] == [oracle(prompt_of(20, 9, 11), 8)] * 3
            hot = Sampling(max_tokens=8, temperature=1.5, seed=3, ignore_eos=True)
            _, first = await collect(engine, prompt_of(20, 9, 11), hot, n=3)
            _, again = await collect(engine, prompt_of(20, 9, 11), hot, n=3)
            assert {i: tokens_of(deltas) for i, deltas in first.items()} == {
                i: tokens_of(deltas) for i, deltas in again.items()
            }
            assert len({tuple(tokens_of(deltas)) for deltas in first.values()}) > 1

    run(test)


def test_finish_reasons(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(9)
            expected = oracle(prompt, 8)
            _, choices = await collect(engine, prompt)
            assert choices[0][-1].finish_reason == "length"
            stop = Sampling(max_tokens=8, temperature=0.0, stop_token_ids=(expected[3],))
            _, choices = await collect(engine, prompt, stop)
            assert choices[0][-1].finish_reason == "stop"
            assert tokens_of(choices[0]) == expected[: expected.index(expected[3]) + 1]
            assert all(delta.finish_reason is None for delta in choices[0][:-1])

    run(test)


def test_logprobs_are_those_of_the_model(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(20, 9, 11)
            sampling = Sampling(max_tokens=1, temperature=0.0, logprobs=3, ignore_eos=True)
            _, choices = await collect(engine, prompt, sampling)
            (logprob,) = choices[0][0].logprobs
            with torch.inference_mode():
                logits = tiny_network()(torch.tensor([prompt.token_ids])).logits[0, -1]
            values, ids = torch.log_softmax(logits, -1).topk(3)
            assert [top.token_id for top in logprob.top] == ids.tolist()
            assert logprob.token_id == ids[0]
            torch.testing.assert_close(torch.tensor([top.logprob for top in logprob.top]), values, atol=1e-4, rtol=1e-4)

    run(test)


def test_build_stores_without_generating(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(20, 9, 11)
            assert await engine.build(prompt) == 29
            started, choices = await collect(engine, prompt)
            assert started.cached_tokens == 29
            assert tokens_of(choices[0]) == oracle(prompt, 8)

    run(test)


def test_builds_step_aside_for_requests(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            builds = [asyncio.create_task(engine.build(prompt_of(900, 2, seed=i))) for i in (1, 2)]
            await asyncio.sleep(0.01)
            _, choices = await collect(engine, prompt_of(9))
            assert len(tokens_of(choices[0])) == 8
            assert await asyncio.gather(*builds) == [900, 900]

    run(test)


def test_a_build_that_was_broken_off_is_none_the_worse(model: LoadedModel, tmp_path: Path) -> None:
    """Requests come in the middle of a build's passes, again and again: what it stores is what it would have been."""

    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(700, 5, 11)
            build = asyncio.create_task(engine.build(prompt))
            for seed in range(1, 6):
                await collect(engine, prompt_of(9, seed=seed))
            assert await build == 705
            started, choices = await collect(engine, prompt)
            assert started.cached_tokens == 705
            assert tokens_of(choices[0]) == oracle(prompt, 8)

    run(test)


def test_what_does_not_fit_is_refused_with_the_counts(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            with pytest.raises(ContextTooLong) as caught:
                await collect(engine, prompt_of(2045), GREEDY)
            assert (caught.value.prompt_tokens, caught.value.max_tokens, caught.value.context) == (2045, 8, 2048)
            with pytest.raises(ValueError, match="at least one token"):
                await collect(engine, Prompt(()))

    run(test)


def test_a_full_queue_and_a_closed_engine_refuse(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path, max_running=1, max_waiting=2) as engine:
            sampling = Sampling(max_tokens=1900, temperature=0.0, ignore_eos=True)
            tasks = [asyncio.create_task(collect(engine, prompt_of(9, seed=i), sampling)) for i in range(3)]
            while engine.capacity().waiting < 2:
                await asyncio.sleep(0.01)
            with pytest.raises(QueueFull):
                await collect(engine, prompt_of(9))
            await engine.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, EngineClosed) for result in results)
            with pytest.raises(EngineClosed):
                await collect(engine, prompt_of(9))

    run(test)


def test_closing_drains_what_runs(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            sampling = Sampling(max_tokens=400, temperature=0.0, ignore_eos=True)
            task = asyncio.create_task(collect(engine, prompt_of(9), sampling))
            while not engine.capacity().running and not task.done():
                await asyncio.sleep(0)
            await engine.close(drain_s=60.0)
            _, choices = await task
            assert len(tokens_of(choices[0])) == 400

    run(test)


def test_a_failed_step_fails_its_requests_and_not_the_engine(tmp_path: Path) -> None:
    async def test() -> None:
        broken = tiny_model()
        async with engine_on(broken, tmp_path) as engine:
            hook = broken.model.model.layers[0].register_forward_pre_hook(_explode)
            with pytest.raises(EngineError, match="RuntimeError"):
                await collect(engine, prompt_of(9))
            hook.remove()
            _, choices = await collect(engine, prompt_of(9))
            assert tokens_of(choices[0]) == oracle(prompt_of(9), 8)

    run(test)


def test_a_request_whose_admission_fails_is_told_so(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(engine.catalogue, "match", _explode)
                with pytest.raises(EngineError, match="RuntimeError"):
                    await collect(engine, prompt_of(9))
            _, choices = await collect(engine, prompt_of(9))
            assert tokens_of(choices[0]) == oracle(prompt_of(9), 8)

    run(test)


@pytest.mark.usefixtures("_either_way")
def test_logits_that_cannot_be_sampled_from_fail_their_own_request_only(tmp_path: Path) -> None:
    async def test() -> None:
        broken = tiny_model()
        async with engine_on(broken, tmp_path) as engine:
            greedy = asyncio.create_task(
                collect(engine, prompt_of(9), Sampling(max_tokens=600, temperature=0.0, ignore_eos=True))
            )
            while not engine.capacity().running:
                await asyncio.sleep(0.001)
            wrong = Sampling(max_tokens=8, temperature=1.0, logit_bias={i: float("nan") for i in range(258)})
            with pytest.raises(EngineError, match="choosing a token"):
                await collect(engine, prompt_of(9, seed=1), wrong)
            _, choices = await greedy
            assert tokens_of(choices[0])[:8] == oracle(prompt_of(9), 8)

    run(test)


def _explode(*_: object) -> None:
    raise RuntimeError("out of memory, say")
