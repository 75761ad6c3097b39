"""Whether the engine computes on this device what it should. Each check stands alone and says what it found."""

from __future__ import annotations

from benchmarks.gpu.checks.base import CHECKS, Check, Finding, Site
from benchmarks.gpu.job import Job

# Importing a module enters its checks.
from benchmarks.gpu.checks import attention, device, networks, paged, segments  # isort: skip

__all__ = ["CHECKS", "Check", "Finding", "Site", "attention", "device", "networks", "paged", "run_all", "segments"]


def run_all(job: Job) -> None:
    """Every check, whatever the others find."""
    site = Site(job.plan, job.device, job.folder)
    for name, check in CHECKS.items():
        found = job.record.cell(name, lambda check=check: check(site).told())  # type: ignore[misc]
        if found is not None and found["passed"] is False:
            job.record.fail(name, found["note"])
        told = [one for one, cell in job.record.data["cells"].items() if cell["found"].get("passed")]
        job.record.put("gist", [f"{len(told)} of {len(CHECKS)} checks passed"])
