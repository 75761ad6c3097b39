"""The device's memory: who waits for it, who gives way, who fails when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from engine.base import Sampling
from engine.errors import OutOfDeviceMemory, TooLargeForMemory
from engine.transformers import LoadedModel, TransformersEngine, results
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.budget import kv_budget
from engine.transformers.choosing import Asked, OnDevice
from engine.transformers.cost import CostModel
from engine.transformers.runner import ModelRunner, Work
from engine.vocabulary import Vocabulary
from kvcache import Loaded, TieredStore
from kvcache.copies import Copied
from server.http.errors import describe
from tests.engine.test_engine import collect, engine_on, oracle, prompt_of, run, tokens_of

Forward = Callable[..., torch.Tensor]


@contextmanager
def short_of_memory(refused: Callable[[Sequence[Work]], bool]) -> Iterator[list[int]]:
    """Within the block passes that ``refused`` says so of find no memory; how many did."""
    forward: Forward = ModelRunner.forward
    found: list[int] = []

    def limited(runner: ModelRunner, batch: Sequence[Work], *rest: Any) -> torch.Tensor:
        if refused(batch):
            found.append(len(batch))
            raise torch.OutOfMemoryError("CUDA out of memory. (as if)")
        return forward(runner, batch, *rest)

    with patch.object(ModelRunner, "forward", limited):
        yield found


def test_segments_give_way_and_the_request_goes_on(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            await collect(engine, prompt_of(20, 300, 9, seed=1))
            assert engine.catalogue.stats().bytes["device"] > 0
            prompt = prompt_of(20, 9, 11, seed=2)
            with short_of_memory(lambda batch: engine.catalogue.stats().bytes["device"] > 0) as found:
                _, choices = await collect(engine, prompt, use_segments=False)
            assert tokens_of(choices[0]) == oracle(prompt, 8)
            assert len(found) == 1, "once more, when the segments had left"
            assert engine.catalogue.stats().bytes["host"] > 0

    run(test)


def test_only_the_largest_request_fails(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        small, large = prompt_of(20, 9, 11), prompt_of(20, 9, 400, seed=3)
        async with engine_on(model, tmp_path) as engine:
            with short_of_memory(lambda batch: sum(work.kv.n_tokens + len(work.token_ids) for work in batch) > 300):
                results = await asyncio.gather(collect(engine, small), collect(engine, large), return_exceptions=True)
            assert not isinstance(results[0], BaseException)
            assert tokens_of(results[0][1][0]) == oracle(small, 8)
            assert isinstance(results[1], OutOfDeviceMemory)
            _, choices = await collect(engine, large)  # there is memory again
            assert tokens_of(choices[0]) == oracle(large, 8)

    run(test)


@pytest.mark.parametrize("where", ["place", "start", "store"])
def test_elsewhere_it_is_the_request_that_needs_the_memory(model: LoadedModel, tmp_path: Path, where: str) -> None:
    """Storing segments is not worth failing for."""

    async def test() -> None:
        prompt, name = prompt_of(20, 9, 11), {"place": "inject", "start": "__init__", "store": "copy_range"}[where]
        short = patch.object(SequenceKV, name, side_effect=torch.OutOfMemoryError("as if"))
        async with engine_on(model, tmp_path) as engine:
            await collect(engine, prompt_of(20, 9, 15, seed=9))
            if where == "place":
                await collect(engine, prompt)
            with short:
                if where == "store":
                    _, choices = await collect(engine, prompt)
                    assert tokens_of(choices[0]) == oracle(prompt, 8)
                else:
                    with pytest.raises(OutOfDeviceMemory):
                        await collect(engine, prompt)
            _, choices = await collect(engine, prompt)
            assert tokens_of(choices[0]) == oracle(prompt, 8)
            assert engine.capacity().running == 0

    run(test)


def test_scores_that_find_no_memory_are_counted_once(model: LoadedModel, tmp_path: Path) -> None:
    from engine.transformers import scoring

    named, calls = scoring.token_logprobs, iter(range(100))

    def short_once(*args: Any) -> Any:
        scores = named(*args)
        if next(calls) == 0:
            raise torch.OutOfMemoryError("as if")
        return scores

    async def test() -> None:
        prompt = prompt_of(20, 9, 11)
        async with engine_on(model, tmp_path) as engine:
            with patch.object(scoring, "token_logprobs", short_once):
                started, choices = await collect(engine, prompt, score_last=10)
            assert len(started.scores) == 10
            assert tokens_of(choices[0]) == oracle(prompt, 8)

    run(test)


@pytest.mark.parametrize("times", [1, 2])
def test_choosing_tokens_that_finds_no_memory(model: LoadedModel, tmp_path: Path, times: int) -> None:
    """Once, and it is done again, with the same random numbers; twice, and the step's requests fail, and no others."""
    short = iter(range(100))

    def choose(asked: Sequence[Asked], logits: torch.Tensor, vocabulary: Vocabulary) -> OnDevice:
        chosen = OnDevice(asked, logits, vocabulary)
        if next(short) in range(2, 2 + times):
            raise torch.OutOfMemoryError("as if")
        return chosen

    async def test() -> None:
        prompt, sampling = prompt_of(20, 9, 11), Sampling(max_tokens=8, seed=5)
        async with engine_on(model, tmp_path) as engine:
            with patch.object(results, "chooser", OnDevice):
                _, expected = await collect(engine, prompt, sampling)
            with patch.object(results, "chooser", choose):
                if times == 1:
                    _, choices = await collect(engine, prompt, sampling)
                    assert tokens_of(choices[0]) == tokens_of(expected[0])
                else:
                    with pytest.raises(OutOfDeviceMemory):
                        await collect(engine, prompt, sampling)
            _, choices = await collect(engine, prompt)
            assert tokens_of(choices[0]) == oracle(prompt, 8)
            assert engine.capacity().running == 0

    run(test)


