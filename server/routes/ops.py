"""Health, metrics, version."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kvcache import TIERS, Entry
from server.routes.openai import Provided, Tenant

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
    return Response(generate_latest(services.metrics), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/cache")
async def cache(
    services: Provided, tenant: Tenant, limit: Annotated[int, Query(ge=0, le=10_000)] = 100
) -> dict[str, Any]:
    """What the tiers hold, and the segments of the tenant's own memories, the last used first."""

    def own() -> list[Entry]:
        labels = services.memories.labels_of(tenant)
        found = [entry for entry in services.catalogue.entries() if entry.labels and entry.labels <= labels]
        return sorted(found, key=lambda entry: -entry.last_used_at)

    stats, upkeep = services.catalogue.stats(), services.upkeep.stats()
    entries = await asyncio.to_thread(own)
    return {
        "object": "cache",
        "tiers": {
            tier: {
                "segments": stats.segments[tier],
                "bytes": stats.bytes[tier],
                "budget": stats.budgets[tier],
                "hits": stats.hits[tier],
                "evictions": stats.evictions[tier],
            }
            for tier in TIERS
        },
        "quarantined": stats.quarantined,
        "quarantine": {"segments": stats.in_quarantine, "bytes": stats.quarantine_bytes},
        "models": [
            {**asdict(share), "served": share.fingerprint == services.engine.fingerprint.digest}
            for share in stats.models
        ],
        "upkeep": asdict(upkeep),
        "total": len(entries),
        "data": [_segment_json(entry, services.catalogue.tier_of(entry.key)) for entry in entries[:limit]],
    }


def _segment_json(entry: Entry, tier: str | None) -> dict[str, Any]:
    return {
        "object": "segment",
        "key": entry.key,
        "kind": entry.kind,
        "fingerprint": entry.fingerprint,
        "tier": tier,
        "start": entry.start,
        "tokens": entry.n_tokens,
        "bytes": entry.nbytes,
        "disk_bytes": entry.disk_bytes,
        "memories": sorted({label.partition("@")[0] for label in entry.labels}),
        "certificate": None if entry.certificate is None else asdict(entry.certificate),
        "pinned": entry.protected,
        "uses": entry.uses,
        "created_at": entry.created_at,
        "last_used_at": entry.last_used_at,
    }


@router.get("/version")
async def versions(services: Provided) -> dict[str, Any]:
    """This server's version, and the fingerprint that its segments belong to."""
    return {
        "version": version("recallkv"),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "fingerprint": services.engine.fingerprint.digest,
    }
