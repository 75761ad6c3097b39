"""OpenAI's routes for vectors and for the list of models: the one that chats, and the one that makes vectors."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response

from memory import WholeEmbedder
from server.http.deps import Provided, Services
from server.http.errors import ApiError
from server.http.schemas.generation import EmbeddingRequest
from server.http.schemas.generation_replies import EmbeddingList, ModelList, ModelReply

router = APIRouter()
# Many texts take their time: at most two requests at once, in threads that nothing else waits for.
_threads = ThreadPoolExecutor(2, thread_name_prefix="embeddings")


@router.post("/v1/embeddings", response_model=EmbeddingList)
async def embeddings(body: EmbeddingRequest, services: Provided) -> Response:
    """Compute vectors with the embedder that search uses. A text longer than the embedder's window is read in several
    windows, and gets the mean of their vectors."""
    embedder = services.embedder
    if body.model not in (None, embedder.title, services.chat.served_name):
        raise _unknown(body.model or "", services)
    content = await asyncio.get_running_loop().run_in_executor(_threads, _reply, embedder, body)
    return Response(content, media_type="application/json")


def _reply(embedder: WholeEmbedder, body: EmbeddingRequest) -> bytes:
    """Write the reply in a thread and not in the event loop: it may be many megabytes."""
    found = embedder.embed_whole(body.input, body.dimensions, body.input_type or "passage")
    as_text = body.encoding_format == "base64"
    rows = [base64.b64encode(row.tobytes()).decode() if as_text else row.tolist() for row in found.vectors]
    reply: EmbeddingList = {
        "object": "list",
        "model": embedder.title,
        "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }
    return json.dumps(reply, separators=(",", ":")).encode()


def _unknown(name: str, services: Services) -> ApiError:
    own = f"'{services.chat.served_name}' and, for vectors, '{services.embedder.title}'"
    return ApiError(404, f"The model '{name}' does not exist; this server has {own}.", "model_not_found", param="model")


def _models(services: Services) -> list[ModelReply]:
    """List the model that chats first: many clients take the first."""
    created, context = int(services.started_at), services.engine.capacity().context
    return [
        _model_json(services.chat.served_name, "chat", created, context),
        _model_json(services.embedder.title, "embedding", created, services.embedder.window),
    ]


def _model_json(name: str, type: Literal["chat", "embedding"], created: int, tokens: int | None) -> ModelReply:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "recallkv",
        "type": type,
        "max_model_len": tokens,
    }


@router.get("/v1/models")
async def models(services: Provided) -> ModelList:
    """List the models that are served."""
    return {"object": "list", "data": _models(services)}


@router.get("/v1/models/{name:path}")
async def model(name: str, services: Provided) -> ModelReply:
    """Return a model by its name."""
    found = next((each for each in _models(services) if each["id"] == name), None)
    if found is None:
        raise _unknown(name, services)
    return found