def test_choices_that_find_no_memory_begin_once(model: LoadedModel, tmp_path: Path) -> None:
    fork, calls = SequenceKV.fork, iter(range(100))

    def short_once(kv: SequenceKV, expected_tokens: int) -> SequenceKV:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("as if")
        return fork(kv, expected_tokens)

    async def test() -> None:
        prompt = prompt_of(20, 9, 11)
        async with engine_on(model, tmp_path) as engine:
            with patch.object(SequenceKV, "fork", short_once):
                _, choices = await collect(engine, prompt, n=3)
            assert [tokens_of(choices[i]) for i in range(3)] == [oracle(prompt, 8)] * 3

    run(test)


def test_requests_wait_until_their_bytes_fit_and_the_tier_gives_way(model: LoadedModel, tmp_path: Path) -> None:
    per_token = model.fingerprint.layout.bytes_per_token
    prompts = [prompt_of(20, 9, 71, seed=i) for i in range(4)]  # of 108 tokens with their answers

    async def test() -> None:
        async with engine_on(model, tmp_path, kv_bytes=250 * per_token) as engine:
            running: list[int] = []
            device: list[int] = []
            forward: Forward = ModelRunner.forward

            def watched(runner: ModelRunner, batch: Sequence[Work], *rest: Any) -> torch.Tensor:
                running.append(len(engine._worker.requests.running))
                device.append(engine.catalogue.stats().bytes["device"] + 108 * per_token * running[-1])
                return forward(runner, batch, *rest)

            with patch.object(ModelRunner, "forward", watched):
                results = await asyncio.gather(*(collect(engine, prompt) for prompt in prompts))
            for prompt, (_, choices) in zip(prompts, results, strict=True):
                assert tokens_of(choices[0]) == oracle(prompt, 8)
            assert max(running) == 2
            assert max(device) <= 250 * per_token
            await collect(engine, prompts[0])
            assert engine._worker.memory.reserved == 0
            assert engine.catalogue.stats().budgets["device"] == min(250 * per_token, 2 << 30)

    run(test)


def test_what_would_never_fit_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path, kv_bytes=100 * model.fingerprint.layout.bytes_per_token) as engine:
            with pytest.raises(TooLargeForMemory):
                await collect(engine, prompt_of(20, 9, 71))
            with pytest.raises(TooLargeForMemory):
                await collect(engine, prompt_of(20, 9, 11), Sampling(max_tokens=40), n=2)
            await collect(engine, prompt_of(20, 9, 11))

    run(test)


def test_what_clients_are_told() -> None:
    assert [describe(error)[0] for error in (OutOfDeviceMemory("none"), TooLargeForMemory(2, 1))] == [503, 400]
    assert describe(OutOfDeviceMemory("none"))[1]["error"]["code"] == "out_of_device_memory"
    assert describe(TooLargeForMemory(2, 1))[1]["error"]["code"] == "kv_memory_exceeded"


def test_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits on a CPU unless that was asked for."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50_000, 80_000))
    assert kv_budget(torch.device("cpu"), None) is None
    assert kv_budget(torch.device("cpu"), 5) == kv_budget(torch.device("cuda", 0), 5) == 5
    assert kv_budget(torch.device("cuda", 0), None) == 45_000


@dataclass
class Ended:
    """An event of a copy that takes a quarter of a second, and is asked for only when it has ended."""

    through: list[bool]

    def query(self) -> bool:
        return bool(self.through)

    def synchronize(self) -> None:
        assert self.through, "a pass waited for a copy on the host"

    def elapsed_time(self, end_event: Any) -> float:
        return 250.0


def test_loads_are_timed_by_when_they_have_ended(model: LoadedModel, tmp_path: Path) -> None:
    """A copy to a GPU is launched in no time, and takes its time meanwhile."""
    through: list[bool] = []
    load, forward = TieredStore.load, ModelRunner.forward

    def loaded(store: TieredStore, *args: Any) -> Loaded:
        one = load(store, *args)
        return replace(one, tier="host", copied=Copied(0.0, Ended(through), Ended(through)))

    def passed(runner: ModelRunner, *args: Any) -> torch.Tensor:
        logits: torch.Tensor = forward(runner, *args)
        through.append(True)
        return logits

    async def test() -> None:
        cost = CostModel(1.0, 0.0)
        engine = TransformersEngine(model, TieredStore(tmp_path), model_id="tiny", cost=cost)
        prompt = prompt_of(20, 300, 11)
        await collect(engine, prompt)
        through.clear()
        before = cost.bandwidth["host"]
        with patch.object(TieredStore, "load", loaded), patch.object(ModelRunner, "forward", passed):
            started, _ = await collect(engine, prompt)
        await engine.close()
        assert [report.load_ms >= 250.0 for report in started.pieces] == [True, True, False]
        assert started.load_s == pytest.approx(0.5, abs=0.2), "one copy behind the other"
        assert started.prefill_s >= 0.0
        assert cost.bandwidth["host"] < 0.2 * before, "estimates follow the copies, not their launches"

    run(test)


def test_a_copy_of_a_range_is_a_copy_even_of_all(model: LoadedModel) -> None:
    kv = SequenceKV(model.fingerprint.layout, torch.device("cpu"), 64)
    kv.open_region(64)
    keys, _ = kv.copy_range(0, 64)
    kv.layer(0)[0].fill_(7.0)
    assert not bool(keys.any())
