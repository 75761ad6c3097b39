"""OpenAI's chat, and tokens of text and text of tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.http.deps import Provided, Tenant
from server.http.describing import documented
from server.http.errors import ApiError
from server.http.middleware.ids import REQUEST_ID
from server.http.replies import ChatFormat
from server.http.schemas.generation import ChatRequest, DetokenizeRequest, TokenizeRequest
from server.http.schemas.generation_replies import ChatReply, TextReply, TokensReply
from server.http.stream import reply

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatReply, responses=documented("text/event-stream"))
async def chat_completions(body: ChatRequest, request: Request, services: Provided, tenant: Tenant) -> Response:
    """Chat, with memories of the request's cubes in the prompt. `memory` says which cubes, how many memories and how
    exact; the reply's `memory` says where each one's keys and values came from."""
    id = request.scope[REQUEST_ID]
    turns = tuple(message.as_said for message in body.messages)
    recall = None if body.memory is None else body.memory.recall
    opened = services.chat.chat(tenant, turns, recall, body.chat_answer(id))
    format = ChatFormat(f"chatcmpl-{id}", services.chat.served_name, logprobs=bool(body.logprobs))
    return await reply(request, opened, format, body, services.config.server.sse_ping_s, with_memory=True)


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, services: Provided) -> TokensReply:
    """Return the token ids of a text, or of messages as the model's chat template renders them."""
    if body.messages is not None:
        try:
            tokens = list(services.engine.prompts.render([message.as_said for message in body.messages]).token_ids)
        except ValueError as error:
            raise ApiError(400, str(error), "invalid_messages", param="messages") from error
    else:
        tokens = services.engine.prompts.tokenize(body.prompt or "", add_special_tokens=body.add_special_tokens)
    return {"count": len(tokens), "max_model_len": services.engine.capacity().context, "tokens": tokens}


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, services: Provided) -> TextReply:
    """Return the text of token ids."""
    if not all(token < services.engine.prompts.vocabulary_size for token in body.tokens):
        raise ApiError(400, "tokens: a token id is outside the vocabulary.", "invalid_value", param="tokens")
    return {"prompt": services.engine.prompts.detokenize(body.tokens)}
