"""Divergence of composed prompts under vLLM, over the prompts and pages of ``bench fidelity``.

Same questions, same planning of pages, same strategies, teacher-forced over the 24 tokens that vLLM's own full prefill
generates greedily; both sides' logits are taken inside the worker. The figures stand beside the transformers engine's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.data.locomo import Question
from benchmarks.suites.fidelity import N_TOKENS
from engine.base import ChatMessage, Delta, GenerateRequest, MemoryText, PageRequest, Piece, Prompt, Sampling
from engine.vllm.engine import VllmEngine
from engine.vllm.plan import Composition, StoredRun
from kvcache import Repair
from scheduler.pages import plan_pages

STRATEGIES = {
    "fast": Repair("none", 0.0),
    "pages+first": Repair("first", 0.15),
    "pages+first, 25%": Repair("first", 0.25),
    "high": Repair("deviation", 0.15),
}


@dataclass(frozen=True)
class Row:
    """One strategy over one kind of prompt."""

    strategy: str
    memories: int
    tokens_each: int
    questions: int
    kl_mean: float
    top1: float


async def measure(
    engine: VllmEngine, asked: Sequence[Question], tokens_each: int, report: Callable[[str], None]
) -> list[Row]:
    """One row a strategy."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STRATEGIES}
    for i, question in enumerate(asked):
        report(f"{len(question.chosen)} x {tokens_each}: question {i + 1} of {len(asked)}")
        for name, pair in (await _divergences(engine, question, f"bench-{tokens_each}-{i}")).items():
            found[name].append(pair)
    return [
        Row(
            name,
            len(asked[0].chosen),
            tokens_each,
            len(asked),
            round(statistics.mean(kl for kl, _ in pairs), 5),
            round(statistics.mean(top1 for _, top1 in pairs), 5),
        )
        for name, pairs in found.items()
    ]


async def _divergences(engine: VllmEngine, question: Question, salt: str) -> dict[str, tuple[float, float]]:
    texts = [MemoryText(f"m{i}@1", text) for i, text in enumerate(question.cube)]
    whole = engine.prompts.render([ChatMessage("user", question.text)], texts)
    header, memories = whole.pieces[0], whole.pieces[1:-1]
    picked = [memories[i] for i in question.chosen]
    prompt = Prompt((header, *picked, whole.pieces[-1]))
    sources, parts = await _placed(engine, header, memories, picked, salt)
    answer = await _greedy(engine, prompt)
    tokens = (*prompt.token_ids, *answer[:-1])
    exact = await engine.pages.score(tokens, N_TOKENS)
    result = {}
    for name, repair in STRATEGIES.items():
        composition = Composition(parts, repair.strategy, repair.share)
        other = await engine.pages.score(tokens, N_TOKENS, sources, composition)
        result[name] = await engine.pages.divergence(exact, other)
    await engine.llm.collective_rpc("recallkv_forget_scores")
    return result


async def _placed(
    engine: VllmEngine, header: Piece, cube: Sequence[Piece], picked: Sequence[Piece], salt: str
) -> tuple[tuple[StoredRun, ...], tuple[tuple[int, int, bool], ...]]:
    """Build the pages that the memories need; where each memory's part goes."""
    where: dict[str, tuple[str, int, int]] = {}
    wanted = {piece.label for piece in picked if piece.label is not None}
    for page in plan_pages(cube, wanted, (), lambda a, b: 0.0):
        request = PageRequest(header, tuple(page.members), tuple(page.lead))
        key = await engine.pages.store(request, salt)
        assert key is not None, "a page could not be stored"
        start = len(header.token_ids) + Prompt(request.lead).n_tokens
        begin = 0
        for piece in page.members:
            where[piece.label or ""] = (key, begin, start)
            begin += len(piece.token_ids)
    sources, parts, position = [], [], len(header.token_ids)
    before: tuple[str, int] | None = None
    for piece in picked:
        key, begin, start = where[piece.label or ""]
        n_tokens = len(piece.token_ids)
        sources.append(StoredRun(key, position, n_tokens, begin, position - start - begin))
        parts.append((position, position + n_tokens, before != (key, begin)))
        before = (key, begin + n_tokens)
        position += n_tokens
    return tuple(sources), tuple(parts)


async def _greedy(engine: VllmEngine, prompt: Prompt) -> tuple[int, ...]:
    sampling = Sampling(max_tokens=N_TOKENS, temperature=0.0, ignore_eos=True)
    tokens: list[int] = []
    async for event in engine.generate(GenerateRequest("bench", prompt, sampling, use_segments=False)):
        if isinstance(event, Delta):
            tokens.extend(event.token_ids)
    return tuple(tokens)


def result(rows: Sequence[Row], machine: dict[str, Any], data: str) -> dict[str, Any]:
    """As JSON-able data."""
    return {"machine": machine, "model": "demo", "data": data, "rows": [asdict(row) for row in rows]}
