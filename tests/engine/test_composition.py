"""Composition on a tiny model, against full prefill."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base import Delta, GenerateRequest, PageRequest, Piece, Prompt, Sampling, Started
from engine.config import CompositionConfig
from engine.transformers import LoadedModel, ModelRunner, SequenceKV, TransformersEngine, Work
from engine.transformers.composing import Composer, PlacedPart, finished
from kvcache import (
    STRATEGIES,
    Lead,
    Repair,
    Segment,
    StrategyName,
    TieredStore,
    chain_key,
    root_key,
    standalone_root,
)
from kvcache.repair import SIGNALS, Comparison, Signal, Weighing
from tests.tiny import tiny_model

HEADER = tuple(range(10, 22))
QUERY = tuple(range(200, 214))
NAMES: list[StrategyName] = [name for name in STRATEGIES if name != "none"]
ALL = CompositionConfig(max_kl=float("inf"), min_saved_tokens=0)
GREEDY = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


def line(i: int, n: int = 20) -> tuple[int, ...]:
    return tuple((i * 41 + j * 17 + i * j) % 250 for j in range(n))


def memory(i: int, n: int = 20) -> Piece:
    return Piece("memory", line(i, n), f"m{i}@1", storable=True)


def prefill(model: LoadedModel, token_ids: Sequence[int]) -> SequenceKV:
    kv = SequenceKV(model.fingerprint.layout, model.device, len(token_ids))
    ModelRunner(model.model).forward([Work(kv, token_ids, 0)])
    return kv


def full_logits(model: LoadedModel, token_ids: Sequence[int]) -> torch.Tensor:
    """By plain transformers, with its own attention."""
    network = model.model
    network.set_attn_implementation("sdpa")
    try:
        with torch.inference_mode():
            return network(torch.tensor([list(token_ids)]), use_cache=False).logits[0, -1].float()
    finally:
        network.set_attn_implementation("recallkv")


def page(model: LoadedModel, lines: Sequence[Sequence[int]], lead: Sequence[int] = ()) -> Segment:
    tokens = [token for part in lines for token in part]
    start = len(HEADER) + len(lead)
    keys, values = prefill(model, [*HEADER, *lead, *tokens]).copy_range(start, start + len(tokens))
    parts = [(part, None) for part in lines]
    return Segment.standalone(
        root_key(model.fingerprint), model.fingerprint, start, parts, keys, values, lead=Lead(lead)
    )


@torch.inference_mode()
def compose(model: LoadedModel, pages: Sequence[Segment], repair: Repair) -> tuple[torch.Tensor, int]:
    """Logits after the query with the pages placed one after the other, and how many tokens were computed anew."""
    assert model.rotation is not None
    runner = ModelRunner(model.model)
    ids = [*HEADER, *(token for segment in pages for token in segment.token_ids), *QUERY]
    kv = prefill(model, HEADER)
    parts, position = [], len(HEADER)
    for segment in pages:
        for part in segment.parts:
            parts.append(PlacedPart(segment, part, position))
            position += part.n_tokens
    composer = Composer(model, runner, 512)
    settled = composer.compose(kv, parts, ids, repair)
    return finished(composer.fill(kv, ids, settled.todo))[0], len(settled.recomputed)


@pytest.mark.parametrize("name", NAMES)
def test_all_recomputed_is_full_prefill(model: LoadedModel, name: StrategyName) -> None:
    pages = [page(model, [line(1)]), page(model, [line(2), line(3)], lead=line(9))]
    ids = [*HEADER, *line(1), *line(2), *line(3), *QUERY]
    logits, n = compose(model, pages, Repair(name, 1.0))
    assert n == 60
    torch.testing.assert_close(logits, full_logits(model, ids), atol=1e-3, rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_parts_where_they_were_built_are_exact(model: LoadedModel, lengths: list[int], random: Any) -> None:
    """A page behind the header that it was built behind is full prefill, cut as it may be."""
    lines = [line(random.randrange(99), n) for n in lengths]
    logits, n = compose(model, [page(model, lines)], Repair("none", 0.0))
    assert n == 0
    ids = [*HEADER, *(token for part in lines for token in part), *QUERY]
    torch.testing.assert_close(logits, full_logits(model, ids), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_repair_comes_closer_than_none(model: LoadedModel, name: StrategyName) -> None:
    """In the mean over several sets of memories: a single one may be lucky without."""

    def kl(repair: Repair) -> float:
        total = 0.0
        for first in range(1, 31, 5):
            members = range(first, first + 5)
            logits = compose(model, [page(model, [line(i)]) for i in members], repair)[0].log_softmax(-1)
            ids = [*HEADER, *(token for i in members for token in line(i)), *QUERY]
            exact = full_logits(model, ids).log_softmax(-1)
            total += float((exact.exp() * (exact - logits)).sum())
        return total

    alone = kl(Repair("none", 0.0))
    assert alone > 1e-2, "the pages must differ from full prefill for this test to say anything"
    assert kl(Repair(name, 0.6)) < alone


@torch.inference_mode()
def test_deviation_finds_what_stands_elsewhere(model: LoadedModel) -> None:
    """Tokens that stand where they were computed do not deviate; those that were moved do."""
    assert model.rotation is not None
    runner = ModelRunner(model.model)
    first, second = page(model, [line(1)]), page(model, [line(2)])
    ids = [*HEADER, *line(1), *line(2)]
    kv = prefill(model, HEADER)
    parts = [PlacedPart(first, first.parts[0], 12), PlacedPart(second, second.parts[0], 32)]
    Composer(model, runner, 512).place(kv, parts, 52)
    signal = runner.compared(kv, ids[12:], range(12, 52), SIGNALS["deviation"])  # type: ignore[arg-type]
    assert signal[:20].max() < 1e-6
    assert signal[20:].min() > 1e-6


def counted(vectors: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor]:
    return (torch.arange(vectors.shape[1]).float(),)


@pytest.mark.parametrize(
    "signal",
    [Comparison(1, counted, lambda count: count), Weighing(lambda weights: torch.arange(weights.shape[-1]).float())],
    ids=["comparison", "weighing"],
)
def test_a_strategy_with_a_signal_of_its_own_is_two_entries(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, signal: Signal
) -> None:
    """One that finds the last tokens strongest, known to nobody but the two dictionaries."""
    monkeypatch.setitem(SIGNALS, "late", signal)  # type: ignore[misc]
    monkeypatch.setitem(STRATEGIES, "latest", ("late", STRATEGIES["attention"][1]))  # type: ignore[misc]
    segment = page(model, [line(1), line(2)])
    ids, kv = [*HEADER, *line(1), *line(2), *QUERY], prefill(model, HEADER)
    parts = [PlacedPart(segment, part, len(HEADER) + part.begin) for part in segment.parts]
    settled = Composer(model, ModelRunner(model.model), 512).compose(kv, parts, ids, Repair("latest", 0.25))  # type: ignore[arg-type]
    assert settled.recomputed == frozenset(range(42, 52))
    assert settled.todo == list(range(42, len(ids)))


# -- through the engine -------------------------------------------------------------------------------------------


def prompt_of(*memories: Piece) -> Prompt:
    return Prompt((Piece("header", HEADER, storable=True), *memories, Piece("turns", QUERY)))


async def ask(engine: TransformersEngine, prompt: Prompt, **request: Any) -> tuple[Started, list[int]]:
    started, tokens = None, []
    async for event in engine.generate(GenerateRequest("r", prompt, GREEDY, **request)):
        if isinstance(event, Started):
            started = event
        elif isinstance(event, Delta):
            tokens.extend(event.token_ids)
    assert started is not None
    return started, tokens


def engine_on(model: LoadedModel, folder: Path, composing: CompositionConfig = ALL) -> TransformersEngine:
    return TransformersEngine(model, TieredStore(folder), model_id="tiny", composing=composing)


async def build(engine: TransformersEngine, *members: int, lead: Sequence[int] = (9,), salt: str = "") -> bool:
    pieces = tuple(memory(i) for i in members)
    request = PageRequest(Piece("header", HEADER), pieces, tuple(memory(i) for i in lead), (memory(7), memory(8)))
    return await engine.build_page(request, salt)


def test_a_request_is_composed_of_what_is_built(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path)
        prompt = prompt_of(memory(3), memory(1), memory(2), memory(5))
        _, exact = await ask(engine, prompt, use_segments=False)
        assert await build(engine, 1, 2, 3)
        root = standalone_root(chain_key(root_key(model.fingerprint), HEADER))
        assert engine.catalogue.locate_part(chain_key(root, line(2))) == (engine.catalogue.entries()[0].key, 20)

        started, _ = await ask(engine, prompt, fidelity="high")
        header, *memories, new, _ = started.pieces
        assert (header.fidelity, header.source) == ("exact", "computed")
        assert [report.fidelity for report in memories] == ["high"] * 3
        assert [report.source for report in memories] == ["resident"] * 3
        assert (new.fidelity, new.source) == ("exact", "computed")
        recomputed = sum(report.recomputed for report in memories)
        assert recomputed == 9
        assert started.cached_tokens == 60 - 9

        all_repaired = Repair("attention", 1.0)
        _, tokens = await ask(engine, prompt, fidelity="high", repair=all_repaired)
        assert tokens == exact
        started, tokens = await ask(engine, prompt, fidelity="exact")
        assert tokens == exact
        assert {report.fidelity for report in started.pieces} == {"exact"}
        engine.store.demote("disk")
        started, tokens = await ask(engine, prompt, fidelity="high")
        assert tokens == exact, "by now the chain is stored, and an exact prefix comes first"
        assert [report.fidelity for report in started.pieces] == ["exact"] * 6
        await engine.close()

    asyncio.run(test())


def test_nothing_approximate_is_ever_stored_as_a_chain(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path)
        await build(engine, 1, 2)
        await ask(engine, prompt_of(memory(4), memory(2), memory(5)), fidelity="high")
        chained = [entry for entry in engine.catalogue.entries() if entry.kind == "chained"]
        assert sorted(entry.n_tokens for entry in chained) == [12, 20], "the header and the memory before it"
        await engine.close()

    asyncio.run(test())


def test_pages_come_from_any_tier_and_a_lost_one_is_computed(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path)
        prompt = prompt_of(memory(2), memory(1))
        await build(engine, 1, 2)
        answers = []
        for tier, source in ((None, "resident"), ("host", "host"), ("disk", "disk")):
            if tier is not None:
                engine.store.demote(tier)  # type: ignore[arg-type]
            started, tokens = await ask(engine, prompt, fidelity="high", repair=Repair("first", 0.2))
            assert [report.source for report in started.pieces[1:3]] == [source] * 2
            answers.append(tokens)
        assert answers[0] == answers[1] == answers[2]
        engine.store.demote("disk")
        for file in tmp_path.glob("*/*.safetensors"):
            file.write_bytes(b"not a segment")
        started, tokens = await ask(engine, prompt, fidelity="high")
        assert [report.source for report in started.pieces] == ["computed"] * 4
        assert tokens == (await ask(engine, prompt, use_segments=False))[1]
        await engine.close()

    asyncio.run(test())


def test_a_page_over_the_bound_is_never_composed(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path, CompositionConfig(max_kl=1e-9, min_saved_tokens=0))
        await build(engine, 1, 2)
        (entry,) = engine.catalogue.entries()
        assert entry.certificate is not None
        assert entry.certificate.kl["fast"] >= entry.certificate.kl["high"] > 1e-9
        assert 0.0 <= entry.certificate.top1["high"] <= 1.0
        started, _ = await ask(engine, prompt_of(memory(2), memory(1)), fidelity="high")
        assert {report.fidelity for report in started.pieces} == {"exact"}
        await engine.close()

    asyncio.run(test())


def test_composition_that_saves_little_is_not_done(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path, CompositionConfig(max_kl=float("inf")))
        await build(engine, 1, 2)
        started, _ = await ask(engine, prompt_of(memory(2), memory(1)), fidelity="high")
        assert {report.fidelity for report in started.pieces} == {"exact"}
        await engine.close()

    asyncio.run(test())


def test_pages_are_not_shared_across_tenants(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path)
        await build(engine, 1, 2, salt="a")
        prompt = prompt_of(memory(2), memory(1))
        theirs, _ = await ask(engine, prompt, fidelity="high", salt="b")
        ours, _ = await ask(engine, prompt, fidelity="high", salt="a")
        assert [report.fidelity for report in theirs.pieces[1:3]] == ["exact"] * 2
        assert [report.fidelity for report in ours.pieces[1:3]] == ["high"] * 2
        await engine.close()

    asyncio.run(test())


def test_deleting_a_memory_that_a_page_was_built_behind_removes_the_page(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path)
        await build(engine, 1, 2, lead=(9,))
        assert len(engine.catalogue.remove_label("m9@1")) == 1
        assert not await build(engine, 1, 2, lead=(9,))
        assert await build(engine, 1, 2, lead=())
        await engine.close()

    asyncio.run(test())


def test_several_answers_and_streams_beside_a_composed_request(model: LoadedModel, tmp_path: Path) -> None:
    """Composed sequences fork and batch like others: their tokens do not depend on who runs beside them."""

    async def test() -> None:
        engine = engine_on(model, tmp_path)
        await build(engine, 1, 2, 3)
        prompts = [prompt_of(memory(3), memory(1)), prompt_of(memory(2), memory(3)), prompt_of(memory(6))]
        alone = [(await ask(engine, p, fidelity="high"))[1] for p in prompts]
        together = await asyncio.gather(*(ask(engine, p, fidelity="high") for p in prompts * 2))
        assert [tokens for _, tokens in together] == alone * 2
        _, twice = await ask(engine, prompts[0], fidelity="high", n=2)
        assert sorted(twice) == sorted(alone[0] * 2)
        await engine.close()

    asyncio.run(test())


def test_a_request_comes_before_building(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path)
        building = asyncio.create_task(build(engine, *range(1, 7)))
        await asyncio.sleep(0)
        _, tokens = await ask(engine, prompt_of(memory(1)))
        assert len(tokens) == 6
        assert not building.done()
        assert await building
        await engine.close()

    asyncio.run(test())


def test_closing_cancels_what_waits_for_idle_time(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        engine = engine_on(model, tmp_path)
        building = asyncio.create_task(build(engine, *range(1, 7)))
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(asyncio.CancelledError):
            await building

    asyncio.run(test())
