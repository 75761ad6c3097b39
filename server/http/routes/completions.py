"""OpenAI's completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.http.deps import Provided, Tenant
from server.http.describing import documented
from server.http.middleware.ids import REQUEST_ID
from server.http.replies import CompletionFormat
from server.http.schemas.generation import CompletionRequest
from server.http.schemas.generation_replies import CompletionReply
from server.http.stream import reply

router = APIRouter()


@router.post("/v1/completions", response_model=CompletionReply, responses=documented("text/event-stream"))
async def completions(body: CompletionRequest, request: Request, services: Provided, tenant: Tenant) -> Response:
    """Continue a text or tokens, or each of several; with `memory`, behind memories."""
    id = request.scope[REQUEST_ID]
    opened = services.completions.complete(tenant, body.options(id))
    format = CompletionFormat(f"cmpl-{id}", services.chat.served_name, logprobs=body.logprobs is not None)
    ping_s = services.config.server.sse_ping_s
    return await reply(request, opened, format, body, ping_s, with_memory=body.memory is not None)
