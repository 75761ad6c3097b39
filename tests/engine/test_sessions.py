"""Conversations on a tiny model: turns and answers stay, and the next request computes only what is new."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.base import GenerateRequest, Piece, Prompt, Started
from engine.placement import missing_pieces
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import Segment, chain_key
from kvcache.entry import Entry
from tests.engine import test_composition as composing
from tests.engine.test_engine import GREEDY, collect, engine_on, prompt_of, run, tokens_of
from tests.kvcache.conftest import make_segment


def said(seed: int, n: int) -> tuple[int, ...]:
    return tuple((seed * 53 + i * 29) % 250 for i in range(n))


async def ask(engine: TransformersEngine, prompt: Prompt, **request: object) -> tuple[Started, tuple[int, ...]]:
    """Ask as a conversation does; the answer is what full prefill gives."""
    started, choices = await collect(engine, prompt, keep_turns=True, **request)  # type: ignore[arg-type]
    answer = tokens_of(choices[0])
    _, plain = await collect(engine, prompt, use_segments=False)
    assert answer == tokens_of(plain[0])
    return started, tuple(answer)


def longer(prompt: Prompt, *new: int) -> Prompt:
    """The same conversation with more said in its last turns."""
    *before, turns = prompt.pieces
    return Prompt((*before, Piece("turns", turns.token_ids + new)))


def with_block(prompt: Prompt, said_before: tuple[int, ...], memory: Piece, question: tuple[int, ...]) -> Prompt:
    """The conversation goes on with a message that has a memory at its head."""
    *before, turns = prompt.pieces
    inner = Piece("turns", turns.token_ids + said_before, storable=True)
    return Prompt((*before, inner, memory, Piece("turns", question)))


MEMORY = Piece("memory", said(77, 12), "later@1", storable=True)


@pytest.mark.parametrize("n_turns", [11, 300])  # copied, and attended to where it lies
def test_the_next_turn_computes_only_what_is_new(model: LoadedModel, tmp_path: Path, n_turns: int) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt, cached = prompt_of(20, 9, n_turns), 0
            for turn in range(4):
                started, answer = await ask(engine, prompt)
                assert started.cached_tokens == cached
                cached = prompt.n_tokens + len(answer) - 1  # the last one was never fed
                prompt = longer(prompt, *answer, *said(turn, 13))
            assert sum(entry.n_tokens for entry in engine.catalogue.entries()) == cached

    run(test)


def test_a_memory_that_comes_later_stands_in_the_chain(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            first = prompt_of(20, 9, 11)
            _, answer = await ask(engine, first)
            second = with_block(first, (*answer, *said(1, 7)), MEMORY, said(2, 9))
            started, answer = await ask(engine, second)
            assert started.cached_tokens == first.n_tokens + len(answer) - 1
            third = longer(second, *answer, *said(3, 5))
            started, _ = await ask(engine, third)
            assert started.cached_tokens == second.n_tokens + len(answer) - 1
            assert [report.source for report in started.pieces] == ["resident"] * 4 + ["computed"]

    run(test)


def test_deleting_a_memory_in_the_middle_leaves_what_is_before_it(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            first = prompt_of(20, 9, 11)
            _, answer = await ask(engine, first)
            second = with_block(first, (*answer, *said(1, 7)), MEMORY, said(2, 9))
            _, answer = await ask(engine, second)
            removed = engine.catalogue.remove_label("later@1")
            assert len(removed) == 3  # the memory, the turns behind it and the answer
            third = longer(second, *answer, *said(3, 5))
            for _ in range(2):  # the label stays dead, and nothing behind it is stored
                started, _ = await ask(engine, third)
                assert started.cached_tokens == sum(len(piece.token_ids) for piece in second.pieces[:3])
            without = Prompt((*third.pieces[:3], Piece("turns", third.pieces[4].token_ids)))
            await ask(engine, without)
            started, _ = await ask(engine, without)
            assert started.cached_tokens == without.n_tokens - 1
            engine.catalogue.remove_label("m0.1@1")
            assert [entry.n_tokens for entry in engine.catalogue.entries()] == [20]  # the header

    run(test)


def test_a_branch_falls_back_to_the_common_beginning(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            first = prompt_of(20, 9, 11)
            _, answer = await ask(engine, first)
            for branch in (1, 2):
                started, _ = await ask(engine, longer(first, *answer, *said(branch, 30)))
                assert started.cached_tokens == first.n_tokens + len(answer) - 1
            started, _ = await ask(engine, longer(first, *said(8, 30)))
            assert started.cached_tokens == first.n_tokens

    run(test)


def test_a_conversation_goes_to_disk_and_comes_back(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        first = prompt_of(20, 9, 11)
        async with engine_on(model, tmp_path) as engine:
            _, answer = await ask(engine, first)
            engine.store._writes.queue.join()
            assert engine.catalogue.stats().segments["disk"] == 2  # turns are not written at once
        second = longer(first, *answer, *said(1, 5))
        async with engine_on(model, tmp_path) as engine:  # a restart
            started, answer = await ask(engine, second)
            assert started.cached_tokens == first.n_tokens + len(answer) - 1
            engine.store.demote("disk")
            started, _ = await ask(engine, longer(second, *answer, 1, 2))
            assert started.cached_tokens == second.n_tokens + len(answer) - 1

    run(test)


def test_without_memories_turns_are_kept_and_tenants_share_nothing(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(40)
            _, answer = await ask(engine, prompt, salt="a")
            prompt = longer(prompt, *answer, 5, 6)
            assert (await ask(engine, prompt, salt="b"))[0].cached_tokens == 0
            assert (await ask(engine, prompt, salt="a"))[0].cached_tokens == 40 + len(answer) - 1

    run(test)


def test_only_finished_single_answers_that_are_to_be_kept_are_stored(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            prompt = prompt_of(20, 9, 11)
            await collect(engine, prompt)
            await collect(engine, prompt, keep_turns=True, n=2)
            await collect(engine, prompt, keep_turns=True, use_segments=False)
            stream = engine.generate(GenerateRequest("r", prompt, GREEDY, keep_turns=True))
            async for _ in stream:
                break
            await stream.aclose()
            await collect(engine, prompt_of(9))
            assert [entry.n_tokens for entry in engine.catalogue.entries()] == [20, 9]

    run(test)


def test_a_memory_that_may_not_be_stored_ends_the_chain(model: LoadedModel, tmp_path: Path) -> None:
    async def test() -> None:
        async with engine_on(model, tmp_path) as engine:
            header, memory, turns = prompt_of(20, 9, 11).pieces
            unkept = Prompt((header, Piece("memory", memory.token_ids, memory.label), turns))
            await ask(engine, unkept)
            assert [entry.n_tokens for entry in engine.catalogue.entries()] == [20]

    run(test)


@pytest.mark.parametrize("place", ["system", "middle"])
def test_nothing_is_stored_behind_a_composed_memory(model: LoadedModel, tmp_path: Path, place: str) -> None:
    async def test() -> None:
        engine = composing.engine_on(model, tmp_path)
        await composing.build(engine, 1, 2)
        memory = composing.memory(2)
        prompt = composing.prompt_of(memory)
        if place == "middle":
            header, turns = Piece("header", composing.HEADER, storable=True), Piece("turns", said(1, 30), storable=True)
            prompt = Prompt((header, composing.memory(3), turns, memory, Piece("turns", composing.QUERY)))
        known = {entry.key for entry in engine.catalogue.entries()}
        started, _ = await collect(engine, prompt, keep_turns=True, fidelity="fast")
        at = prompt.pieces.index(memory)
        assert [i for i, report in enumerate(started.pieces) if report.fidelity != "exact"] == [at]
        new = [entry for entry in engine.catalogue.entries() if entry.key not in known]
        assert sum(entry.n_tokens for entry in new) == sum(len(piece.token_ids) for piece in prompt.pieces[:at])
        await engine.build(prompt)  # as healing does
        _, choices = await collect(engine, prompt, keep_turns=True, fidelity="fast")
        assert tokens_of(choices[0]) == tokens_of((await collect(engine, prompt, use_segments=False))[1][0])
        started, _ = await collect(engine, prompt, keep_turns=True, fidelity="fast")
        assert started.cached_tokens == prompt.n_tokens - 1
        await engine.close()

    asyncio.run(test())


# -- what is missing ----------------------------------------------------------------------------------------------

ROOT = "00" * 32


def entries(*segments: Segment) -> list[Entry]:
    return [Entry.of(segment) for segment in segments]


def test_the_rest_of_turns_is_missing_behind_a_chain_that_ends_in_them() -> None:
    header = make_segment([1, 2], root=ROOT)
    turns = make_segment([3, 4], after=header)
    pieces = (
        Piece("header", (1, 2), storable=True),
        Piece("turns", (3, 4, 5), storable=True),
        Piece("memory", (6,), "m@1", storable=True),
        Piece("turns", (7,)),
    )
    rest, memory = missing_pieces(Prompt(pieces), ROOT, entries(header, turns), (), keep_turns=True)
    assert (rest.parent, rest.start, rest.end, rest.labels, rest.session) == (turns.key, 4, 5, frozenset(), True)
    assert (memory.parent, memory.start, memory.end) == (chain_key(turns.key, [5]), 5, 6)
    assert (memory.labels, memory.session) == (frozenset({"m@1"}), True)
    assert missing_pieces(Prompt(pieces), ROOT, entries(header), ()) == []  # an engine that keeps no turns


def test_a_memory_is_never_stored_in_two_halves() -> None:
    header = make_segment([1, 2], root=ROOT)
    half = make_segment([3], after=header)  # what somebody said, and the beginning of a memory by chance
    pieces = (
        Piece("header", (1, 2), storable=True),
        Piece("memory", (3, 4), "m@1", storable=True),
        Piece("turns", (7,)),
    )
    assert missing_pieces(Prompt(pieces), ROOT, entries(header, half), (), keep_turns=True) == []
