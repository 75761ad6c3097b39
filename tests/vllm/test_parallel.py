"""Tensor parallel on the CPU: two worker processes, each with its own heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.base import PageRequest, Prompt
from engine.vllm.engine import VllmEngine
from kvcache import Catalogue, Repair, TieredStore
from tests.vllm.asking import ask, chain_keys, copy_segments, greedy, kept, prompt_of, tokens
from tests.vllm.shared import engine_thread, start, tiny_checkpoint, tiny_engine

run = engine_thread().run
BYTES = {"low": 0, "high": 250}


@pytest.fixture(scope="module")
def one() -> VllmEngine:
    return tiny_engine()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # else each worker wants a memory node of its own
        engine = start(tiny_checkpoint(), folder, "--tensor-parallel-size=2")
    yield engine
    run(engine.close())


def test_two_ranks_give_the_tokens_of_one_with_segments_of_either(one: VllmEngine, two: VllmEngine) -> None:
    saved_by_one, saved_by_two = prompt_of(900, 140, 90, **BYTES), prompt_of(901, 120, 110, **BYTES)

    async def go() -> None:
        for saver, reader, pieces in ((one, two, saved_by_one), (two, one, saved_by_two)):
            exact = await ask(one, greedy(pieces, use_segments=False))
            other = await ask(two, greedy(pieces, use_segments=False))
            assert other.token_ids == exact.token_ids
            await saver.build(Prompt(tuple(pieces[:-1])))
            keys = chain_keys(saver, pieces)
            # (The header is shared by all prompts, whoever saved it.)
            assert [len(saver.catalogue.folder.paths(key)) for key in keys[1:]] == [1 if saver is one else 2] * 2
            copy_segments(saver.catalogue, reader.catalogue, keys)
            read = await ask(reader, greedy(pieces))
            assert read.token_ids == exact.token_ids
            assert read.sources[1:] == ["disk", "disk", "computed"]
            own = await ask(saver, greedy(pieces))
            assert own.token_ids == exact.token_ids
            assert "computed" not in own.sources[:-1]

    run(go())


def test_two_ranks_compose_as_one(one: VllmEngine, two: VllmEngine) -> None:
    header = kept("header", tokens(7, 30, **BYTES))
    memories = [kept("memory", tokens(950 + i, 40, **BYTES), f"tp{i}@1") for i in range(6)]
    turns = prompt_of(951, **BYTES)[-1]
    page = PageRequest(header, tuple(memories[:3]), lead=tuple(memories[3:]))
    moved = [header, memories[2], memories[0], turns]

    async def go() -> None:
        answers = []
        for engine in (one, two):
            assert await engine.build_page(page)
            await engine.build(Prompt((header,)))
            answers.append(await ask(engine, greedy(moved, fidelity="high", repair=Repair("deviation", 0.4))))
        assert answers[0].token_ids == answers[1].token_ids
        recomputed = [[report.recomputed for report in answer.started.pieces] for answer in answers]
        assert recomputed[0] == recomputed[1]
        # Small gaps between runs are computed too, as long as that costs less than another pass.
        assert 0.4 * 80 - 1 <= sum(recomputed[0]) <= 0.4 * 80 + 12

    run(go())


def test_a_shard_that_is_missing_is_a_segment_that_is_missing(two: VllmEngine) -> None:
    pieces = prompt_of(960, 150, **BYTES)

    async def go() -> None:
        exact = await ask(two, greedy(pieces, use_segments=False))
        await two.build(Prompt(tuple(pieces[:-1])))
        key = chain_keys(two, pieces)[1]
        await two.llm.reset_prefix_cache()
        await two.llm.collective_rpc("recallkv_drop_host_tier")
        two.catalogue.folder.paths(key)[1].unlink()
        again = await ask(two, greedy(pieces))
        assert again.token_ids == exact.token_ids
        assert again.sources[1] == "computed"

    run(go())


def test_folder_of_two_ranks_survives_a_restart(two: VllmEngine, tmp_path: Path) -> None:
    """The index is rebuilt from the shards alone."""
    pieces = prompt_of(970, 130, **BYTES)
    run(two.build(Prompt(tuple(pieces[:-1]))))
    keys = chain_keys(two, pieces)
    copy = Catalogue(tmp_path / "copy")
    copy_segments(two.catalogue, copy, keys)
    copy.close()
    (tmp_path / "copy" / "index.sqlite").unlink()
    rebuilt = TieredStore(tmp_path / "copy")
    assert {entry.key for entry in rebuilt.catalogue.entries()} >= set(keys)
    loaded = rebuilt.load(keys[1], two.fingerprint)
    assert loaded.segment.shard is None
    assert tuple(loaded.segment.keys.shape) == two.fingerprint.layout.shape(130)
    rebuilt.close()
