"""Conversations over the planner and the engine: memories keep their places, turns are reused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from engine.base import ChatMessage, Delta, GenerateRequest, Sampling, Started
from engine.transformers import LoadedModel
from scheduler import Ask, Plan, Planner
from scheduler.conversations import SYSTEM, Conversations, Placed
from tests.scheduler.test_planner import Room as PlannerRoom
from tests.scheduler.test_planner import T, room_of

Messages = tuple[ChatMessage, ...]
# Bytes at random are no text: answers are letters.
LETTERS = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True, logit_bias=dict.fromkeys(range(40, 50), 1000.0))


class Talk:
    """A conversation of one tenant, turn after turn."""

    def __init__(self, room: PlannerRoom, tenant: str = T) -> None:
        self.room = room
        self.tenant = tenant
        self.cube = room.memories.default_cube(tenant).id
        self.messages: Messages = ()

    async def plan(self, text: str, **ask: Any) -> Plan:
        messages = (*self.messages, ChatMessage("user", text))
        return await self.room.planner.plan(
            Ask(**{"tenant": self.tenant, "cube_ids": (self.cube,), **ask, "messages": messages})
        )

    async def say(self, text: str, **ask: Any) -> tuple[Plan, Started]:
        """Ask, answer and remember both."""
        plan = await self.plan(text, **ask)
        started, answer = await self._generate(plan, keep_turns=plan.in_pieces)
        _, plain = await self._generate(plan, use_segments=False)
        assert answer == plain
        self.messages = (*self.messages, ChatMessage("user", text), ChatMessage("assistant", answer))
        return plan, started

    async def _generate(self, plan: Plan, **request: Any) -> tuple[Started, str]:
        events = [
            event
            async for event in self.room.engine.generate(
                GenerateRequest("r", plan.prompt, LETTERS, salt=self.tenant, **request)
            )
        ]
        (started,) = [event for event in events if isinstance(event, Started)]
        return started, "".join(event.text for event in events if isinstance(event, Delta))


def in_room(model: LoadedModel, folder: Path, test: Callable[[PlannerRoom], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with room_of(model, folder) as room:
            await test(room)

    asyncio.run(whole())


def ids(plan: Plan) -> list[str]:
    return [planned.memory.id for planned in plan.memories]


def kinds(plan: Plan) -> list[str]:
    return [piece.kind for piece in plan.prompt.pieces]


def test_each_turn_computes_only_what_is_new(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        (pinned,) = room.add("be kind", pinned=True)
        dog, cat, cow = room.add("the dog barks", "the cat purrs", "the cow moos")
        talk = Talk(room)
        expected, seen = [[pinned, dog], [pinned, dog, cat], [pinned, dog, cat], [pinned, dog, cat, cow]], 0
        for text, memories in zip(("dog", "cat", "dog", "cow"), expected, strict=True):
            plan, started = await talk.say(text)
            assert ids(plan) == memories
            for planned in plan.memories:
                assert planned.piece is not None
                assert plan.prompt.pieces[planned.piece].label == planned.memory.label
            assert started.cached_tokens >= seen
            seen = plan.prompt.n_tokens + 6 - 1
        block = ["memory", "turns"]
        assert kinds(plan) == ["header", "memory", *block, *block, *block]
        assert [planned.why for planned in plan.memories] == [
            "pinned",
            "found earlier",
            "found earlier",
            "text #1, vector #1",
        ]

    in_room(model, tmp_path, test)


def test_a_conversation_that_begins_without_memories(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        talk = Talk(room)
        first, _ = await talk.say("hello")
        room.add("the dog barks")
        plan, started = await talk.say("dog")
        assert kinds(plan) == ["turns", "memory", "turns"]
        assert started.cached_tokens == first.prompt.n_tokens + 5
        again, started = await talk.say("dog")
        assert kinds(again) == ["turns", "memory", "turns"]
        assert started.cached_tokens == plan.prompt.n_tokens + 5

    in_room(model, tmp_path, test)


def test_the_prompt_is_the_same_as_text_and_asked_again(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        room.add("the dog barks", "the cat purrs")
        talk = Talk(room)
        await talk.say("dog", mode="text")
        text, kv, again = [await talk.plan("cat", mode=mode) for mode in ("text", "kv", "kv")]
        assert text.prompt == kv.prompt == again.prompt
        assert len(kv.memories) == 2
        off = await talk.plan("cat", mode="off")
        assert kinds(off) == ["turns"]

    in_room(model, tmp_path, test)


def test_a_deleted_or_changed_memory_leaves_its_place(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        dog, cat, cow = room.add("the dog barks", "the cat purrs", "the cow moos")
        talk = Talk(room)
        for text in ("dog", "cat", "cow"):
            await talk.say(text)
        room.memories.delete(T, cat)
        await room.engine.forget([f"{cat}@1"])
        room.memories.update(T, cow, text="the cow sleeps")
        await room.engine.forget([f"{cow}@1"])
        plan, started = await talk.say("cow")
        assert [planned.memory.label for planned in plan.memories] == [f"{dog}@1", f"{cow}@2"]
        assert kinds(plan) == ["header", "memory", "turns", "memory", "turns"]
        # What stood before the deleted memory is reused: the first turn and its answer.
        assert started.cached_tokens >= sum(len(piece.token_ids) for piece in plan.prompt.pieces[:2]) + 6
        after, started = await talk.say("dog")
        assert started.cached_tokens == plan.prompt.n_tokens + 5
        assert ids(after) == [dog, cow]

    in_room(model, tmp_path, test)


def test_a_branch_has_the_places_of_the_common_beginning(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        dog, cat, cow = room.add("the dog barks", "the cat purrs", "the cow moos")
        talk = Talk(room)
        first, _ = await talk.say("dog")
        common = talk.messages
        await talk.say("cat")
        await talk.say("dog again")
        talk.messages = common
        plan, started = await talk.say("cow")  # the second message, edited
        assert ids(plan) == [dog, cow]
        assert started.cached_tokens >= first.prompt.n_tokens + 5
        talk.messages = ()
        assert ids(await talk.plan("cat")) == [cat]  # the first one edited: another conversation

    in_room(model, tmp_path, test)


def test_tenants_share_no_conversation(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        room.add("the dog barks")
        mine, theirs = Talk(room), Talk(room, "another")
        for text in ("dog", "cat"):
            await mine.say(text)
        theirs.messages = mine.messages
        plan, started = await theirs.say("dog")
        assert plan.memories == ()
        assert started.cached_tokens == 0

    in_room(model, tmp_path, test)


def test_tool_results_leave_the_newest_message_as_it_was(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        room.add("the dog barks")
        talk = Talk(room)
        await talk.say("hello dog")
        (cat,) = room.add("the cat purrs")
        plan, _ = await talk.say("cat")
        assert ids(plan)[-1] == cat
        room.add("the cat sleeps")  # remembered meanwhile
        messages = (*talk.messages, ChatMessage("tool", "found nothing"))
        after = await room.planner.plan(Ask(tenant=T, cube_ids=(talk.cube,), messages=messages))
        assert after.prompt.token_ids[: plan.prompt.n_tokens] == plan.prompt.token_ids

    in_room(model, tmp_path, test)


def test_what_does_not_fit_leaves_out_the_newest_then_plans_afresh(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        (dog,) = room.add("the dog barks")
        talk = Talk(room)
        first, _ = await talk.say("dog")
        (cat,) = room.add("the cat in a long report: " + "z" * 700)
        assert ids(await talk.plan("cat", reserve_tokens=100)) == [dog, cat]
        fitted = await talk.plan("cat", reserve_tokens=1500)
        assert ids(fitted) == [dog]
        assert fitted.prompt.token_ids[: first.prompt.n_tokens] == first.prompt.token_ids
        afresh = await talk.plan("cat", reserve_tokens=2048)  # too long whatever is left out
        assert afresh.memories == ()
        await talk.say("cat")
        fresh = await talk.plan("dog", reserve_tokens=2048 - 400)
        assert ids(fresh) == [dog]
        assert kinds(fresh) == ["header", "memory", "turns"]

    in_room(model, tmp_path, test)


def test_ids_and_sessions_off_plan_afresh(model: LoadedModel, tmp_path: Path) -> None:
    async def test(room: PlannerRoom) -> None:
        dog, cat = room.add("the dog barks", "the cat purrs")
        talk = Talk(room)
        await talk.say("dog")
        assert kinds(await talk.plan("cat", memory_ids=(cat,))) == ["header", "memory", "turns"]
        assert ids(await talk.plan("cat")) == [dog, cat]
        room.planner = Planner(room.engine, room.stored, room.memories, sessions=False)
        talk.messages = ()
        await talk.say("dog")
        plan = await talk.plan("cat")
        assert ids(plan) == [cat]
        assert kinds(plan) == ["header", "memory", "turns"]

    in_room(model, tmp_path, test)


# -- the map ------------------------------------------------------------------------------------------------------


def turns(*texts: str) -> Messages:
    return tuple(ChatMessage("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def places(*ids: str) -> dict[int, tuple[Placed, ...]]:
    return {SYSTEM: tuple(Placed(id, f"{id}@1", "pinned") for id in ids)}


def test_the_longest_known_beginning_counts() -> None:
    known = Conversations()
    known.note("t", ("c",), turns("a"), places("one"))
    known.note("t", ("c",), turns("a", "b", "c"), places("one", "two"))
    found = known.find("t", ("c",), turns("a", "b", "c", "d", "e"))
    assert found is not None
    assert (found.last, found.places) == (2, places("one", "two"))
    branch = known.find("t", ("c",), turns("a", "other", "c", "d", "e"))
    assert branch is not None
    assert branch.last == 0
    assert known.find("t", ("c",), turns("a")) is None  # asked again: nothing stands before it
    assert known.find("t", ("other",), turns("a", "b", "c")) is None
    assert known.find("u", ("c",), turns("a", "b", "c")) is None
    assert known.find("t", ("c",), ()) is None


@pytest.mark.parametrize("limit", [1, 2])
def test_the_conversation_that_was_quiet_longest_is_forgotten(limit: int) -> None:
    known = Conversations(limit)
    for text in "abc":
        known.note("t", (), turns(text), places(text))
    assert [known.find("t", (), turns(text, "x", "y")) is not None for text in "abc"] == [
        i >= 3 - limit for i in range(3)
    ]
