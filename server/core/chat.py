"""Chat: retrieve, plan, generate; the same for streamed and whole replies."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from engine.base import FIDELITIES, ChatMessage, Engine, Fidelity, GenerateRequest, Prompt, Sampling
from engine.errors import ContextTooLong
from memory import Cube
from scheduler import Ask, Mode, Plan, Planner, last_words
from server.core.errors import InvalidMessages, InvalidValue, ModelUnknown, Unsupported
from server.core.generation import AnswerOptions, Followers, Generation, Recalled, RecallOptions
from server.core.memories import MemoryService


@dataclass(frozen=True)
class ChatDefaults:
    """The values for requests that do not give their own. With ``sessions`` the turns of a conversation are kept as
    segments, for its next request."""

    served_name: str
    max_tokens: int
    mode: Mode
    top_k: int
    fidelity: Fidelity
    sessions: bool


class ChatService:
    """Turns requests into generations."""

    def __init__(
        self, engine: Engine, memories: MemoryService, planner: Planner, followers: Followers, defaults: ChatDefaults
    ) -> None:
        self._engine = engine
        self._memories = memories
        self._planner = planner
        self._followers = followers
        self.defaults = defaults

    @property
    def served_name(self) -> str:
        """Return the name of the model that is served."""
        return self.defaults.served_name

    def check(self, answer: AnswerOptions) -> None:
        """Refuse another model than the one that is served, and structure or tools that this engine does not do, by the
        name that the request has for it. Raises ``ModelUnknown``, ``Unsupported``."""
        if answer.model != self.served_name:
            told = f"The model '{answer.model}' does not exist; this server has '{self.served_name}'."
            raise ModelUnknown(told, "model")
        for feature, param in (
            ("tools", None if answer.tools is None else "tools"),
            ("structured", answer.structured_field),
        ):
            if param is not None and feature not in self._engine.features:
                raise Unsupported(f"{param}: not supported by this engine; vLLM does.", param)

    @asynccontextmanager
    async def chat(
        self, tenant: str, messages: tuple[ChatMessage, ...], recall: RecallOptions | None, answer: AnswerOptions
    ) -> AsyncGenerator[Generation, None]:
        """Generate the answer to a conversation; leaving the block before its end aborts it. Raises ``ModelUnknown``,
        ``Unsupported``, ``InvalidMessages``, ``InvalidValue``, ``ContextTooLong``, ``memory.NotFound``."""
        arrived = time.perf_counter()
        self.check(answer)
        options = recall or RecallOptions()
        ask = await self.ask(tenant, messages, options, answer.max_tokens or None)
        if options.remember and not ask.cube_ids:
            raise InvalidValue("memory.cube: there is none to remember in.", "memory.cube")
        try:
            plan = await self._planner.plan(replace(ask, tools=answer.tools))
        except ValueError as error:
            raise InvalidMessages(str(error), "messages") from error
        said = last_words(messages)
        if options.remember:
            # Now that the prompt is made: what is said here is no memory of this question.
            await self._memories.messages.remember(tenant, ask.cube_ids[0], said, options.session)
        generation = self.generation(
            tenant,
            plan,
            answer,
            arrived=arrived,
            recalled=Recalled(plan, ask.cube_ids, said),
            keep_turns=self.defaults.sessions and plan.mode == "kv" and plan.in_pieces,
        )
        async with aclosing(generation.events):
            yield generation

    async def expected(self, tenant: str, messages: tuple[ChatMessage, ...], recall: RecallOptions) -> Prompt | None:
        """Return the prompt up to the turns, as a chat request with these messages (the last one unfinished) would have
        it; None where it holds no memories. Raises ``InvalidMessages``."""
        ask = await self.ask(tenant, messages, recall, None)
        try:
            plan = await self._planner.plan(replace(ask, provisional=True))
        except ValueError as error:
            raise InvalidMessages(str(error), "messages") from error
        if plan.mode != "kv" or not plan.memories or not plan.in_pieces:
            return None
        return Prompt(plan.prompt.pieces[:-1])

    async def plan(self, ask: Ask) -> Plan:
        """Choose which memories go into the prompt; see ``Planner.plan``."""
        return await self._planner.plan(ask)

    async def ask(
        self, tenant: str, messages: tuple[ChatMessage, ...], recall: RecallOptions, reserve_tokens: int | None
    ) -> Ask:
        """Say what a request with these options wants of memory; ``reserve_tokens`` None is the default answer's
        length. Raises ``memory.NotFound`` for cubes that are nobody's or another tenant's."""
        cubes = await self._memories.cubes.several(tenant, recall.cubes)
        return Ask(
            tenant=tenant,
            cube_ids=tuple(dict.fromkeys(cube.id for cube in cubes)),
            fidelity=recall.fidelity or self._fidelity(cubes),
            messages=messages,
            mode=recall.mode or self.defaults.mode,
            top_k=self.defaults.top_k if recall.top_k is None else recall.top_k,
            memory_ids=recall.ids,
            reserve_tokens=self.defaults.max_tokens if reserve_tokens is None else reserve_tokens,
        )

    def _fidelity(self, cubes: Sequence[Cube]) -> Fidelity:
        """Choose the strictest that any of the cubes asks for; the server's if none does."""
        asked = {cube.fidelity for cube in cubes}
        return next((fidelity for fidelity in FIDELITIES if fidelity in asked), self.defaults.fidelity)

    def generation(
        self,
        tenant: str,
        plan: Plan,
        answer: AnswerOptions,
        *,
        arrived: float,
        recalled: Recalled | None,
        keep_turns: bool = False,
        score_last: int = 0,
    ) -> Generation:
        """Make the generation of a planned prompt, which begins when its events are asked for. Raises
        ``ContextTooLong``, and ``InvalidValue`` for token ids outside the vocabulary."""
        request = GenerateRequest(
            request_id=answer.request_id,
            prompt=plan.prompt,
            sampling=self._sampling(plan.prompt, answer),
            n=answer.n,
            salt=tenant,
            use_segments=plan.mode == "kv",
            fidelity=plan.fidelity,
            tools=answer.tools,
            keep_turns=keep_turns,
            score_last=score_last,
        )
        return Generation(self._engine, request, self._followers, arrived=arrived, recalled=recalled)

    def _sampling(self, prompt: Prompt, answer: AnswerOptions) -> Sampling:
        context, wanted = self._engine.capacity().context, answer.max_tokens
        room = context - prompt.n_tokens
        if room < max(1, wanted or 0):
            param = answer.prompt_field if room < 1 else answer.length_field
            raise ContextTooLong(prompt.n_tokens, wanted, context, param)
        max_tokens = min(self.defaults.max_tokens, room) if wanted is None else wanted
        self._check_token_ids(answer.sampling)
        return replace(answer.sampling, max_tokens=max_tokens)

    def _check_token_ids(self, sampling: Sampling) -> None:
        highest = self._engine.prompts.vocabulary_size - 1
        for param, ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
            if any(not 0 <= token_id <= highest for token_id in ids):
                raise InvalidValue(f"{param}: token ids go from 0 to {highest}.", param)
