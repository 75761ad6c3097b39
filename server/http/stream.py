"""Replies over HTTP: whole, or as server-sent events that end with the client."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from engine.base import Delta, Event, Started
from server.core.generation import Answering
from server.http.errors import ApiError, describe
from server.http.middleware.draining import waiting_for_tokens
from server.http.replies import Format
from server.http.schemas.generation import SamplingFields

log = logging.getLogger(__name__)
T = TypeVar("T")

CLIENT_CLOSED = 499


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """Await ``work``, but give up as soon as the client goes away (then: an ``ApiError`` nobody will read)."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(request.receive))
    try:
        with waiting_for_tokens(request.scope):
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(CLIENT_CLOSED, "The client went away.", "client_closed")
    finally:
        for each in (task, watcher):
            each.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def reply(
    request: Request,
    opened: AbstractAsyncContextManager[Answering],
    format: Format,
    fields: SamplingFields,
    ping_s: float,
    *,
    with_memory: bool,
) -> Response:
    """Answer whole or as a stream, with usage or without, as the request's ``fields`` say."""
    if not fields.stream:
        return await whole_reply(request, opened, format, with_memory=with_memory)
    include_usage = bool(fields.stream_options and fields.stream_options.include_usage)
    return await streamed_reply(
        request, opened, format, with_memory=with_memory, include_usage=include_usage, ping_s=ping_s
    )


async def whole_reply(
    request: Request, opened: AbstractAsyncContextManager[Answering], format: Format, *, with_memory: bool
) -> Response:
    """Run a generation to its end and answer with one JSON object."""

    async def collect() -> JSONResponse:
        async with opened as generation:
            choices: dict[int, list[Delta]] = {}
            async for event in generation.events:
                if isinstance(event, Delta):
                    choices.setdefault(event.index, []).append(event)
            more = {"memory": generation.receipt()} if with_memory else {}
            body = format.whole(choices, usage=generation.usage(), **more)
            return JSONResponse(body, headers=_headers(generation))

    return await until_gone(request, collect())


async def streamed_reply(
    request: Request,
    opened: AbstractAsyncContextManager[Answering],
    format: Format,
    *,
    with_memory: bool,
    include_usage: bool,
    ping_s: float,
) -> Response:
    """Answer with server-sent events.

    The response begins when the first token is known, so that errors before it have a proper status and the
    ``Server-Timing`` header is complete; after ``ping_s`` seconds it begins anyway, with pings, so that proxies
    do not give up on a long prefill.
    """
    stack = AsyncExitStack()
    try:
        generation = await stack.enter_async_context(opened)
        events = aiter(generation.events)
        pending = asyncio.ensure_future(anext(events))
        stack.push_async_callback(_cancel, pending)
        await until_gone(request, asyncio.wait({pending}, timeout=ping_s))
        if pending.done():
            pending.result()  # an error before the first token is an HTTP error
    except BaseException:
        await stack.aclose()
        raise
    stream = _Stream(generation, events, pending, format, ping_s, with_memory=with_memory, include_usage=include_usage)
    return StreamingResponse(
        _closing(stack, stream.lines()),
        media_type="text/event-stream",
        headers={**_headers(generation), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _closing(stack: AsyncExitStack, lines: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    """Yield ``lines``, and close everything behind them when the client leaves."""
    async with stack:
        stack.push_async_callback(lines.aclose)
        async for line in lines:
            yield line


class _Stream:
    """The lines of one event stream."""

    def __init__(
        self,
        generation: Answering,
        events: AsyncIterator[Event],
        first: asyncio.Future[Event],
        format: Format,
        ping_s: float,
        *,
        with_memory: bool,
        include_usage: bool,
    ) -> None:
        self._generation = generation
        self._events = events
        self._pending = first
        self._format = format
        self._ping_s = ping_s
        self._with_memory = with_memory
        self._include_usage = include_usage
        self._opened: set[int] = set()
        self._told: set[int] = set()
        """Prompts whose receipt is out."""

    async def lines(self) -> AsyncGenerator[str, None]:
        """Yield pings while nothing comes, a chunk for each event, usage where asked for, ``[DONE]``."""
        try:
            while True:
                await asyncio.wait({self._pending}, timeout=self._ping_s)
                if not self._pending.done():
                    yield ": ping\n"
                    continue
                event = self._pending.result()
                self._pending = asyncio.ensure_future(anext(self._events))
                for chunk in self._chunks(event):
                    yield _line(chunk)
        except StopAsyncIteration:
            for chunk in self._closing_chunks():
                yield _line(chunk)
        except Exception as error:
            # The edge: the status is out already, so the error travels as an event.
            log.error("a stream failed", exc_info=error)
            yield _line(describe(error)[1])
        finally:
            await _cancel(self._pending)
        yield "data: [DONE]\n\n"

    def _chunks(self, event: Event) -> list[dict[str, Any]]:
        if isinstance(event, Started):
            return []
        more: dict[str, Any] = {}
        prompt = self._generation.prompt_of(event.index)
        if self._with_memory and prompt not in self._told:
            more["memory"] = self._generation.receipt(prompt)
            self._told.add(prompt)
        chunks = []
        if event.index not in self._opened:
            opening = self._format.opening(event.index)
            self._opened.add(event.index)
            if opening is not None:
                chunks.append(self._format.chunk([opening], **more))
                more = {}
        chunks.append(self._format.chunk([self._format.delta(event)], **more))
        return chunks

    def _closing_chunks(self) -> list[dict[str, Any]]:
        if not self._include_usage:
            return []
        more = {"memory": self._generation.receipt()} if self._with_memory else {}
        return [self._format.chunk([], usage=self._generation.usage(), **more)]


def _headers(generation: Answering) -> dict[str, str]:
    return {"Server-Timing": generation.server_timing()}


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
