"""OpenAI's routes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from engine.base import ChatMessage, ToolCall
from server.errors import ApiError
from server.middleware import REQUEST_ID, TENANT
from server.replies import ChatFormat
from server.schemas import (
    ChatRequest,
    DetokenizeRequest,
    Message,
    TokenizeRequest,
)
from server.services import Services
from server.stream import reply

router = APIRouter()


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def tenant_of(request: Request) -> str:
    tenant: str = request.scope[TENANT]
    return tenant


Provided = Annotated[Services, Depends(services_of)]
Tenant = Annotated[str, Depends(tenant_of)]


def chat_messages(messages: list[Message]) -> tuple[ChatMessage, ...]:
    return tuple(
        ChatMessage(
            "system" if message.role == "developer" else message.role,
            message.text,
            tuple(
                ToolCall(i, call.id, call.function.name, call.function.arguments)
                for i, call in enumerate(message.tool_calls)
            ),
            message.tool_call_id,
        )
        for message in messages
    )


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request, services: Provided, tenant: Tenant) -> Response:
    """Chat, with the memories of the request's cubes in the prompt."""
    id = request.scope[REQUEST_ID]
    opened = services.chat.chat(
        tenant,
        chat_messages(body.messages),
        body.memory,
        body,
        body.max_completion_tokens or body.max_tokens,
        body.wanted_logprobs,
        id,
        body.wanted_tools,
    )
    format = ChatFormat(f"chatcmpl-{id}", services.chat.served_name, logprobs=bool(body.logprobs))
    return await reply(request, opened, format, body, services.config.server.sse_ping_s, with_memory=True)


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, services: Provided) -> dict[str, Any]:
    """Token ids of a text, or of messages as the model's template renders them."""
    if body.messages is not None:
        try:
            tokens = list(services.engine.prompts.render(chat_messages(body.messages)).token_ids)
        except ValueError as error:
            raise ApiError(400, str(error), "invalid_messages", param="messages") from error
    else:
        tokens = services.engine.prompts.tokenize(body.prompt or "", add_special_tokens=body.add_special_tokens)
    return {"count": len(tokens), "max_model_len": services.engine.capacity().context, "tokens": tokens}


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, services: Provided) -> dict[str, str]:
    """Text of token ids."""
    if not all(token < services.engine.prompts.vocabulary_size for token in body.tokens):
        raise ApiError(400, "tokens: a token id is outside the vocabulary.", "invalid_value", param="tokens")
    return {"prompt": services.engine.prompts.detokenize(body.tokens)}
