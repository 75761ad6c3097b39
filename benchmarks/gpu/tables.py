"""The stages that the lab measures: MemOS's cells by model, and the tiers."""

from __future__ import annotations

import logging
from typing import Any

from benchmarks.gpu.job import Job
from benchmarks.lab.run import Settings, run
from benchmarks.lab.suites import Suite
from benchmarks.lab.weights import Kind

log = logging.getLogger(__name__)
# Left at a stage's end for closing the engine.
_SPARE_S = 4.0


def small(job: Job) -> None:
    """MemOS's nine cells of the model of 8 billion parameters."""
    _measure(job, job.plan.table, job.plan.small)


def middle(job: Job) -> None:
    """The same of 32 billion."""
    _measure(job, job.plan.table, job.plan.middle)


def large(job: Job) -> None:
    """The same of 72 billion, layers shared where they do not fit."""
    _measure(job, job.plan.table, job.plan.large, job.plan.large_kind)


def tiers(job: Job) -> None:
    """Resident, host, disk and composed for the small model."""
    _measure(job, job.plan.tiers, job.plan.small)


def _measure(job: Job, suite: Suite, model: str, kind: Kind | None = None) -> None:
    settings = Settings(
        suite=suite,
        models=(model,),
        weights="random",
        kind=kind,
        device=job.plan.device,
        dtype=job.plan.dtype,
        folder=job.folder,
        deadline_s=job.left_s - _SPARE_S,
    )
    result = run(settings, log.info, save=lambda found: job.record.put("lab", found))
    job.record.put("lab", result)
    for one in (*result["failed"], *result["skipped"]):
        job.record.fail(f"{one['model']} {one['what']}", one["reason"])
    for row in result["rows"]:
        _judge(job, row)
    _count(job, suite, result)


def _judge(job: Job, row: dict[str, Any]) -> None:
    """A stored chain's output must be equal to direct prefill's, where anything else would be seen."""
    outputs = row["outputs"]
    if outputs is None or outputs["bitwise"] is None:
        return
    cell = f"{row['context_tokens']}+{row['query_tokens']} {row['mode']}"
    if outputs["is_blind"]:
        job.record.fail(cell, "these weights do not depend on the context: equality says nothing")
    elif not row["outputs_equal"]:
        job.record.fail(cell, "the output is not that of direct prefill cut at the same place")


def _count(job: Job, suite: Suite, result: dict[str, Any]) -> None:
    each = sum(len(suite.fidelities) if mode.startswith("composed") else 1 for mode in suite.modes)
    expected = len(suite.cells) * each
    if len(result["rows"]) != expected:
        job.record.fail("rows", f"{len(result['rows'])} of {expected} were measured")
