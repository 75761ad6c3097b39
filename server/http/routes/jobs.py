"""Durable jobs: their state, and waiting for them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from memory import Job
from server.http.deps import Provided, Tenant
from server.http.schemas.memory_replies import JobList, JobReply

router = APIRouter(prefix="/v1")


def job_json(job: Job) -> JobReply:
    """Return a job as the API shows it."""
    return {
        "object": "job",
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "result": job.result,
        "error": job.error,
    }


@router.get("/jobs")
async def list_jobs(services: Provided, tenant: Tenant, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> JobList:
    """List the key's jobs, newest first."""
    jobs = await services.memories.jobs.all(tenant, limit)
    return {"object": "list", "data": [job_json(job) for job in jobs]}


@router.get("/jobs/{job_id}")
async def get_job(
    job_id: str, services: Provided, tenant: Tenant, wait_s: Annotated[float, Query(ge=0, le=300)] = 0.0
) -> JobReply:
    """Return a job. With `wait_s`, wait until it has ended, for at most that many seconds."""
    return job_json(await services.memories.jobs.wait(tenant, job_id, wait_s))


@router.delete("/jobs/{job_id}")
async def cancel_job(job_id: str, services: Provided, tenant: Tenant) -> JobReply:
    """Cancel a job that has not begun."""
    return job_json(await services.memories.jobs.cancel(tenant, job_id))
