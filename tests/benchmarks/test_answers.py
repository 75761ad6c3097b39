"""The benchmark of answers: on a tiny model and a tiny history, its figures on made-up outcomes, its pictures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import answers_cli
from benchmarks.cli import app
from benchmarks.report.answers import figure_lines, plot_answers
from benchmarks.report.chart import answers_svg
from benchmarks.report.readme import RESULTS
from benchmarks.suites.answers.bootstrap import ClusterBootstrap
from benchmarks.suites.answers.conditions import CONDITIONS, TENANT, Case, Condition, Cube, Injection, Prompts
from benchmarks.suites.answers.measure import Outcome, Scored, Settings, measure
from benchmarks.suites.answers.report import Figures, adversarial, holds, read, sentences, summary, whole, written
from benchmarks.suites.answers.score import f1, greedy, log_likelihoods
from benchmarks.suites.answers.sets import ADVERSARIAL, NOT_MENTIONED, draw, draw_adversarial, words
from benchmarks.suites.retrieval import Conversation, load
from benchmarks.support import composing
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling, Started
from engine.config import CompositionConfig
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import TieredStore
from memory import HashEmbedder, MemoryStore

T = TypeVar("T")
_FACTS = [
    ("Ana", "I adopted a grey parrot called Quill.", "What is Ana's parrot called?", "Quill"),
    ("Sam", "I sold my wooden canoe to Theo.", "Who bought the canoe of Sam?", "Theo"),
    ("Ana", "My aunt Ruth keeps bees in Tartu.", "Where does Ana's aunt keep bees?", "in Tartu"),
    ("Sam", "I am learning the cello on Mondays.", "Which instrument does Sam learn?", "the cello"),
    ("Ana", "The lighthouse was closed for repairs.", "Why was the lighthouse closed?", "for repairs"),
    ("Sam", "My sister Ines moved to Porto.", "Where did Ines move?", "Porto"),
]
_OTHERS = [
    {"question": "Was it grey, the grey parrot?", "answer": "Grey", "evidence": ["D1:1"], "category": 4},
    {"question": "What did Sam buy?", "evidence": ["D1:2"], "category": 5, "adversarial_answer": "a canoe"},
    {"question": "Which year?", "answer": 1999, "evidence": ["D1:3"], "category": 2},
]


def _history(folder: Path, n: int = 2) -> Path:
    """As many conversations in LoCoMo's format, with the same turns."""
    turns = [{"dia_id": f"D1:{i}", "speaker": who, "text": text} for i, (who, text, _, _) in enumerate(_FACTS, start=1)]
    qa = [
        {"question": question, "answer": answer, "evidence": [f"D1:{i}"], "category": 4}
        for i, (_, _, question, answer) in enumerate(_FACTS, start=1)
    ]
    conversation = {"session_1": turns, "session_1_date_time": "1:56 pm on 8 May, 2023"}
    path = folder / "locomo.json"
    path.write_text(json.dumps([{"conversation": conversation, "qa": [*qa, *_OTHERS]}] * n))
    return path


# -- questions -------------------------------------------------------------------------------------------------


def test_questions_whose_answer_they_hold_and_those_without_one_are_left_out(tmp_path: Path) -> None:
    items = draw(load(_history(tmp_path)), 100, 0)
    assert len(items) == 2 * (len(_FACTS) + 1)
    assert "Grey" not in {item.gold for item in items}
    assert {item.category for item in items} == {"single-hop", "temporal"}
    assert "1999" in {item.gold for item in items}
    for item in items:
        assert item.gold not in item.rivals
        assert len(set(item.rivals)) == len(item.rivals) == (0 if item.category == "temporal" else 3)


def test_questions_are_drawn_evenly_and_the_same_ones_each_time(tmp_path: Path) -> None:
    conversations = load(_history(tmp_path))
    items = draw(conversations, 5, 3)
    assert sorted(item.conversation for item in items) == [0, 0, 0, 1, 1]
    assert items == draw(conversations, 5, 3)
    assert items != draw(conversations, 5, 4)


