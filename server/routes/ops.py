"""Health, metrics, version."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.routes.openai import Provided

router = APIRouter()


@router.get("/health")
@router.get("/health/ready")
async def ready(services: Provided) -> JSONResponse:
    """200 while requests are taken, 503 while the server drains."""
    state = "draining" if services.draining else "ok"
    return JSONResponse({"status": state}, 503 if services.draining else 200)


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 as long as the process answers at all."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(services: Provided) -> Response:
    """Prometheus text format."""
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/version")
async def versions(services: Provided) -> dict[str, Any]:
    """This server's version, and the fingerprint that its segments belong to."""
    return {
        "version": version("recallkv"),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "fingerprint": services.engine.fingerprint.digest,
    }
