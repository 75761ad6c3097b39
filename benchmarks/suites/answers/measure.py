"""The run: every question under every condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.suites.answers.conditions import TENANT, Case, Condition, Cube, Injection, Prompts
from benchmarks.suites.answers.score import Computed, f1, greedy, log_likelihoods
from benchmarks.suites.answers.sets import Item
from benchmarks.suites.retrieval import Conversation, recall_at
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling, Started
from engine.config import CompositionConfig
from engine.transformers import ModelRunner, TransformersEngine
from memory import MemoryStore

# Chained segments are kept apart from pages, so that the order of a prompt depends on no other question.
_CHAINED = f"{TENANT}-chained"
_COMPARED: tuple[Condition, ...] = ("text", "exact", "high", "fast")
"""Conditions that answer greedily beside."""


@dataclass(frozen=True)
class Settings:
    """How to ask. ``greedy_tokens`` 0: nothing is generated."""

    top_k: int = 6
    greedy_tokens: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Scored:
    """One question under one condition: the natural-log likelihood of the gold answer and of each rival, all tokens
    together; the prompt's tokens, and how many of them were computed for it."""

    options: tuple[float, ...]
    prompt_tokens: int
    computed_tokens: int


@dataclass
class Outcome:
    """One question, in numbers, under every condition that it can be asked under. ``recall`` is the share of the
    evidence turns that is among the memories found; ``option_tokens`` is parallel to each condition's ``options``.

    Of greedy answers: ``same`` says whether one is full prefill's, token for token, ``f1`` how well its words fit the
    gold answer.
    """

    conversation: int
    category: str
    recall: float
    memories: int
    option_tokens: tuple[int, ...]
    scored: dict[Condition, Scored] = field(default_factory=dict)
    same: dict[Condition, bool] = field(default_factory=dict)
    f1: dict[Condition, float] = field(default_factory=dict)


async def measure(
    engine: TransformersEngine,
    store: MemoryStore,
    conversations: Sequence[Conversation],
    items: Sequence[Item],
    settings: Settings,
    report: Callable[[str], None],
) -> list[Outcome]:
    """Ask all questions, a conversation at a time: each is asked by itself, so that their order changes nothing.
    Raises ``NotInPieces``."""
    run = _Run(engine, Prompts(engine, store, settings.top_k, settings.seed), settings)
    outcomes: list[Outcome] = []
    for number, conversation in enumerate(conversations):
        asked = [item for item in items if item.conversation == number]
        if not asked:
            continue
        report(f"conversation {number + 1}: adding")
        cube = run.prompts.add(f"conversation-{number}", conversation)
        cases = await run.prepare(cube, asked, report)
        for case in cases:
            outcomes.append(await run.ask(cube, case))
            report(f"{len(outcomes)} of {len(items)} questions")
        engine.catalogue.clear()
    return outcomes


