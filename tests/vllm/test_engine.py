"""The engine and its connector on the demo model, against vLLM without a connector and the transformers engine."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from engine.base import GenerateRequest, Prompt, Sampling
from engine.transformers import LoadedModel, TransformersEngine
from engine.vllm.engine import VllmEngine
from kvcache import TieredStore
from tests.vllm.asking import Answer, ask, chain_keys, copy_segments, greedy, prompt_of
from tests.vllm.shared import demo_engine, engine_thread

run = engine_thread().run


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return demo_engine()


async def cold(engine: VllmEngine, *, host: bool = False) -> None:
    """As after a restart: nothing in vLLM's cache, and (unless ``host``) nothing in the host tier."""
    await engine.llm.reset_prefix_cache()
    if not host:
        await engine.llm.collective_rpc("recallkv_drop_host_tier")


def test_the_fingerprint_is_the_transformers_engines(engine: VllmEngine, demo_model: LoadedModel) -> None:
    assert engine.fingerprint == demo_model.fingerprint


def test_chained_segments_give_the_tokens_of_vllm_without_a_connector(engine: VllmEngine, tmp_path: Path) -> None:
    random_ = random.Random(1)
    prompts = [
        prompt_of(1000 + i, *(random_.randrange(20, 260) for _ in range(random_.randrange(1, 4))), question=5 + i)
        for i in range(10)
    ]
    asked = {
        "model": str(engine.llm.model_config.model),
        "prompts": [list(Prompt(tuple(pieces)).token_ids) for pieces in prompts],
        "max_tokens": 12,
    }
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(asked))
    subprocess.run([sys.executable, "-m", "tests.vllm.plain", source, target], check=True, timeout=280)
    expected = [tuple(ids) for ids in json.loads(target.read_text())]

    async def go() -> None:
        for pieces, want in zip(prompts, expected, strict=True):
            first = await ask(engine, greedy(pieces, 12))
            assert first.token_ids == want
            await engine._intake.until_stored(chain_keys(engine, pieces))
        for host, tier in ((True, "host"), (False, "disk")):
            await cold(engine, host=host)
            for pieces, want in zip(prompts, expected, strict=True):
                again = await ask(engine, greedy(pieces, 12))
                assert again.token_ids == want
                assert again.sources[1:-1] == [tier] * (len(pieces) - 2)
                # The header is shared; the first prompt has brought it in.
                assert again.sources[0] in (tier, "host")
                assert again.started.cached_tokens == sum(len(piece.token_ids) for piece in pieces[:-1])

    run(go())


def test_preloaded_segments_are_in_the_host_tier_when_they_are_asked_for(engine: VllmEngine) -> None:
    pieces = prompt_of(77, 120, 200)

    async def go() -> None:
        first = await ask(engine, greedy(pieces, 8))
        keys = chain_keys(engine, pieces)
        await engine._intake.until_stored(keys)
        await cold(engine)
        assert [await engine.preload(key) > 0 for key in keys] == [True] * len(keys)
        for _ in range(500):  # the workers do not wait for their drive, nor does the call
            if not any([await engine.preload(key) for key in keys]):
                break
            await asyncio.sleep(0.02)
        again = await ask(engine, greedy(pieces, 8))
        assert again.token_ids == first.token_ids
        assert set(again.sources[:-1]) == {"host"}
        assert await engine.preload("0" * 64) == 0

    run(go())


def test_segments_serve_both_engines(engine: VllmEngine, demo_model: LoadedModel, tmp_path: Path) -> None:
    """The same files, read by the other engine; both give what full prefill gives."""
    pieces = prompt_of(31, 90, 140)
    other = prompt_of(32, 150, 40)

    async def from_vllm() -> Answer:
        await engine.build(Prompt(tuple(pieces[:-1])))
        return await ask(engine, greedy(pieces))

    exact = run(from_vllm())
    store = TieredStore(tmp_path / "copy")
    copy_segments(engine.catalogue, store.catalogue, chain_keys(engine, pieces))
    transformers = TransformersEngine(demo_model, store, model_id="demo")

    async def there() -> None:
        read = await ask(transformers, greedy(pieces))
        assert read.sources == ["disk", "disk", "disk", "computed"]
        assert read.token_ids == exact.token_ids
        await transformers.build(Prompt(tuple(other[:-1])))
        store.flush()
        expected = await ask(transformers, greedy(other))
        copy_segments(store.catalogue, engine.catalogue, chain_keys(engine, other))
        back = asyncio.run_coroutine_threadsafe(ask(engine, greedy(other)), engine_thread().loop)
        answer = await asyncio.wrap_future(back)
        assert answer.sources[1:] == ["disk", "disk", "computed"]
        assert answer.token_ids == expected.token_ids
        await transformers.close()

    asyncio.run(there())