def test_questions_that_nothing_answers_come_apart(tmp_path: Path) -> None:
    first, second = draw_adversarial(load(_history(tmp_path)), 9, 0)
    assert (first.gold, first.rivals) == (second.gold, second.rivals) == (NOT_MENTIONED, ("a canoe",))


def test_words_are_compared_whole() -> None:
    assert words("Art?") not in words("Which party was it?")
    assert words("the party") in words("Was it THE party?")


# -- intervals -------------------------------------------------------------------------------------------------


def test_the_interval_of_one_conversation_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    figure = ClusterBootstrap([0] * 400).mean(values)
    assert figure is not None
    half = 1.96 * values.std() / 20
    assert figure.value == pytest.approx(values.mean(), abs=1e-4)
    assert (figure.low, figure.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_conversations_that_differ_widen_the_interval() -> None:
    clusters = [0] * 50 + [1] * 50
    figure = ClusterBootstrap(clusters).mean([0.0] * 50 + [1.0] * 50)
    assert figure is not None
    # One of the two is drawn twice in half of all draws; then the mean is its own.
    assert (figure.value, figure.low, figure.high) == (0.5, 0.0, 1.0)
    assert ClusterBootstrap(clusters).mean([0.25] * 100) is not None


def test_ratios_are_paired() -> None:
    values = np.random.default_rng(2).normal(1.0, 3.0, 60)
    draws = ClusterBootstrap([i % 3 for i in range(60)])
    figure = draws.ratio(values * 0.9, values)
    assert figure is not None
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.9, 0.9, 0.9))


