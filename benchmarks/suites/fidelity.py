"""How far composed memories are from full prefill, and what that costs: the frontier.

Every strategy answers the same prompts. Divergence is taken over 24 tokens that full prefill generates greedily,
teacher-forced: KL(full || composed) in nats, the first token's KL, and how often the likeliest token is the same.
Time to first token is measured through the engine, each strategy against full prefill right before it.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from benchmarks.data.locomo import Question
from benchmarks.data.recall import Fact, answered, planted
from benchmarks.support.composing import ADMITTED
from benchmarks.support.machine import measured_on
from engine.base import ChatMessage, GenerateRequest, MemoryText, PageRequest, Piece, Prompt, Sampling, Started
from engine.transformers import ModelRunner, SequenceKV, TransformersEngine, Work
from engine.transformers.composing import Composer, PlacedPart, finished
from kvcache import Part, Repair, Segment
from kvcache.divergence import divergence
from scheduler.pages import plan_pages

Build = Literal["naive", "single", "pages"]
N_TOKENS = 24
_CHUNK = 512


@dataclass(frozen=True)
class Strategy:
    """A way to build segments (``naive``: alone, without header, and not moved; ``single``: each memory alone behind
    the header, moved; ``pages``: behind header and lead, together) and how they are repaired."""

    build: Build
    repair: Repair
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or (f"{self.build}+{self.repair.strategy}" if self.build != "naive" else "naive")


def frontier(high: Repair, fast: Repair) -> list[Strategy]:
    """List the strategies to compare. The engine's own settings come last, under the names users know."""
    none = Repair("none", 0.0)
    grid = [Strategy("naive", none), Strategy("single", none)]
    grid += [Strategy("single", Repair(name, 0.25)) for name in ("first", "deviation", "attention")]
    grid += [Strategy("pages", none), Strategy("pages", Repair("lines", 0.25))]
    grid += [Strategy("pages", Repair("first", share)) for share in (0.15, 0.25)]
    grid += [Strategy("pages", Repair("deviation", share)) for share in (0.05, 0.10, 0.15, 0.25, 0.40)]
    grid += [Strategy("pages", Repair("attention", share)) for share in (0.15, 0.25, 0.40)]
    named = [Strategy("pages", fast, "fast"), Strategy("pages", high, "high")]
    return [s for s in grid if s.build != "pages" or s.repair not in (fast, high)] + named


def for_recall(strategies: Sequence[Strategy]) -> list[Strategy]:
    """The ends of the frontier and the shipped settings: answers take longer than divergences."""
    return [s for s in strategies if s.name or s.repair.share in (0.0, 0.25)]


@dataclass(frozen=True)
class Row:
    """One strategy over one kind of prompt. ``answer_accuracy`` is of the recall task, the divergences are of the
    others; what was not measured is None."""

    strategy: str
    build: str
    repair: str
    memories: int
    tokens_each: int
    questions: int
    share_recomputed: float
    kl_mean: float | None
    kl_first: float | None
    top1: float | None
    answer_accuracy: float | None
    ttft_ratio_to_text: float | None


@dataclass
class _Samples:
    kl: list[float] = field(default_factory=list)
    kl_first: list[float] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class _Case:
    """A prompt whose memories have been built in every way. ``parts[build]`` is parallel to its memory pieces."""

    prompt: Prompt
    parts: dict[Build, list[tuple[Segment, Part]]]

    @property
    def header(self) -> tuple[int, ...]:
        return self.prompt.pieces[0].token_ids

    @property
    def begins(self) -> list[int]:
        """Position of each memory."""
        begins, position = [], len(self.header)
        for piece in self.prompt.pieces[1:-1]:
            begins.append(position)
            position += len(piece.token_ids)
        return begins