@pytest.mark.parametrize("harm", ["cut", "flip", "vanish", "swap"])
def test_bad_segments_are_computed_and_no_request_fails(engine: VllmEngine, harm: str) -> None:
    """Three memories; the middle one's file is harmed while others are being asked for."""
    seed = 40 + ["cut", "flip", "vanish", "swap"].index(harm)
    pieces, bystander = prompt_of(seed, 150, 150, 150), prompt_of(seed + 10, 200)

    async def go() -> None:
        exact = await ask(engine, greedy(pieces))
        fine = await ask(engine, greedy(bystander))
        keys = chain_keys(engine, pieces)
        await engine._intake.until_stored([*keys, *chain_keys(engine, bystander)])
        await cold(engine)
        (path,) = engine.catalogue.folder.paths(keys[2])
        (other,) = engine.catalogue.folder.paths(keys[1])
        if harm == "cut":
            path.write_bytes(path.read_bytes()[:-1000])
        elif harm == "flip":
            data = bytearray(path.read_bytes())
            data[-5000] ^= 1
            path.write_bytes(data)
        elif harm == "vanish":
            path.unlink()
        else:
            path.write_bytes(other.read_bytes())
        answers = await asyncio.gather(
            *(ask(engine, greedy(pieces)) for _ in range(3)), *(ask(engine, greedy(bystander)) for _ in range(3))
        )
        assert {answer.token_ids for answer in answers[:3]} == {exact.token_ids}
        assert {answer.token_ids for answer in answers[3:]} == {fine.token_ids}
        assert answers[0].sources[2] == "computed"
        again = await ask(engine, greedy(pieces))
        assert again.token_ids == exact.token_ids

    run(go())


def test_sixteen_at_once_of_hits_and_misses(engine: VllmEngine) -> None:
    hits = [prompt_of(200 + i, 300, 100) for i in range(8)]
    misses = [prompt_of(300 + i, 500) for i in range(8)]

    async def go() -> None:
        expected = [(await ask(engine, greedy(pieces, use_segments=False))).token_ids for pieces in hits + misses]
        for pieces in hits:
            await engine.build(Prompt(tuple(pieces[:-1])))
        await cold(engine)
        mixed = [pieces for pair in zip(misses, hits, strict=True) for pieces in pair]
        answers = await asyncio.gather(*(ask(engine, greedy(pieces)) for pieces in mixed))
        by_prompt = {id(pieces): answer for pieces, answer in zip(mixed, answers, strict=True)}
        found = [by_prompt[id(pieces)] for pieces in hits + misses]
        assert [answer.token_ids for answer in found] == expected
        # The last hit is answered long before the last miss, though it came behind seven of them.
        slowest_hit = max(answer.ttft_s for answer in found[:8])
        slowest_miss = max(answer.ttft_s for answer in found[8:])
        assert slowest_hit < slowest_miss / 2

    run(go())


def test_an_aborted_request_frees_its_blocks(engine: VllmEngine) -> None:
    pieces = prompt_of(60, 250)

    async def go() -> None:
        await engine.build(Prompt(tuple(pieces[:-1])))
        await cold(engine)
        events = engine.generate(GenerateRequest("a", Prompt(tuple(pieces)), Sampling(max_tokens=500, ignore_eos=True)))
        await anext(events)
        await events.aclose()
        waiting = engine.generate(greedy(pieces, 4))
        task = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await waiting.aclose()
        for _ in range(500):
            if engine.capacity().running == 0 and engine._intake.running == 0:
                break
            await asyncio.sleep(0.01)
        assert engine.capacity().running == 0
        assert (await ask(engine, greedy(pieces, 4))).token_ids

    run(go())


def test_what_is_forgotten_is_nowhere(engine: VllmEngine) -> None:
    pieces = prompt_of(70, 200, 60)

    async def go() -> None:
        await engine.build(Prompt(tuple(pieces[:-1])))
        keys = chain_keys(engine, pieces)
        assert await engine.forget(["m70.0@1"]) == 2
        assert engine.catalogue.tier_of(keys[0]) == "disk"  # the header says nothing of it
        assert [engine.catalogue.folder.paths(key) for key in keys[1:]] == [[], []]
        again = await ask(engine, greedy(pieces))
        assert again.sources[1:] == ["computed"] * 3
        await asyncio.sleep(0.3)
        assert engine.catalogue.tier_of(keys[1]) is None  # and it does not come back
        assert engine.catalogue.folder.paths(keys[1]) == []

    run(go())


def test_tenants_share_nothing(engine: VllmEngine) -> None:
    pieces = prompt_of(80, 260)

    async def go() -> None:
        await engine.build(Prompt(tuple(pieces[:-1])), "anna")
        mine = await ask(engine, greedy(pieces, salt="anna"))
        theirs = await ask(engine, greedy(pieces, salt="boris"))
        assert mine.sources[1] != "computed"
        assert theirs.sources[:2] == ["computed"] * 2
        assert mine.token_ids == theirs.token_ids

    run(go())


def test_metrics_of_the_connector_and_of_vllm(engine: VllmEngine) -> None:
    names = {family.name for family in engine.metrics()}
    assert {"vllm:time_to_first_token_seconds", "vllm:prefix_cache_hits", "vllm:num_requests_running"} <= names
    assert {"vllm:recallkv_loaded_tokens", "vllm:recallkv_saved_bytes", "vllm:recallkv_refused_segments"} <= names
    samples = {
        (sample.name, sample.labels.get("tier")): sample.value
        for family in engine.metrics()
        for sample in family.samples
    }
    assert samples["vllm:recallkv_loaded_tokens_total", "disk"] > 0