def test_samples_without_a_value_are_left_out() -> None:
    draws = ClusterBootstrap([0, 0, 1, 1])
    figure = draws.mean([1.0, float("nan"), 3.0, float("nan")])
    assert figure is not None
    assert figure.value == 2.0
    assert draws.mean([float("nan")] * 4) is None


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    clusters = [i // 12 for i in range(96)]
    held = 0
    for seed in range(200):
        values = np.repeat(rng.normal(0.0, 0.5, 8), 12) + rng.normal(0.0, 1.0, 96)
        figure = ClusterBootstrap(clusters, seed, draws=400).mean(values)
        assert figure is not None
        held += figure.low <= 0.0 <= figure.high
    assert 0.90 <= held / 200 <= 1.0


# -- likelihoods -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(model: LoadedModel, folder: Path) -> AsyncGenerator[tuple[TransformersEngine, MemoryStore], None]:
    engine = TransformersEngine(model, TieredStore(folder / "kv"), model_id="tiny", composing=composing.ALWAYS)
    store = MemoryStore(folder / "memories.sqlite", HashEmbedder())
    try:
        yield engine, store
    finally:
        store.close()
        await engine.close()


def _with_case(
    model: LoadedModel,
    folder: Path,
    use: Callable[[TransformersEngine, Injection, Cube, Case], Awaitable[T]],
) -> T:
    """Use the case of one question whose memories have pages, behind other neighbours than in the prompt."""

    async def run() -> T:
        conversations = load(_history(folder, 1))
        item = draw(conversations, 1, 0)[0]
        async with _opened(model, folder) as (engine, store):
            prompts, injection = Prompts(engine, store, 3, 0), Injection(engine)
            cube = prompts.add("c", conversations[0])
            every = {memory.label for memory in cube.memories}
            assert await engine.on_model(lambda runner: injection.build_pages(runner, cube, every)) >= 1
            return await use(engine, injection, cube, await prompts.case(prompts.planner(), cube, item))

    return asyncio.run(run())


async def _score(engine: TransformersEngine, prompt: Prompt, answer: Sequence[int], **options: Any) -> float:
    """Give the likelihood of an answer by a request to the engine."""
    whole = Prompt((*prompt.pieces[:-1], Piece("turns", (*prompt.turns.token_ids, *answer))))
    request = GenerateRequest("t", whole, Sampling(max_tokens=0, logprobs=0), score_last=len(answer), **options)
    (started,) = [event async for event in engine.generate(request) if isinstance(event, Started)]
    if options.get("fidelity"):
        assert {report.fidelity for report in started.pieces[1:-1]} == {options["fidelity"]}
    return sum(score.logprob or 0.0 for score in started.scores)


def test_likelihoods_are_those_of_the_engine(model: LoadedModel, tmp_path: Path) -> None:
    answers = [list(b"Quill"), list(b"x"), list(b"in Tartu")]

    async def use(engine: TransformersEngine, injection: Injection, cube: Cube, case: Case) -> None:
        prompt = case.plan.prompt
        ours = await engine.on_model(
            lambda runner: log_likelihoods(runner, injection.prefilled(runner, prompt), answers)
        )
        theirs = [await _score(engine, prompt, answer, use_segments=False) for answer in answers]
        assert ours == pytest.approx(theirs, abs=1e-3)

    _with_case(model, tmp_path, use)


@pytest.mark.parametrize("fidelity", ["high", "fast"])
def test_composed_likelihoods_are_those_of_the_engine(model: LoadedModel, tmp_path: Path, fidelity: Any) -> None:
    """What users get at this fidelity is what is measured."""
    answers = [list(b"Quill"), list(b"nobody")]

    async def use(engine: TransformersEngine, injection: Injection, cube: Cube, case: Case) -> None:
        prompt = case.plan.prompt
        repair = getattr(CompositionConfig(), fidelity)
        ours = await engine.on_model(
            lambda runner: log_likelihoods(runner, injection.composed(runner, cube, prompt, repair), answers)
        )
        theirs = [await _score(engine, prompt, answer, salt=TENANT, fidelity=fidelity) for answer in answers]
        assert ours == pytest.approx(theirs, abs=1e-3)

    _with_case(model, tmp_path, use)


def test_greedy_answers_are_those_of_the_engine(model: LoadedModel, tmp_path: Path) -> None:
    async def use(engine: TransformersEngine, injection: Injection, cube: Cube, case: Case) -> None:
        ends = engine.model.eos_token_ids
        both = await engine.on_model(
            lambda runner: greedy(
                runner, [injection.prefilled(runner, prompt) for prompt in (case.none, case.plan.prompt)], 9, ends
            )
        )
        for prompt, ours in zip((case.none, case.plan.prompt), both, strict=True):
            sampling = Sampling(max_tokens=9, temperature=0.0)
            request = GenerateRequest("t", prompt, sampling, use_segments=False)
            events = [event async for event in engine.generate(request) if isinstance(event, Delta)]
            assert ours == tuple(token for event in events for token in event.token_ids)

    _with_case(model, tmp_path, use)


def test_a_question_s_prompts(model: LoadedModel, tmp_path: Path) -> None:
    async def use(engine: TransformersEngine, injection: Injection, cube: Cube, case: Case) -> None:
        assert case.random is not None
        assert case.evidence is not None
        planned, drawn, evidence = (
            {piece.label for piece in prompt.memories()} for prompt in (case.plan.prompt, case.random, case.evidence)
        )
        assert 1 <= len(drawn) == len(planned) <= 3
        assert not drawn & (planned | evidence)
        assert not case.none.memories()
        assert {p.turns.token_ids for p in (case.plan.prompt, case.random, case.evidence)} == {
            case.plan.prompt.turns.token_ids
        }

    _with_case(model, tmp_path, use)


# -- the run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder = tmp_path_factory.mktemp("answers")

    async def run() -> list[Outcome]:
        conversations: list[Conversation] = load(_history(folder))
        items = [*draw(conversations, 8, 0), *draw_adversarial(conversations, 1, 0)]
        async with _opened(model, folder) as (engine, store):
            told: list[str] = []
            found = await measure(engine, store, conversations, items, Settings(3, 4), told.append)
            assert told[-1] == "9 of 9 questions"
            return found

    return asyncio.run(run())


def test_every_question_is_asked_under_every_condition(outcomes: list[Outcome]) -> None:
    asked = [set(outcome.scored) for outcome in outcomes]
    # A question that no memory has to do with gets none.
    assert all(names == set(CONDITIONS) or names == {"none", "text", "evidence"} for names in asked)
    assert asked.count(set(CONDITIONS)) >= 7
    for outcome in outcomes:
        scored = outcome.scored
        if "exact" not in scored:
            continue
        tokens = {scored[name].prompt_tokens for name in ("text", "exact", "high", "fast", "naive")}
        assert len(tokens) == 1
        assert scored["none"].prompt_tokens < scored["text"].prompt_tokens < scored["full"].prompt_tokens
        assert scored["text"].computed_tokens == scored["text"].prompt_tokens
        assert scored["exact"].computed_tokens == scored["fast"].computed_tokens < scored["high"].computed_tokens
        assert scored["high"].computed_tokens < scored["text"].computed_tokens


def test_exact_is_full_prefill_and_concatenation_is_not(outcomes: list[Outcome]) -> None:
    result = whole(outcomes, 0)
    rows = {row["condition"]: row for row in result["rows"]}
    assert rows["exact"]["kept"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0}, abs=1e-3)
    same = result["same_greedy_answers"]["exact"]
    assert same["same"] == same["of"] >= 7
    assert result["questions"] == 8
    assert result["holds"]["exact is full prefill"]
    for outcome in (outcome for outcome in outcomes if "exact" in outcome.scored):
        exact, text = outcome.scored["exact"].options, outcome.scored["text"].options
        assert exact == pytest.approx(text, abs=1e-3)
        assert outcome.scored["naive"].options != pytest.approx(text, abs=1e-2)
    assert result["adversarial"]["questions"] == 1
    assert result["adversarial"]["rows"][0] == {
        "condition": "none",
        "margin": result["adversarial"]["rows"][0]["margin"],
        "gain": {"value": 0.0, "low": 0.0, "high": 0.0},
    }
    assert "Quill" not in json.dumps(result)


