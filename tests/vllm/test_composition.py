"""Composition inside vLLM against vLLM's own full prefill, and against the transformers engine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.base import Delta, GenerateRequest, PageRequest, Piece, Prompt, Sampling, Started
from engine.vllm.engine import VllmEngine
from kvcache import Repair
from tests.vllm.shared import engine_thread, tiny_engine

run = engine_thread().run


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return tiny_engine()


def memory(name: str, text: str) -> Piece:
    return Piece("memory", tuple(text.encode()), label=f"{name}@1", keep=True)


def texts(prefix: str, n: int) -> list[Piece]:
    words = ["amber", "basalt", "cedar", "dune", "ember", "fjord", "grove", "heath"]
    return [
        memory(f"{prefix}{i}", f"- {prefix} {words[i % 8]} number {i * 37 % 101} lies near {words[(i * 3 + 1) % 8]}\n")
        for i in range(n)
    ]


HEADER = Piece("header", tuple(b"<system> Memories of the user, in their own words:\n"), keep=True)


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
