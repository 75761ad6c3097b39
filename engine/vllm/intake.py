"""How requests get into vLLM: checked, planned, and handed over."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import takewhile
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from engine.base import GenerateRequest
from engine.config import CompositionConfig
from engine.errors import ContextTooLong, EngineClosed, InvalidRequest, QueueFull
from engine.vllm.planning import PlanMaker, Planned
from engine.vllm.sampling import sampling_params
from kvcache import ModelView

log = logging.getLogger(__name__)

# vLLM's priorities, the lower one first: what users ask comes before what is only built.
_USER, _BACKGROUND = 0, 1
_SAVE_TIMEOUT_S = 60.0


class Intake:
    """Plans requests from what is stored and runs them. ``running``: how many are with vLLM."""

    def __init__(
        self,
        llm: AsyncLLM,
        stored: ModelView,
        composing: CompositionConfig | None,
        max_waiting: int,
    ) -> None:
        self.llm = llm
        self.stored = stored
        self.composing = composing
        self.max_waiting = max_waiting
        self.can_compose: bool | None = None
        self.running = 0
        self.closed = False
        self._plans = PlanMaker(stored, None)

    def check(self, request: GenerateRequest) -> None:
        if self.closed or self.llm.errored:
            raise EngineClosed("the engine is shutting down")
        prompt_tokens, max_tokens = request.prompt.n_tokens, request.sampling.max_tokens
        context = self.llm.model_config.max_model_len
        if prompt_tokens < 1:
            raise ValueError("a prompt has at least one token")
        if prompt_tokens + max_tokens > context:
            raise ContextTooLong(prompt_tokens, max_tokens, context)
        if max(0, self.running - self.llm.scheduler_config.max_num_seqs) >= self.max_waiting:
            raise QueueFull(f"{self.max_waiting} requests are waiting already")

    async def get_ready(self) -> None:
        """Ask, before the first request, the workers whether this model's keys can be moved."""
        if self.can_compose is not None or self.composing is None:
            return
        self.can_compose = False
        refusals = [answer for answer in await self.llm.collective_rpc("recallkv_compose") if answer]
        if refusals:
            log.warning("memories cannot be composed: %s", refusals[0])
            return
        self.can_compose = True
        self._plans = PlanMaker(self.stored, self.composing)

    def plan(self, request: GenerateRequest, name: str = "") -> Planned:
        """Say where the prompt's keys and values come from and what of it is worth storing; under a name of its own
        where none is given."""
        return self._plans.plan(request, name or uuid.uuid4().hex)

    def with_room(self, planned: Planned) -> Planned:
        """Keep what there is room for on disk: of a chain nothing behind what there is none for."""
        tokens, bytes_per_token = planned.request.prompt.token_ids, self.stored.fingerprint.layout.bytes_per_token
        keeps = tuple(
            takewhile(
                lambda keep: self.stored.catalogue.expect(keep.key(tokens), (keep.end - keep.start) * bytes_per_token),
                planned.plan.keeps,
            )
        )
        return replace(planned, plan=replace(planned.plan, keeps=keeps))

    def generate(self, planned: Planned, params: SamplingParams) -> AsyncGenerator[Any, None]:
        """Run what a user asks for."""
        return self._outputs(planned, params, _USER)

    async def run(self, planned: Planned) -> None:
        """Run what is only built, behind whatever users ask."""
        params = sampling_params(planned.request.sampling, 1, planned.plan)
        async with aclosing(self._outputs(planned, params, _BACKGROUND)) as outputs:
            async for _ in outputs:
                pass

    async def until_stored(self, keys: Sequence[str]) -> None:
        """Wait until the workers have written these segments (or given up)."""
        deadline = time.monotonic() + _SAVE_TIMEOUT_S
        while any(self.stored.catalogue.tier_of(key) is None for key in keys) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    async def _outputs(self, planned: Planned, params: SamplingParams, priority: int) -> AsyncGenerator[Any, None]:
        prompt = TokensPrompt(prompt_token_ids=list(planned.request.prompt.token_ids), cache_salt=planned.cache_salt)
        self.running += 1
        try:
            async with aclosing(self.llm.generate(prompt, params, planned.plan.id, priority=priority)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise EngineClosed("vLLM's engine has died; its log says why") from error
        except (VLLMValidationError, ValueError) as error:
            raise InvalidRequest(str(error)) from error
        finally:
            self.running -= 1
