"""The served model as the one that extracts memories from messages, and judges them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from engine.base import ChatMessage, Delta, Engine, GenerateRequest, Prompt, Sampling, Structured
from engine.errors import EngineClosed, EngineError
from memory import CompletionError

# An answer is cut off there; what is whole of it still counts.
MAX_TOKENS = 1024
_MIN_TOKENS = 64
TIMEOUT_S = 120.0


class ServedCompleter:
    """Runs the engine for a thread that waits: the engine lives in the event loop, extraction does not.

    No segments are used or stored, and no request shares a prefix with another: what is in these prompts stays there.
    """

    def __init__(self, engine: Engine, *, timeout_s: float = TIMEOUT_S) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say where the engine runs."""
        self._loop = loop

    def stop(self) -> None:
        """Fail from now on, in a way that is no fault of the model's: whatever it is asked is asked again at the next
        start, and must not be done without it."""
        self._stopped = True

    @property
    def window_chars(self) -> int:
        """Return the number of characters that fit the model's context beside the instructions and the answer."""
        return max(1000, min(12_000, self._engine.capacity().context))

    def __call__(
        self,
        messages: list[dict[str, str]],
        schema: dict[str, Any],
        *,
        max_tokens: int = MAX_TOKENS,
        timeout_s: float | None = None,
    ) -> str:
        """Answer messages with JSON of a schema, in another thread than the event loop's. ``timeout_s``: None for the
        usual one. Raises ``CompletionError``, and ``EngineClosed`` once stopped."""
        if self._loop is None:
            raise CompletionError("the server has not started")
        answer = self._answer(messages, schema, max_tokens)
        try:
            future = asyncio.run_coroutine_threadsafe(answer, self._loop)
        except RuntimeError as error:  # the loop is closed
            answer.close()
            raise CompletionError("the server has ended") from error
        try:
            return future.result(self._timeout_s if timeout_s is None else timeout_s)
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            future.cancel()
            raise CompletionError("the served model took too long, or was stopped") from error
        except EngineError as error:
            if self._stopped and isinstance(error, EngineClosed):
                raise
            raise CompletionError(f"the served model failed: {type(error).__name__}") from error

    async def _answer(self, messages: list[dict[str, str]], schema: dict[str, Any], max_tokens: int) -> str:
        prompt = self._prompt(messages)
        room = self._engine.capacity().context - prompt.n_tokens
        if room < _MIN_TOKENS:
            raise CompletionError("the messages do not fit the served model's context")
        structured = Structured(schema) if "structured" in self._engine.features else None
        id = f"extract-{secrets.token_hex(12)}"
        sampling = Sampling(max_tokens=min(max_tokens, room), temperature=0.0, structured=structured)
        request = GenerateRequest(id, prompt, sampling, salt=id, use_segments=False)
        async with aclosing(self._engine.generate(request)) as events:
            return "".join([event.text async for event in events if isinstance(event, Delta)])

    def _prompt(self, messages: Sequence[dict[str, str]]) -> Prompt:
        turns = [ChatMessage(message["role"], message["content"]) for message in messages]
        try:
            return self._engine.prompts.render(turns)
        except ValueError:  # a template without a system's turn
            whole = "\n\n".join(turn.content for turn in turns)
        try:
            return self._engine.prompts.render([ChatMessage("user", whole)])
        except ValueError as error:
            raise CompletionError("the served model's chat template refuses the messages") from error