class Lab:
    """Builds and composes on one engine. Each way of building has a salt of its own, so that the engine's store
    keeps them apart."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine
        self._model = engine.model

    def render(self, question: str, memories: Sequence[str]) -> Prompt:
        texts = [MemoryText(f"m{i}@1", text) for i, text in enumerate(memories)]
        return self._engine.prompts.render([ChatMessage("user", question)], texts)

    async def case(self, question: str, cube: Sequence[str], chosen: Sequence[int]) -> _Case:
        """The prompt of a question over the chosen memories of a cube, all of them built."""
        whole = self.render(question, cube)
        memories = whole.pieces[1:-1]
        picked = tuple(memories[i] for i in chosen)
        prompt = Prompt((whole.pieces[0], *picked, whole.pieces[-1]))
        parts = await self._engine.on_model(lambda runner: self._build(runner, prompt, memories))
        return _Case(prompt, parts)

    def with_question(self, case: _Case, question: str) -> _Case:
        """The same memories, another question."""
        turns = self.render(question, ["-"]).pieces[-1]
        return _Case(Prompt((*case.prompt.pieces[:-1], turns)), case.parts)

    def _build(
        self, runner: ModelRunner, prompt: Prompt, cube: Sequence[Piece]
    ) -> dict[Build, list[tuple[Segment, Part]]]:
        header, picked = prompt.pieces[0], prompt.pieces[1:-1]
        composer = self._composer(runner)
        nothing = Piece("header", ())
        naive = [finished(composer.build_page(PageRequest(nothing, (piece,)), "naive")) for piece in picked]
        single = [_admitted(composer, PageRequest(header, (piece,)), "single") for piece in picked]
        wanted = {piece.label for piece in picked if piece.label is not None}
        pages: dict[str, tuple[Segment, Part]] = {}
        for page in plan_pages(cube, wanted, (), lambda a, b: 0.0):
            segment = _admitted(composer, PageRequest(header, tuple(page.members), tuple(page.lead)), "pages")
            pages |= {part.label: (segment, part) for part in segment.parts if part.label is not None}
        for segment in {s.key: s for s in [*single, *(s for s, _ in pages.values())]}.values():
            self._engine.store.put(segment)
        return {
            "naive": [(segment, segment.parts[0]) for segment in naive],
            "single": [(segment, segment.parts[0]) for segment in single],
            "pages": [pages[piece.label or ""] for piece in picked],
        }

    def _composer(self, runner: ModelRunner) -> Composer:
        return Composer(self._model, runner, _CHUNK)

    def _prefilled(self, composer: Composer, token_ids: Sequence[int]) -> SequenceKV:
        kv = composer.empty(len(token_ids) + N_TOKENS)
        finished(composer.extend(kv, token_ids))
        return kv

    def greedy(
        self, runner: ModelRunner, case: _Case, n: int = N_TOKENS, ends: Collection[int] = ()
    ) -> tuple[list[int], torch.Tensor]:
        """Decode by full prefill: ``n`` tokens, or fewer where one of ``ends`` comes, and the logits behind them,
        float32 [n, vocabulary]."""
        ids = case.prompt.token_ids
        kv = self._prefilled(self._composer(runner), ids[:-1])
        return decode(runner, kv, runner.forward([Work(kv, ids[-1:])]), n, ends)

    def composed(self, runner: ModelRunner, case: _Case, strategy: Strategy) -> tuple[SequenceKV, torch.Tensor, float]:
        """The composed sequence, the logits of its first token, and the share of memory tokens computed anew."""
        ids = case.prompt.token_ids
        composer = self._composer(runner)
        kv = self._prefilled(composer, case.header)
        parts = _placed(case, strategy.build)
        settled = composer.compose(kv, parts, ids, strategy.repair)
        logits = finished(composer.fill(kv, ids, settled.todo))
        return kv, logits, len(settled.recomputed) / sum(placed.part.n_tokens for placed in parts)

    async def ttft(self, case: _Case, strategy: Strategy | None) -> float:
        """Seconds to the first token through the engine; without a strategy by full prefill."""
        sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
        request = GenerateRequest("bench", case.prompt, sampling, use_segments=False)
        if strategy is not None:
            request = GenerateRequest(
                "bench", case.prompt, sampling, salt=strategy.build, fidelity="high", repair=strategy.repair
            )
        begin = time.perf_counter()
        elapsed = 0.0
        async for event in self._engine.generate(request):
            if isinstance(event, Started):
                elapsed = time.perf_counter() - begin
                composed = [report.fidelity for report in event.pieces[1:-1]]
                assert composed == ["exact" if strategy is None else "high"] * len(composed), "not as planned"
        return elapsed


def _admitted(composer: Composer, request: PageRequest, salt: str) -> Segment:
    """Build a page that requests may use whatever it differs by."""
    return replace(finished(composer.build_page(request, salt)), certificate=ADMITTED)


def _placed(case: _Case, build: Build) -> list[PlacedPart]:
    """Say where the case's memories go: naive ones as if they had been computed there, so that they are not moved."""
    parts = []
    for position, (segment, part) in zip(case.begins, case.parts[build], strict=True):
        built = replace(segment, start=position - part.begin) if build == "naive" else segment
        parts.append(PlacedPart(built, part, position))
    return parts


def decode(
    runner: ModelRunner, kv: SequenceKV, logits: torch.Tensor, n: int, ends: Collection[int] = ()
) -> tuple[list[int], torch.Tensor]:
    """Greedy continuation from the logits of its first token: up to ``n`` tokens, or to one of ``ends``, and the
    logits behind each, float32 [tokens, vocabulary]."""
    tokens, rows = [int(logits[0].argmax())], [logits[0]]
    while len(tokens) < n and tokens[-1] not in ends:
        logits = runner.forward([Work(kv, tokens[-1:])])
        tokens.append(int(logits[0].argmax()))
        rows.append(logits[0])
    return tokens, torch.stack(rows)


def _divergence(
    lab: Lab, case: _Case, strategies: Sequence[Strategy]
) -> Callable[[ModelRunner], list[tuple[float, ...]]]:
    """On the engine's thread: KL mean, KL of the first token, top-1 agreement and share recomputed, per strategy."""

    def work(runner: ModelRunner) -> list[tuple[float, ...]]:
        tokens, expected = lab.greedy(runner, case)
        found: list[tuple[float, ...]] = []
        for strategy in strategies:
            kv, first, share = lab.composed(runner, case, strategy)
            rest = runner.forward([Work(kv, tokens[:-1], len(tokens) - 1)])
            kl, same = divergence(expected, torch.cat([first, rest]))
            found.append((kl, divergence(expected[:1], first)[0], same, share))
        return found

    return work


