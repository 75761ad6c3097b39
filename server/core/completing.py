"""Completions: one prompt or many, with memories before them, echoed with their log-likelihoods."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from engine.base import ChatMessage, Delta, Engine, Event, Started, TokenLogprob
from engine.errors import ContextTooLong, QueueFull
from scheduler import Plan
from server.core.chat import ChatService
from server.core.errors import InvalidValue, PromptTooLong, Unsupported
from server.core.generation import AnswerOptions, Generation, Recalled, RecallOptions

# Log-probabilities of prompt tokens, rivals and choices included, that one reply may hold: about 40 MB of JSON.
MAX_SCORES = 1 << 20
# How long to wait before a full queue is tried again, where nothing of one's own is under way.
_AGAIN_S = 0.02
# At most this many bytes of a text may have no token that stands for them (what a tokenizer changed before it cut the
# text up).
_SKIP = 16


@dataclass(frozen=True)
class CompletionOptions:
    """A request for completions. ``prompts`` are texts or token ids, each with its place in the body; ``in_list`` says
    that the body has them, or the one, in a list. ``recall`` None: without memories."""

    prompts: tuple[tuple[str, str | list[int]], ...]
    answer: AnswerOptions
    in_list: bool = False
    echo: bool = False
    recall: RecallOptions | None = None

    @property
    def scored(self) -> bool:
        """Tell if log-likelihoods of the prompts are wanted."""
        return self.echo and self.answer.sampling.logprobs is not None


@dataclass(frozen=True)
class Asked:
    """One prompt of a request. ``name`` is its place in the body; ``begin`` are special tokens that stand before all
    else, memories too; ``raw`` is its text, as bytes, because tokens may cut characters apart."""

    name: str
    begin: tuple[int, ...]
    token_ids: tuple[int, ...]
    raw: bytes

    @property
    def n_tokens(self) -> int:
        return len(self.begin) + len(self.token_ids)


@dataclass
class Answered:
    """A prompt with the generation that answers it; ``again`` makes another one."""

    asked: Asked
    generation: Generation
    again: Callable[[], Generation]


class Completions:
    """Turns requests with prompts into generations."""

    def __init__(self, chat: ChatService, engine: Engine) -> None:
        self._chat = chat
        self._engine = engine

    @asynccontextmanager
    async def complete(self, tenant: str, options: CompletionOptions) -> AsyncGenerator[Batch, None]:
        """Answer all prompts of a request; leaving the block before the end aborts them. What is wrong with any of the
        prompts is raised before the first one runs."""
        arrived = time.perf_counter()
        self._chat.check(options.answer)
        _check(options)
        asked = []
        for name, prompt in options.prompts:
            asked.append(self._asked(name, prompt))
            await asyncio.sleep(0)  # others go on between long texts
        _check_scores(options, asked)
        answered = [await self._answered(tenant, one, options, arrived) for one in asked]
        at_once = max(1, self._engine.capacity().max_running // options.answer.n)
        batch = Batch(answered, options, at_once, self._engine)
        async with aclosing(batch.events):
            yield batch

    def _asked(self, name: str, prompt: str | list[int]) -> Asked:
        if isinstance(prompt, str):
            ids, raw = tuple(self._engine.tokenize(prompt)), prompt.encode()
        else:
            if not all(token < self._engine.vocabulary_size for token in prompt):
                raise InvalidValue(f"{name}: a token id is outside the vocabulary.", name)
            ids = tuple(prompt)
            raw = b"".join(self._engine.token_bytes(i) or self._engine.token_text(i).encode() for i in ids)
        if not ids:
            raise InvalidValue(f"{name}: it is empty.", name)
        begin = tuple(self._engine.tokenize(""))
        n = len(begin) if ids[: len(begin)] == begin and len(ids) > len(begin) else 0
        return Asked(name, ids[:n], ids[n:], raw)

    async def _answered(self, tenant: str, asked: Asked, options: CompletionOptions, arrived: float) -> Answered:
        with _named(asked.name, alone=not options.in_list):
            plan, recalled = await self._plan(tenant, asked, options)

            def begin() -> Generation:
                scored = len(asked.token_ids) if plan.memories else asked.n_tokens
                return self._chat.generation(
                    tenant,
                    plan,
                    options.answer,
                    arrived=arrived,
                    recalled=recalled,
                    score_last=scored if options.scored else 0,
                )

            return Answered(asked, begin(), begin)

    async def _plan(self, tenant: str, asked: Asked, options: CompletionOptions) -> tuple[Plan, Recalled | None]:
        """Plan the prompt, with memories where the request wants some."""
        if options.recall is None:
            alone = self._engine.render_completion(asked.token_ids, begin=asked.begin)
            return Plan(alone, (), "off", 0.0), None
        messages = (ChatMessage("user", asked.raw.decode(errors="replace")),)
        ask = await self._chat.ask(tenant, messages, options.recall, options.answer.max_tokens)
        plan = await self._chat.plan(replace(ask, token_ids=asked.token_ids, begin=asked.begin))
        return plan, Recalled(plan, ask.cube_ids)


class Batch:
    """The answers to several prompts as one stream of events: choice i of prompt p has the index p * n + i.

    At most ``at_once`` generations are under way. Those for which the queue has no room wait for another one to end;
    only the first one's being refused refuses the request.
    """

    def __init__(self, answered: Sequence[Answered], options: CompletionOptions, at_once: int, engine: Engine) -> None:
        self._answered = answered
        self._options = options
        self._at_once = at_once
        self._engine = engine
        self._echoed: set[int] = set()
        self.events = self._merged()

    # -- what a reply needs ----------------------------------------------------------------------------------

    def prompt_of(self, index: int) -> int:
        """Give the prompt that choice ``index`` answers."""
        return index // self._options.answer.n

    def receipt(self, prompt: int | None = None) -> Any:
        """Return the ``memory`` object of one prompt; of all, in a list, where there are several."""
        receipts = [one.generation.receipt() for one in self._answered]
        if prompt is not None:
            return receipts[prompt]
        return receipts[0] if len(receipts) == 1 else receipts

    def usage(self) -> dict[str, Any]:
        """Return OpenAI's usage object, summed over the prompts."""
        each = [one.generation.usage() for one in self._answered]
        cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in each)
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        return {count: sum(usage[count] for usage in each) for count in counts} | {
            "prompt_tokens_details": {"cached_tokens": cached}
        }

    def server_timing(self) -> str:
        """Return the times of the prompt that started first."""
        started = (one.generation for one in self._answered if one.generation.started is not None)
        first = min(started, key=lambda generation: generation.ttft_s, default=self._answered[0].generation)
        return first.server_timing()

    # -- events ----------------------------------------------------------------------------------------------

    async def _merged(self) -> AsyncGenerator[Event, None]:
        waiting = deque(range(len(self._answered)))
        pending: dict[asyncio.Future[Event], int] = {}
        limit = self._at_once
        try:
            while waiting or pending:
                while waiting and len(pending) < limit:
                    prompt = waiting.popleft()
                    pending[self._next_of(prompt)] = prompt
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                refused = []
                for future in sorted(done, key=pending.__getitem__):
                    prompt = pending.pop(future)
                    try:
                        event = future.result()
                    except StopAsyncIteration:
                        limit = self._at_once
                        continue
                    except QueueFull:
                        if prompt == 0:
                            raise
                        refused.append(prompt)
                        continue
                    pending[self._next_of(prompt)] = prompt
                    for mine in self._as_mine(prompt, event):
                        yield mine
                if refused:
                    limit = len(pending)
                    await self._put_back(refused, waiting)
                if not pending and waiting:
                    limit = self._at_once
                    await asyncio.sleep(_AGAIN_S)
        finally:
            for future in pending:
                future.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for one in self._answered:
                await one.generation.events.aclose()

    def _next_of(self, prompt: int) -> asyncio.Future[Event]:
        return asyncio.ensure_future(anext(self._answered[prompt].generation.events))

    async def _put_back(self, refused: Sequence[int], waiting: deque[int]) -> None:
        for prompt in refused:
            one = self._answered[prompt]
            await one.generation.events.aclose()
            one.generation = one.again()
        waiting.extendleft(reversed(refused))

    def _as_mine(self, prompt: int, event: Event) -> Iterator[Event]:
        """Give an event its index here; before a choice's first one stands its prompt, where that is echoed."""
        if isinstance(event, Started):
            yield event
            return
        index = prompt * self._options.answer.n + event.index
        logprobs = event.logprobs
        if self._options.echo:
            if index not in self._echoed:
                self._echoed.add(index)
                yield self._echo(prompt, index)
            # Whoever scores prompts counts on an entry for each token that was chosen.
            logprobs += (event.ended_by,) if event.ended_by is not None else ()
        yield replace(event, index=index, logprobs=logprobs)

    def _echo(self, prompt: int, index: int) -> Delta:
        one = self._answered[prompt]
        started = one.generation.started
        assert started is not None, "a choice's first event comes after that"
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._options.scored:
            apart = one.asked.begin if one.asked.n_tokens > len(started.scores) else ()
            before = (TokenLogprob(i, self._engine.token_text(i), None) for i in apart)
            logprobs = tuple(as_written([*before, *started.scores], one.asked.raw))
        return Delta(index, one.asked.raw.decode(errors="replace"), logprobs=logprobs)


