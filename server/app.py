"""The ASGI application: the routes of our own, the dialects, and what every request passes before them.

It stands above both rooms: dialects are built on ``server.http``, which knows nothing of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from server.dialects import memos_cloud
from server.dialects.mem0 import router as mem0
from server.dialects.memos_product import router as memos_product
from server.http import errors
from server.http.deps import Services
from server.http.describing import ERRORS
from server.http.middleware.body import BodyLimit
from server.http.middleware.decompress import Decompress, read_as_json
from server.http.middleware.draining import Draining
from server.http.middleware.gate import Gate, is_loopback
from server.http.middleware.idempotency import Idempotency
from server.http.middleware.ids import RequestIds
from server.http.middleware.paths import Paths, decode_names
from server.http.routes import (
    completions,
    cubes,
    documents,
    embeddings,
    feedback,
    jobs,
    memories,
    openai,
    ops,
    scheduler,
)

NATIVE = (openai, completions, embeddings, memories, feedback, cubes, documents, jobs, scheduler, ops)
DIALECTS = (mem0, memos_product, memos_cloud)


def keys_required(services: Services) -> bool:
    """Tell if requests need a key: on demand, or as soon as other machines can connect."""
    server = services.config.server
    return server.api_keys == "required" or (server.api_keys == "auto" and not is_loopback(server.host))


def create_app(services: Services) -> FastAPI:
    """Make the application over ``services``, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services.start()
        yield
        await services.close()

    app = FastAPI(
        title="RecallKV",
        version=version("recallkv"),
        lifespan=lifespan,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.services = services
    errors.install(app)
    for module in (*NATIVE, *DIALECTS):
        app.include_router(module.router)
    decode_names(app.routes)
    read_as_json(app)
    config = services.config.server
    required = keys_required(services)
    # Added last runs first: paths, ids, then the end of serving, then the gate, then decompression, then the size limit
    # of what came out, then what is done once.
    app.add_middleware(Idempotency, requests=services.keyed)
    app.add_middleware(
        BodyLimit,
        max_bytes=config.max_body_bytes,
        timeout_s=config.body_timeout_s,
        files={documents.LOAD_PATH: max(config.max_bundle_bytes, config.max_body_bytes)},
        folder=services.config.data_dir,
    )
    app.add_middleware(Decompress)
    app.add_middleware(
        Gate,
        required=required,
        check_host=not required and is_loopback(config.host),
        tenant_of=services.keys.tenant_of,
    )
    app.add_middleware(Draining, requests=services.requests, draining=lambda: services.draining)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["ETag", "Idempotency-Replayed", "Retry-After", "X-Request-Id"],
        )
    app.add_middleware(RequestIds, count=lambda *labels: services.metrics.http.labels(*map(str, labels)).inc())
    app.add_middleware(Paths, routes=app.routes)
    return app
