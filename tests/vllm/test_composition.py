"""Composition inside vLLM against vLLM's own full prefill, and against the transformers engine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.base import Delta, GenerateRequest, PageRequest, Piece, Prompt, Sampling, Started
from engine.vllm.engine import VllmEngine
from engine.vllm.plan import RequestPlan
from engine.vllm.planning import Planned
from kvcache import Repair
from tests.vllm.shared import engine_thread, tiny_engine

run = engine_thread().run


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return tiny_engine()


def memory(name: str, text: str) -> Piece:
    return Piece("memory", tuple(text.encode()), label=f"{name}@1", storable=True)


def texts(prefix: str, n: int) -> list[Piece]:
    words = ["amber", "basalt", "cedar", "dune", "ember", "fjord", "grove", "heath"]
    return [
        memory(f"{prefix}{i}", f"- {prefix} {words[i % 8]} number {i * 37 % 101} lies near {words[(i * 3 + 1) % 8]}\n")
        for i in range(n)
    ]


HEADER = Piece("header", tuple(b"<system> Memories of the user, in their own words:\n"), storable=True)


async def answer(engine: VllmEngine, request: GenerateRequest) -> tuple[Started, tuple[int, ...]]:
    started, tokens = None, []
    async for event in engine.generate(request):
        if isinstance(event, Started):
            started = event
        elif isinstance(event, Delta):
            tokens.extend(event.token_ids)
    assert started is not None
    return started, tuple(tokens)


def request(pieces: Sequence[Piece], **fields: object) -> GenerateRequest:
    turns = Piece("turns", tuple(b"What lies near? Answer:"))
    sampling = Sampling(max_tokens=8, temperature=0.0, ignore_eos=True)
    return GenerateRequest("r", Prompt((HEADER, *pieces, turns)), sampling, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("repair", "recomputed"),
    [
        (Repair("none", 0.0), 0.0),
        (Repair("first", 0.3), 0.3),
        (Repair("deviation", 0.3), 0.3),
        (Repair("first", 1.0), 1.0),
    ],
    ids=lambda value: f"{value.strategy}-{value.share}" if isinstance(value, Repair) else "",
)
def test_composed_parts_are_placed_and_repaired(engine: VllmEngine, repair: Repair, recomputed: float) -> None:
    pieces = texts(f"p{repair.strategy}{repair.share}", 8)

    async def go() -> None:
        assert await engine.build_page(PageRequest(HEADER, tuple(pieces[:4]), lead=tuple(pieces[4:])))
        _, exact = await answer(engine, request(pieces, use_segments=False))
        await engine.build(Prompt((HEADER,)))
        moved = [pieces[2], pieces[0], pieces[3]]
        _, exact = await answer(engine, request(moved, use_segments=False))
        started, composed = await answer(engine, request(moved, fidelity="high", repair=repair))
        assert [report.fidelity for report in started.pieces] == ["exact", "high", "high", "high", "exact"]
        n_composed = sum(len(piece.token_ids) for piece in moved)
        total = sum(report.recomputed for report in started.pieces)
        assert abs(total - recomputed * n_composed) <= 3
        if repair.share == 1.0:  # everything computed anew is full prefill
            assert composed == exact
        _, same = await answer(engine, request(moved, fidelity="high", repair=repair))
        assert same == composed
        _, still_exact = await answer(engine, request(moved))
        assert still_exact == exact  # composed blocks never pass for exact ones

    run(go())


async def _vanishes(engine: VllmEngine, key: str) -> None:
    """Take a segment away as an eviction does: its files and what the workers hold of it."""
    for path in engine.catalogue.folder.paths(key):
        path.unlink()
    await engine.llm.collective_rpc("recallkv_forget", args=([key],))


@pytest.mark.parametrize("context", [1, 6], ids=["in-the-first-block", "behind-it"])
def test_a_page_that_vanishes_while_it_is_certified_gets_no_certificate(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, context: int
) -> None:
    """vLLM asks anew for a prompt nothing of which could be loaded, and goes on with one of which something could."""
    pieces = texts(f"gone{context}", 4 + context)
    page = PageRequest(HEADER, tuple(pieces[:4]), context=tuple(pieces[4:]))
    store_page = engine.pages.store
    keys: list[str] = []

    async def stored_and_gone(request: PageRequest, salt: str = "") -> str | None:
        key = await store_page(request, salt)
        assert key is not None
        keys.append(key)
        await _vanishes(engine, key)
        return key

    monkeypatch.setattr(engine.pages, "store", stored_and_gone)

    async def go() -> None:
        assert not await engine.build_page(page)
        assert engine.catalogue.tier_of(keys[0]) is None
        monkeypatch.undo()
        assert await engine.build_page(page)  # the next attempt finds nothing of the last one in its way

    run(go())


def test_a_scored_prompt_that_is_taken_up_again_is_scored_once(engine: VllmEngine) -> None:
    """vLLM takes a request up again, passes and all, when it was preempted, or when its load failed."""

    async def go() -> None:
        turns = tuple(b"What lies near? Answer: amber")
        exact = await engine.pages.score(turns, 5)
        prompt = GenerateRequest("score", Prompt((Piece("turns", turns),)), Sampling(max_tokens=1), salt=exact)
        await engine._intake.run(Planned(prompt, RequestPlan(id=exact, score=5)))
        kl, same = await engine.pages.divergence(exact, await engine.pages.score(turns, 5))
        assert (kl, same) == (pytest.approx(0.0, abs=1e-6), 1.0)

    run(go())
