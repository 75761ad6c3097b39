"""Passes of the connector's own in a real vLLM: how large they are, and what happens when one fails."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.base import PageRequest, Piece, Prompt
from engine.vllm.engine import VllmEngine
from kvcache import Repair
from tests.vllm.shared import engine_thread, keep_open, start, tiny_checkpoint
from tests.vllm.test_composition import HEADER, answer, request, texts

run = engine_thread().run
MAX_SEQS = 4


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    watching = ("--worker-extension-cls", "tests.vllm.watching.WatchingExtension", "--max-num-seqs", str(MAX_SEQS))
    return keep_open(start(tiny_checkpoint(), Path(tempfile.mkdtemp(prefix="recallkv-segments-")), *watching))


async def composed_of(engine: VllmEngine, prefix: str) -> list[Piece]:
    """Memories that are stored as a page, in another order than there."""
    pieces = texts(prefix, 8)
    assert await engine.build_page(PageRequest(HEADER, tuple(pieces[:4]), lead=tuple(pieces[4:])))
    await engine.build(Prompt((HEADER,)))
    return [pieces[2], pieces[0], pieces[3]]


def failed_repairs(engine: VllmEngine) -> float:
    families = [family for family in engine.metrics() if family.name == "vllm:recallkv_failed_repairs"]
    return sum(sample.value for family in families for sample in family.samples if sample.name.endswith("_total"))


def sources(started: object) -> Sequence[str]:
    return [report.source for report in started.pieces]  # type: ignore[attr-defined]


def test_no_pass_has_more_sequences_than_vllm_was_told_to_expect(engine: VllmEngine) -> None:
    async def go() -> None:
        moved = await composed_of(engine, "bound")
        await engine.llm.collective_rpc("watch_passes")
        started, _ = await answer(engine, request(moved, fidelity="high", repair=Repair("deviation", 0.3)))
        assert [report.fidelity for report in started.pieces][1:-1] == ["high"] * 3
        (counts,) = await engine.llm.collective_rpc("watched_passes")
        assert len(counts) > 2, "the look at all composed tokens, and several passes"
        assert max(counts) == MAX_SEQS

    run(go())


@pytest.mark.parametrize("after", [0, 2], ids=["in-the-first-pass", "in-a-later-one"])
def test_a_request_whose_repair_fails_is_computed(engine: VllmEngine, after: int) -> None:
    """Today's answer, the receipt that says so, the count, and an engine that goes on."""

    async def go() -> None:
        moved = await composed_of(engine, f"fails{after}")
        _, exact = await answer(engine, request(moved, use_segments=False))
        before = failed_repairs(engine)
        await engine.llm.collective_rpc("break_passes", args=(after,))
        started, tokens = await answer(engine, request(moved, fidelity="high", repair=Repair("deviation", 0.3)))
        assert tokens == exact
        assert sources(started)[1:] == ["computed"] * 4
        assert failed_repairs(engine) == before + 1
        await engine.llm.collective_rpc("watch_passes")  # the next one's passes are let through
        started, _ = await answer(engine, request(moved, fidelity="high", repair=Repair("deviation", 0.4)))
        assert [report.fidelity for report in started.pieces][1:-1] == ["high"] * 3
        assert failed_repairs(engine) == before + 1

    run(go())


def test_a_page_is_not_certified_by_passes_that_fail(engine: VllmEngine) -> None:
    """A prompt that vLLM computes in place of a failed pass would be compared with itself."""
    pieces = texts("uncertified", 6)
    page = PageRequest(HEADER, tuple(pieces[:4]), context=tuple(pieces[4:]))

    async def go() -> None:
        await engine.llm.collective_rpc("break_passes", args=(1,))
        assert not await engine.build_page(page)
        await engine.llm.collective_rpc("watch_passes")
        assert await engine.build_page(page)

    run(go())