def test_a_result_can_be_read_back(outcomes: list[Outcome]) -> None:
    in_order = sorted(outcomes, key=lambda outcome: outcome.category == ADVERSARIAL)
    text = written(whole(in_order, 0))
    assert read(json.loads(text)) == in_order
    assert json.loads(text) == json.loads(json.dumps(whole(in_order, 0)))
    assert sum('"conversation": ' in line for line in text.splitlines()) == len(outcomes)
    assert read(whole(in_order[:-1], 0)) == in_order[:-1]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("answers-*.json")), ids=lambda path: path.name)
def test_committed_figures_are_those_of_their_questions(path: Path) -> None:
    result = json.loads(path.read_text())
    again = whole(read(result), result["seed"])
    assert [row["condition"] for row in again["rows"]] == [row["condition"] for row in result["rows"]]
    for ours, theirs in zip(again["rows"], result["rows"], strict=True):
        for name in ("gain", "kept", "minus_text", "bits_an_answer"):
            assert ours[name] == pytest.approx(theirs[name], abs=2e-4)  # rounded, and summed in another order, maybe
    assert again["holds"] == result["holds"]
    assert again["same_greedy_answers"] == result["same_greedy_answers"]


# -- figures ---------------------------------------------------------------------------------------------------


def _outcome(conversation: int, **likelihoods: tuple[float, ...]) -> Outcome:
    """A question whose gold answer has two tokens and whose rival has one; each condition's likelihoods."""
    scored: dict[Condition, Scored] = {}
    for name in CONDITIONS:
        if name in likelihoods:
            scored[name] = Scored(likelihoods[name], 100, 10)
    return Outcome(conversation, "single-hop", 1.0, 3, (2, 1), scored)


_MADE_UP = [
    _outcome(0, none=(-8, -3), random=(-8, -3), text=(-4, -3), exact=(-4, -3), high=(-4, -3), naive=(-7, -1)),
    _outcome(1, none=(-8, -3), random=(-7.8, -3), text=(-6, -2.5), exact=(-6, -2.5), high=(-6, -3), naive=(-7, -3)),
]


