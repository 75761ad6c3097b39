"""Runs the stages one after the other, each in a process of its own, within one deadline.

The processes are forked from this one, which has imported everything and computed nothing: imports take as long as a
stage. Where forking is no longer possible (CUDA was touched), a stage starts as a fresh interpreter.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.checks import CHECKS, Site
from benchmarks.gpu.job import Job
from benchmarks.gpu.plan import Plan, full, rehearsal
from benchmarks.gpu.record import Record
from benchmarks.gpu.stages import STAGES, Stage
from benchmarks.lab.results import read, write
from engine.transformers.loading import choose_device

_POLL_S = 0.05
# Between asking a stage to end and ending it.
_GRACE_S = 2.0
_REST_S = 3.0
_LOG_LINES = 12
# A stage of the rehearsal needs no more to be worth beginning.
_LEAST_REHEARSED_S = 3.0


def plan_of(models: str, device: str) -> Plan:
    """``tiny`` is the rehearsal, anything else the full run."""
    return rehearsal(device) if models == "tiny" else full(device)


def run_all(models: str, device: str, out: Path, deadline_s: float, only: Sequence[str] = ()) -> bool:
    """Run the stages and say whether all of them passed. The results are in ``out``; with ``only`` those of other
    stages stay there."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    stages = [(number, stage) for number, stage in enumerate(STAGES) if not only or stage.name in only]
    for stale in out.glob("[0-9][0-9]-*") if not only else ():
        stale.unlink()
    passed = True
    for number, stage in stages:
        left = deadline_s - _REST_S - (time.monotonic() - begin)
        name = stage.file(number)
        if left < (_LEAST_REHEARSED_S if models == "tiny" else stage.least_s):
            _note(out / f"{name}.json", stage, "no time was left", "skipped", 0.0)
            print(f"{name}: not begun, {left:.0f} s are left", flush=True)
            passed = False
            continue
        passed &= _run_stage(models, device, out, stage, number, min(stage.budget_s, left))
    return passed


def _run_stage(models: str, device: str, out: Path, stage: Stage, number: int, budget_s: float) -> bool:
    name = stage.file(number)
    print(f"{name}: at most {budget_s:.0f} s", flush=True)
    begin = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(models, device, out, stage, number, budget_s)
    code, timed_out = _wait(child, begin + budget_s)
    took = time.monotonic() - begin
    if timed_out or code != 0:
        reason = "its time was over" if timed_out else _cause(code)
        _note(out / f"{name}.json", stage, reason, "ended" if timed_out else "failed", took)
        print(_last_lines(out / f"{name}.log"), flush=True)
    print(f"{name}: {'passed' if code == 0 and not timed_out else 'NOT passed'} after {took:.1f} s", flush=True)
    return code == 0 and not timed_out


def _be_child(models: str, device: str, out: Path, stage: Stage, number: int, budget_s: float) -> None:
    """The child's whole life; never returns."""
    code = 70
    try:
        os.setsid()
        log = os.open(out / f"{stage.file(number)}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if getattr(torch.cuda, "_is_in_bad_fork", bool)():
            arguments = ["--models", models, "--device", device, "--out", str(out)]
            child = ["-m", "benchmarks.gpu", *arguments, "--stage", stage.name, "--budget", str(budget_s)]
            os.execv(sys.executable, [sys.executable, *child])  # noqa: S606
        code = 0 if run_stage(models, device, out, stage.name, budget_s) else 1
    except BaseException:  # noqa: BLE001 - the process ends here whatever comes, and the log says what came
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_stage(models: str, device: str, out: Path, name: str, budget_s: float) -> bool:
    """One stage in this process; whether it passed."""
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7d %(name)s: %(message)s", force=True)
    number, stage = next((i, stage) for i, stage in enumerate(STAGES) if stage.name == name)
    deadline = time.monotonic() + budget_s
    record = Record(out / f"{stage.file(number)}.json", stage.name)
    with tempfile.TemporaryDirectory(prefix="recallkv-gpu-") as folder:
        record.cell("stage", lambda: stage.work(Job(plan_of(models, device), record, Path(folder), deadline)))
    return record.end()


def run_check(models: str, device: str, name: str) -> dict[str, Any]:
    """One check of correctness in this process."""
    with tempfile.TemporaryDirectory(prefix="recallkv-gpu-") as folder:
        return CHECKS[name](Site(plan_of(models, device), choose_device(device), Path(folder))).told()


def _wait(child: int, deadline: float) -> tuple[int, bool]:
    """The child's exit code (negative: its signal), and whether it had to be ended."""
    asked: float | None = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), asked is not None
        now = time.monotonic()
        if asked is None and now > deadline:
            _signal(child, signal.SIGTERM)
            asked = now
        elif asked is not None and now > asked + _GRACE_S:
            _signal(child, signal.SIGKILL)
        time.sleep(_POLL_S)


def _signal(child: int, number: int) -> None:
    """To the child and what it has started: it leads a group."""
    try:
        os.killpg(child, number)
    except ProcessLookupError:  # it has just ended, or leads no group yet
        os.kill(child, number)


def _cause(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else "see its failed cells"


def _note(path: Path, stage: Stage, reason: str, status: str, seconds: float) -> None:
    """Say in a stage's result why it is not whole; what it had written stays."""
    data = read(path) or {"stage": stage.name, "cells": {}, "failed": {}, "seconds": round(seconds, 2)}
    data["status"] = status
    if not data["failed"] or status == "ended":
        data["failed"]["stage"] = reason
    write(path, data)


def _last_lines(path: Path) -> str:
    try:
        return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    except FileNotFoundError:
        return "    (it wrote no log)"