async def measure_divergence(
    engine: TransformersEngine,
    questions: Sequence[Question],
    strategies: Sequence[Strategy],
    tokens_each: int,
    report: Callable[[str], None],
) -> list[Row]:
    """A row for each strategy over the questions."""
    lab = Lab(engine)
    samples = {strategy: _Samples() for strategy in strategies}
    for number, question in enumerate(questions, start=1):
        case = await lab.case(question.text, question.cube, question.chosen)
        found = await engine.on_model(_divergence(lab, case, strategies))
        for strategy, (kl, first, top1, share) in zip(strategies, found, strict=True):
            into = samples[strategy]
            into.kl.append(kl)
            into.kl_first.append(first)
            into.top1.append(top1)
            into.share.append(share)
            if strategy.build != "naive":
                await lab.ttft(case, strategy)  # stores the header's chain, warms up
                text = await lab.ttft(case, None)
                into.ratio.append(await lab.ttft(case, strategy) / text)
        engine.catalogue.clear()
        report(f"{number} of {len(questions)} questions")
    n_memories = len(questions[0].chosen)
    return [_row(s, samples[s], n_memories, tokens_each, len(questions)) for s in strategies]


async def measure_recall(
    engine: TransformersEngine,
    strategies: Sequence[Strategy],
    n_questions: int,
    report: Callable[[str], None],
    n_memories: int = 40,
    n_cube: int = 50,
) -> list[Row]:
    """A row for full prefill and for each strategy: the share of planted facts that the answer holds. The prompt
    holds ``n_memories`` of a cube of ``n_cube``, so that pages are used in part, behind other neighbours."""
    lab = Lab(engine)
    rng = random.Random(5)
    samples = {strategy: _Samples() for strategy in strategies}
    text: list[bool] = []
    sizes: list[int] = []
    while len(text) < n_questions:
        memories, facts = planted(n_cube, rng)
        chosen = sorted(rng.sample(range(n_cube), n_memories))
        cube = await lab.case("-", memories, chosen)
        sizes += [len(piece.token_ids) for piece in cube.prompt.pieces[1:-1]]
        for fact in rng.sample([facts[i] for i in chosen], min(20, n_questions - len(text))):
            case = lab.with_question(cube, fact.question)
            got = await engine.on_model(_answers(lab, engine, case, fact, strategies))
            text.append(got[0][0])
            for strategy, (right, share) in zip(strategies, got[1:], strict=True):
                samples[strategy].right.append(right)
                samples[strategy].share.append(share)
            report(f"{len(text)} of {n_questions} facts")
        engine.catalogue.clear()
    tokens_each = round(statistics.mean(sizes))
    accuracy = sum(text) / len(text)
    full = Row("text", "text", "none", n_memories, tokens_each, len(text), 1.0, 0.0, 0.0, 1.0, accuracy, 1.0)
    return [full, *(_row(s, samples[s], n_memories, tokens_each, len(text)) for s in strategies)]


def _answers(
    lab: Lab, engine: TransformersEngine, case: _Case, fact: Fact, strategies: Sequence[Strategy]
) -> Callable[[ModelRunner], list[tuple[bool, float]]]:
    n, ends = 16, engine.model.eos_token_ids

    def right(tokens: list[int]) -> bool:
        return answered(fact, engine.prompts.detokenize(tokens))

    def work(runner: ModelRunner) -> list[tuple[bool, float]]:
        results = [(right(lab.greedy(runner, case, n, ends)[0]), 1.0)]
        for strategy in strategies:
            kv, logits, share = lab.composed(runner, case, strategy)
            results.append((right(decode(runner, kv, logits, n, ends)[0]), share))
        return results

    return work


def _row(strategy: Strategy, samples: _Samples, n_memories: int, tokens_each: int, n: int) -> Row:
    def mean(values: Sequence[float]) -> float | None:
        return round(statistics.mean(values), 4) if values else None

    return Row(
        strategy=strategy.label,
        build=strategy.build,
        repair=strategy.repair.strategy,
        memories=n_memories,
        tokens_each=tokens_each,
        questions=n,
        share_recomputed=mean(samples.share) or 0.0,
        kl_mean=mean(samples.kl),
        kl_first=mean(samples.kl_first),
        top1=mean(samples.top1),
        answer_accuracy=mean(samples.right),
        ttft_ratio_to_text=round(statistics.median(samples.ratio), 4) if samples.ratio else None,
    )


def result(engine: TransformersEngine, rows: Sequence[Row], data: str) -> dict[str, Any]:
    """The JSON: machine, model, and the rows."""
    return {
        **measured_on(engine),
        "data": data,
        "rows": [asdict(row) for row in rows],
    }