def as_written(tokens: Sequence[TokenLogprob], raw: bytes) -> Iterator[TokenLogprob]:
    """Give a prompt's tokens the bytes that they have in its text: of a special token its name, or nothing where the
    tokenizer added it; without the space that some tokenizers begin a text with; with what lies between a token and the
    one before, where the tokenizer has changed the text."""
    at = 0
    for token in tokens:
        forms = (token.bytes, token.bytes.removeprefix(b" ")) if token.bytes else (token.text.encode(),)
        found = ((raw.find(form, at, at + len(form) + _SKIP), len(form)) for form in forms if form)
        begin, n = next(((begin, n) for begin, n in found if begin >= 0), (at, 0))
        end = begin + n
        yield replace(token, bytes=raw[at:end])
        at = end


def _check(options: CompletionOptions) -> None:
    if options.answer.max_tokens == 0 and not options.echo:
        raise InvalidValue("max_tokens: 0 needs echo.", "max_tokens")
    if options.recall is not None and options.recall.remember:
        message = "memory.remember: a completion's prompt is no message of a user; send it to /v1/memories/messages."
        raise Unsupported(message, "memory.remember")


def _check_scores(options: CompletionOptions, asked: Sequence[Asked]) -> None:
    answer = options.answer
    if not options.scored:
        return
    of_each = ((answer.sampling.logprobs or 0) + 1) * answer.n
    for one, total in zip(asked, accumulate(one.n_tokens for one in asked), strict=True):
        if total * of_each > MAX_SCORES:
            message = (
                f"{one.name}: the prompts up to this one have {total} tokens; log-probabilities of at most "
                f"{MAX_SCORES // of_each} are given in one reply with these logprobs and n. Send fewer prompts."
            )
            raise InvalidValue(message, one.name)


@contextmanager
def _named(name: str, *, alone: bool) -> Iterator[None]:
    """Say in errors which prompt of several they are about."""
    try:
        yield
    except ContextTooLong as error:
        if alone:
            raise
        raise PromptTooLong(f"{name}: {error}", name) from error
