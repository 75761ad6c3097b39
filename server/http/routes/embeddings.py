"""OpenAI's route for vectors, and the list of models: the one that chats, and the one that makes vectors."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from memory import WholeEmbedder
from server.http.deps import Provided, Services
from server.http.errors import ApiError
from server.http.schemas.generation import EmbeddingRequest

router = APIRouter()
# Many texts take their time: so many requests at once, in threads that nothing else waits for.
_threads = ThreadPoolExecutor(2, thread_name_prefix="embeddings")


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingRequest, services: Provided) -> Response:
    """Vectors of the embedder that search uses. A text that is longer than what it reads at once is read in several
    windows, and has the mean of their vectors."""
    embedder = services.embedder
    if body.model not in (None, embedder.title, services.chat.served_name):
        raise _unknown(body.model or "", services)
    content = await asyncio.get_running_loop().run_in_executor(_threads, _reply, embedder, body)
    return Response(content, media_type="application/json")


def _reply(embedder: WholeEmbedder, body: EmbeddingRequest) -> bytes:
    """Written here and not in the event loop: it may be many megabytes."""
    found = embedder.embed_whole(body.input, body.dimensions)
    as_text = body.encoding_format == "base64"
    rows = [base64.b64encode(row.tobytes()).decode() if as_text else row.tolist() for row in found.vectors]
    reply = {
        "object": "list",
        "model": embedder.title,
        "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }
    return json.dumps(reply, separators=(",", ":")).encode()


def _unknown(name: str, services: Services) -> ApiError:
    own = f"'{services.chat.served_name}' and, for vectors, '{services.embedder.title}'"
    return ApiError(404, f"The model '{name}' does not exist; this server has {own}.", "model_not_found", param="model")


def _models(services: Services) -> list[dict[str, Any]]:
    """The model that chats comes first: many clients take the first."""
    common = {"object": "model", "created": int(services.started_at), "owned_by": "recallkv"}
    chat = {"id": services.chat.served_name, **common, "type": "chat"}
    embedder = {"id": services.embedder.title, **common, "type": "embedding"}
    return [
        {**chat, "max_model_len": services.engine.capacity().context},
        {**embedder, "max_model_len": services.embedder.window},
    ]


@router.get("/v1/models")
async def models(services: Provided) -> dict[str, Any]:
    """The models that are served."""
    return {"object": "list", "data": _models(services)}


@router.get("/v1/models/{name:path}")
async def model(name: str, services: Provided) -> dict[str, Any]:
    """A model by its name."""
    found = next((each for each in _models(services) if each["id"] == name), None)
    if found is None:
        raise _unknown(name, services)
    return found
