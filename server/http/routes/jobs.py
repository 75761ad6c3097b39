"""Durable jobs: their state, and waiting for them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from scheduler import result_of
from server.http.deps import Provided, Tenant

router = APIRouter(prefix="/v1")


@router.get("/jobs")
async def list_jobs(
    services: Provided, tenant: Tenant, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> dict[str, Any]:
    """The key's jobs, the newest first."""
    jobs = await services.memories.jobs.all(tenant, limit)
    return {"object": "list", "data": [result_of(job) for job in jobs]}


@router.get("/jobs/{job_id}")
async def get_job(
    job_id: str, services: Provided, tenant: Tenant, wait_s: Annotated[float, Query(ge=0, le=300)] = 0.0
) -> dict[str, Any]:
    """A job; with ``wait_s``, once it has ended or that time is up."""
    return result_of(await services.memories.jobs.wait(tenant, job_id, wait_s))


@router.delete("/jobs/{job_id}")
async def cancel_job(job_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Cancel a job that has not begun."""
    return result_of(await services.memories.jobs.cancel(tenant, job_id))
