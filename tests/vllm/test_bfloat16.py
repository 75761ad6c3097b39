"""Segments in bfloat16: where the CPU has matrix tiles, vLLM packs its cache another way than in float32."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.base import Prompt
from engine.transformers import TransformersEngine, load_model
from engine.vllm.engine import VllmEngine
from kvcache import TieredStore
from tests.vllm.asking import ask, chain_keys, copy_segments, greedy, prompt_of
from tests.vllm.shared import engine_thread, start

PROMPTS = [prompt_of(3000 + i, 150 + 7 * i, 40, question=9) for i in range(6)]

run = engine_thread().run


@pytest.fixture(scope="module")
def engine(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    engine = start(demo_folder, tmp_path_factory.mktemp("segments"), model_id="demo", dtype="bfloat16")
    yield engine
    run(engine.close())


def test_both_engines_read_each_others_segments(engine: VllmEngine, demo_folder: Path, tmp_path: Path) -> None:
    """A few answers may differ by a near tie; packed wrongly, hardly one would be the same."""

    async def in_vllm(source: str) -> list[tuple[int, ...]]:
        answers = [await ask(engine, greedy(pieces, 4)) for pieces in PROMPTS]
        assert {name for answer in answers for name in answer.sources[1:-1]} == {source}
        await engine._intake.until_stored([key for pieces in PROMPTS for key in chain_keys(engine, pieces)])
        await engine.llm.reset_prefix_cache()
        await engine.llm.collective_rpc("recallkv_drop_host_tier")
        return [answer.token_ids for answer in answers]

    computed = run(in_vllm("computed"))
    reread = run(in_vllm("disk"))

    async def in_transformers() -> list[tuple[int, ...]]:
        store = TieredStore(tmp_path / "copy")
        for pieces in PROMPTS[:3]:
            copy_segments(engine.catalogue, store.catalogue, chain_keys(engine, pieces))
        transformers = TransformersEngine(load_model(demo_folder, dtype="bfloat16"), store, model_id="demo")
        found = []
        for i, pieces in enumerate(PROMPTS):
            if i >= 3:
                await transformers.build(Prompt(tuple(pieces[:-1])))
                store.flush()
            answer = await ask(transformers, greedy(pieces, 4))
            assert (answer.sources[1] == "disk") == (i < 3)
            found.append(answer.token_ids)
        for pieces in PROMPTS[3:]:
            copy_segments(store.catalogue, engine.catalogue, chain_keys(engine, pieces))
        await transformers.close()
        return found

    there = asyncio.run(in_transformers())
    back = run(in_vllm("disk"))
    for found in (reread, there, back):
        assert sum(f[0] == c[0] for f, c in zip(found, computed, strict=True)) >= 5
