"""Health, metrics, version."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kvcache import TIERS, Certificate, Entry, ModelShare
from scheduler import UpkeepStats
from server.http.deps import Provided, Tenant
from server.http.describing import Responses, documented
from server.http.schemas.ops_replies import (
    CacheReply,
    CertificateReply,
    HealthReply,
    ModelShareReply,
    SegmentReply,
    UpkeepReply,
    VersionReply,
)

router = APIRouter()

DRAINING: Responses = {503: {"model": HealthReply, "description": "The server drains"}}


@router.get("/health", response_model=HealthReply, responses=DRAINING)
@router.get("/health/ready", response_model=HealthReply, responses=DRAINING)
async def ready(services: Provided) -> JSONResponse:
    """Report readiness: 200 while requests are taken, 503 while the server drains."""
    state = "draining" if services.draining else "ok"
    return JSONResponse({"status": state}, 503 if services.draining else 200)


@router.get("/health/live")
async def live() -> HealthReply:
    """Report liveness: 200 as long as the process answers at all."""
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses=documented("text/plain"))
async def metrics(services: Provided) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(generate_latest(services.metrics), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/cache")
async def cache(services: Provided, tenant: Tenant, limit: Annotated[int, Query(ge=0, le=10_000)] = 100) -> CacheReply:
    """Return what the tiers hold, and the segments of the tenant's own memories, last used first. `limit` is the number
    of segments."""

    labels = await services.memories.labels_of(tenant)

    def own() -> list[Entry]:
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
        "models": [_share_json(share, services.engine.fingerprint.digest) for share in stats.models],
        "upkeep": upkeep_json(upkeep),
        "total": len(entries),
        "data": [_segment_json(entry, services.catalogue.tier_of(entry.key)) for entry in entries[:limit]],
    }


def upkeep_json(stats: UpkeepStats) -> UpkeepReply:
    """Return the work in idle time as the API shows it."""
    return {
        "pages_built": stats.pages_built,
        "pages_refused": stats.pages_refused,
        "healed": stats.healed,
        "failures": stats.failures,
        "waiting": stats.waiting,
    }


def _share_json(share: ModelShare, served: str) -> ModelShareReply:
    return {
        "fingerprint": share.fingerprint,
        "segments": share.segments,
        "bytes": share.bytes,
        "last_used_at": share.last_used_at,
        "served": share.fingerprint == served,
    }


def _certificate_json(certificate: Certificate) -> CertificateReply:
    return {"kl": certificate.kl, "top1": certificate.top1}


def _segment_json(entry: Entry, tier: str | None) -> SegmentReply:
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
        "certificate": None if entry.certificate is None else _certificate_json(entry.certificate),
        "pinned": entry.protected,
        "uses": entry.uses,
        "created_at": entry.created_at,
        "last_used_at": entry.last_used_at,
    }


@router.get("/version")
async def versions(services: Provided) -> VersionReply:
    """Return this server's version, and the fingerprint that its segments belong to."""
    return {
        "version": version("recallkv"),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "fingerprint": services.engine.fingerprint.digest,
    }
