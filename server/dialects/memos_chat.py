"""Chat in MemOS's two dialects: a question, with the memories of some cubes in the prompt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from engine.base import ChatMessage, Delta
from server.core.checks import answer_of, message_of
from server.core.generation import Generation, RecallOptions
from server.dialects import common
from server.dialects.common import ClientIds, PeerMessage, Selection
from server.http.bodies import Body
from server.http.deps import Services
from server.http.middleware.ids import REQUEST_ID
from server.http.schemas.fields import Name, Text
from server.http.schemas.generation import SamplingFields
from server.http.stream import streamed_reply, whole_reply

_MAX_RETRIEVED = 64
# Of the context, an answer gets at most this part: clients ask for 8192 tokens by default, and what is kept free for
# the answer is not there for memories.
_ANSWER = 4


class ChatFields(Body):
    """Fields that both dialects' bodies have."""

    user_id: Name
    query: Annotated[Text, Field(min_length=1)]
    system_prompt: Text | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    filter: dict[str, Any] | None = None
    relativity: Annotated[float, Field(ge=0)] | None = None
    add_message_on_answer: bool = True


@dataclass(frozen=True)
class Asked:
    """A chat request of either dialect. ``read`` names the cubes to find memories in, ``write`` those that the
    question and its answer are added to."""

    body: ChatFields
    whose: ClientIds
    read: tuple[str, ...]
    write: tuple[str, ...]
    top_k: int
    model: str | None = None
    history: Sequence[PeerMessage] = ()
    metadata: dict[str, Any] | None = None
    tags: Sequence[str] = ()


class MemosFormat:
    """The reply, whole or in events; it keeps the text for those who remember it."""

    def __init__(self, code: int, message: str) -> None:
        self._head = {"code": code, "message": message}
        self.text = ""

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Make one event; the one after the last text says so."""
        return choices[0] if choices else {"type": "end"}

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return None: there is none."""
        return None

    def delta(self, delta: Delta) -> dict[str, Any]:
        """Take more of the text, and make its event."""
        self.text += delta.text
        return {"type": "text", "data": delta.text}

    def whole(self, choices: dict[int, list[Delta]], **more: Any) -> dict[str, Any]:
        """Make the envelope."""
        self.text = "".join(delta.text for delta in choices.get(0, []))
        return {**self._head, "data": {"response": self.text, "reasoning": None}}


async def chat(asked: Asked, request: Request, services: Services, tenant: str, format: MemosFormat) -> Response:
    """Send a whole reply; then add the question and the answer, in a job."""
    opened = await _opened(asked, request, services, tenant)
    reply = await whole_reply(request, opened, format, with_memory=False)
    await _remember(asked, services, tenant, format.text)
    return reply


async def streamed(
    asked: Asked, request: Request, services: Services, tenant: str, format: MemosFormat
) -> StreamingResponse:
    """Do the same as server-sent events."""
    opened = await _opened(asked, request, services, tenant)
    ping_s = services.config.server.sse_ping_s
    reply = await streamed_reply(request, opened, format, with_memory=False, include_usage=True, ping_s=ping_s)
    assert isinstance(reply, StreamingResponse)
    lines: Any = reply.body_iterator

    async def until_end() -> AsyncGenerator[str, None]:
        async with aclosing(lines):
            async for line in lines:
                if line != "data: [DONE]\n\n":  # OpenAI's end, which these clients would read as JSON
                    yield line
        await _remember(asked, services, tenant, format.text)

    reply.body_iterator = until_end()
    return reply


async def _opened(
    asked: Asked, request: Request, services: Services, tenant: str
) -> AbstractAsyncContextManager[Generation]:
    body = asked.body
    options = await _options(asked, services, tenant)
    fields = SamplingFields(
        model=asked.model or services.chat.served_name, temperature=body.temperature, top_p=body.top_p
    )
    longest = max(1, services.engine.capacity().context // _ANSWER)
    max_tokens = None if body.max_tokens is None else min(body.max_tokens, longest)
    answer = fields.answer(request.scope[REQUEST_ID], max_tokens)
    return services.chat.chat(tenant, _turns(asked), options, answer)


def _turns(asked: Asked) -> tuple[ChatMessage, ...]:
    said = common.messages_of(list(asked.history)) if asked.history else []
    turns = [ChatMessage(message.role, message.text) for message in said]
    system = asked.body.system_prompt
    first = [ChatMessage("system", system)] if system and system.strip() else []
    return (*first, *turns, ChatMessage("user", asked.body.query))


async def _options(asked: Asked, services: Services, tenant: str) -> RecallOptions:
    """Choose the memories: those of the cubes that exist; found here where a filter or a bound must be kept to."""
    cubes = await services.memories.cubes.own(tenant, asked.read)
    if not cubes:
        return RecallOptions(mode="off")
    ids = tuple(cube.id for cube in cubes.values())
    top_k = min(_MAX_RETRIEVED, asked.top_k)
    body = asked.body
    narrow = common.selection_of(ClientIds(agent=asked.whose.agent, app=asked.whose.app), body.filter)
    if not narrow.filter and narrow.cubes is None and not body.relativity:
        return RecallOptions(cubes=ids, top_k=top_k)
    place = Selection(asked.read, common.both(narrow.filter, *({"owner": user} for user in narrow.cubes or ())))
    hits = await common.found(
        services.memories, tenant, body.query[:10_000], place, top_k, floor=body.relativity or 0.0
    )
    return RecallOptions(cubes=ids, top_k=0, ids=tuple(hit.memory.id for hit in hits))


async def _remember(asked: Asked, services: Services, tenant: str, answer: str) -> None:
    if not asked.body.add_message_on_answer:
        return
    said = asked.whose.said(asked.metadata, asked.tags)
    for name in asked.write:
        messages = [message_of(asked.body.query)]
        if answer.strip():
            messages.append(answer_of(answer))
        cube = await services.memories.cubes.named(tenant, name)
        id = common.task_job_id(asked.body.user_id)
        await services.memories.messages.queue(tenant, cube.id, messages, said, job_id=id)