class _Run:
    def __init__(self, engine: TransformersEngine, prompts: Prompts, settings: Settings) -> None:
        self._engine = engine
        self.prompts = prompts
        self._settings = settings
        self._injection = Injection(engine)
        shipped = CompositionConfig()
        self._repairs = {"high": shipped.high, "fast": shipped.fast}

    async def prepare(self, cube: Cube, items: Sequence[Item], report: Callable[[str], None]) -> list[Case]:
        """Build the pages that the questions need, as idle time does; then make the prompts, whose order is by page."""
        planner = self.prompts.planner()
        found = [await planner.plan(self.prompts.ask(cube, item.question)) for item in items]
        wanted = {planned.memory.label for plan in found for planned in plan.memories}
        if self._injection.movable:
            report(f"building the pages of {len(wanted)} memories")
            n = await self._engine.on_model(lambda runner: self._injection.build_pages(runner, cube, wanted))
            report(f"{n} pages")
        planner = self.prompts.planner()
        return [await self.prompts.case(planner, cube, item) for item in items]

    async def ask(self, cube: Cube, case: Case) -> Outcome:
        """Score one question under every condition."""
        item = case.item
        options = [self._engine.prompts.tokenize(text, add_special_tokens=False) for text in (item.gold, *item.rivals)]
        outcome = Outcome(
            item.conversation,
            item.category,
            recall_at(sorted(case.found), item.evidence, len(case.found)),
            len(case.plan.memories),
            tuple(len(option) for option in options),
        )
        answers = await self._engine.on_model(lambda runner: self._computed(runner, cube, case, options, outcome))
        if case.plan.memories:
            answers |= await self._exact(case.plan.prompt, options, outcome)
        for name, answer in answers.items():
            outcome.same[name] = answer == answers["text"]
            outcome.f1[name] = round(f1(self._engine.prompts.detokenize(answer), item.gold), 4)
        return outcome

    def _computed(
        self, runner: ModelRunner, cube: Cube, case: Case, options: Sequence[Sequence[int]], outcome: Outcome
    ) -> dict[Condition, tuple[int, ...]]:
        """Score what is computed on the engine's thread: all but ``exact``, which a request to the engine is. Returns
        greedy answers."""
        ready = self._prompts(runner, cube, case)
        for name, prompt in ready.items():
            likelihoods = log_likelihoods(runner, prompt, options)
            outcome.scored[name] = _scored(likelihoods, prompt.n_tokens, prompt.n_computed)
        if not (n_tokens := self._settings.greedy_tokens):
            return {}
        names = [name for name in ready if name in _COMPARED]
        found = greedy(runner, [ready[name] for name in names], n_tokens, self._engine.model.eos_token_ids)
        return dict(zip(names, found, strict=True))

    def _prompts(self, runner: ModelRunner, cube: Cube, case: Case) -> Mapping[Condition, Computed]:
        injection, planned = self._injection, case.plan.prompt
        ready: dict[Condition, Computed] = {"none": injection.prefilled(runner, case.none)}
        if case.random is not None:
            ready["random"] = injection.prefilled(runner, case.random)
        if case.evidence is not None:
            ready["evidence"] = injection.prefilled(runner, case.evidence)
        ready["text"] = injection.prefilled(runner, planned)
        if not case.plan.memories:
            return ready
        if (history := injection.with_history(runner, cube, planned)) is not None:
            ready["full"] = history
        if injection.movable:
            ready["high"] = injection.composed(runner, cube, planned, self._repairs["high"])
            ready["fast"] = injection.composed(runner, cube, planned, self._repairs["fast"])
            ready["naive"] = injection.concatenated(runner, cube, planned)
        return ready

    async def _exact(
        self, prompt: Prompt, options: Sequence[Sequence[int]], outcome: Outcome
    ) -> dict[Condition, tuple[int, ...]]:
        """Store the prompt's chain, and ask the engine to go on with it. Returns a greedy answer."""
        await self._engine.build(prompt, _CHAINED)
        likelihoods = []
        for option in options:
            turns = Piece("turns", (*prompt.turns.token_ids, *option))
            answered = Prompt((*prompt.pieces[:-1], turns))
            started, _ = await self._requested(answered, Sampling(max_tokens=0, logprobs=0), len(option))
            likelihoods.append(sum(score.logprob or 0.0 for score in started.scores))
            computed = started.prompt_tokens - started.cached_tokens - len(option)
        outcome.scored["exact"] = _scored(likelihoods, prompt.n_tokens, computed)
        if not (n_tokens := self._settings.greedy_tokens):
            return {}
        _, answer = await self._requested(prompt, Sampling(max_tokens=n_tokens, temperature=0.0))
        return {"exact": answer}

    async def _requested(
        self, prompt: Prompt, sampling: Sampling, score_last: int = 0
    ) -> tuple[Started, tuple[int, ...]]:
        request = GenerateRequest("bench", prompt, sampling, salt=_CHAINED, score_last=score_last)
        started: Started | None = None
        tokens: list[int] = []
        async for event in self._engine.generate(request):
            if isinstance(event, Started):
                started = event
            elif isinstance(event, Delta):
                tokens += event.token_ids
        assert started is not None, "every request starts"
        return started, tuple(tokens)


def _scored(likelihoods: Sequence[float], prompt_tokens: int, computed_tokens: int) -> Scored:
    return Scored(tuple(round(value, 5) for value in likelihoods), prompt_tokens, computed_tokens)