def test_gains_are_nats_a_token_and_bits_an_answer() -> None:
    rows = {row["condition"]: row for row in Figures(_MADE_UP, 0).rows()}
    assert list(rows) == ["none", "random", "text", "exact", "high", "naive"]
    assert rows["text"]["log_likelihood"]["value"] == -2.5
    assert rows["text"]["gain"]["value"] == 1.5
    assert rows["text"]["bits_an_answer"]["value"] == pytest.approx(3 / np.log(2), abs=1e-3)
    assert rows["naive"]["kept"]["value"] == pytest.approx(0.3333, abs=1e-4)
    assert rows["naive"]["minus_text"]["value"] == -1.0


def test_the_choice_is_by_what_each_answer_gains() -> None:
    """A rival that is likely by itself is not chosen for that."""
    rows = {row["condition"]: row for row in Figures(_MADE_UP, 0).rows()}
    assert rows["none"]["choice"] is None
    assert rows["text"]["choice"]["value"] == 1.0
    assert rows["naive"]["choice"]["value"] == 0.5
    assert rows["random"]["choice"]["value"] == 0.5


def test_claims_hold_only_within_their_bounds() -> None:
    result = summary(_MADE_UP, 0)
    assert all(result["holds"].values())
    assert [sentence.split(":")[0] for sentence in result["sentences"]] == [
        "The same answers as full prefill",
        "Better than no memory",
    ]
    worse = [_outcome(o.conversation, **{n: s.options for n, s in o.scored.items()}) for o in _MADE_UP]
    worse[0].scored["exact"] = Scored((-4.1, -3), 100, 10)
    worse[1].scored["high"] = Scored((-6.5, -3), 100, 10)
    worse[1].scored["random"] = Scored((-5.0, -3), 100, 10)
    assert not any(summary(worse, 0)["holds"].values())
    for outcome in worse:
        for name in ("exact", "high", "random"):
            outcome.scored.pop(name)
    without = summary(worse, 0)
    assert not any(without["holds"].values())
    assert without["sentences"] == []
    assert holds(result) == result["holds"]
    assert sentences(result) == result["sentences"]


def test_saying_that_nothing_was_said_is_measured_by_its_margin() -> None:
    rows = adversarial(_MADE_UP, 0)["rows"]
    margins = {row["condition"]: row["margin"]["value"] for row in rows}
    assert margins["none"] == -1.0
    assert margins["text"] == pytest.approx((1.0 + -0.5) / 2)
    assert {row["condition"]: row["gain"]["value"] for row in rows}["text"] == pytest.approx(1.25)


def test_f1_is_of_words() -> None:
    assert f1("The cello.<|im_end|>", "cello") == 1.0
    assert f1("a red cello", "the cello") == pytest.approx(2 / 3)
    assert f1("Mondays", "cello") == 0.0
    assert f1("", "") == 0.0


# -- pictures and the command ----------------------------------------------------------------------------------


def test_pictures_and_the_table(outcomes: list[Outcome], tmp_path: Path) -> None:
    machine = {"cores": 2, "device": "cpu", "dtype": "float32", "commit": "abc"}
    head = {"model": "demo", "data": "d.json", "top_k": 3, "machine": machine}
    result = json.loads(json.dumps({**head, **whole(outcomes, 0)}))
    plot_answers(result, tmp_path / "answers.png")
    assert (tmp_path / "answers.png").read_bytes().startswith(b"\x89PNG")
    drawing = ElementTree.fromstring(answers_svg(result))
    assert len(drawing.findall("{http://www.w3.org/2000/svg}rect")) == 6
    lines = figure_lines(result)
    assert sum(line.startswith("| ") for line in lines) == 1 + len(CONDITIONS)


def test_the_command_refuses_what_does_not_hold(
    outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = {"model": "demo", "data": "d.json", "top_k": 3}
    result = {**head, **whole(outcomes, 0)}
    result["holds"] = {"high keeps the gain": False}
    monkeypatch.setattr(answers_cli, "on_engine", lambda *_, **__: result)
    path = str(_history(tmp_path))
    json_file = tmp_path / "out" / "answers.json"
    assert CliRunner().invoke(app, ["answers", "--data", path, "--json", str(json_file)]).exit_code == 0
    assert json.loads(json_file.read_text())["questions"] == 8
    assert CliRunner().invoke(app, ["answers", "--data", path, "--check"]).exit_code == 1
