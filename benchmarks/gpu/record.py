"""What a stage has found so far, on disk at every moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.lab.measure import said
from benchmarks.lab.results import write

log = logging.getLogger(__name__)
T = TypeVar("T")


class Record:
    """A stage's JSON, written again after each cell. ``failed`` names the cells that were not right."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path = path
        self._begin = time.perf_counter()
        self.data: dict[str, Any] = {"stage": stage, "status": "running", "cells": {}, "failed": {}, "seconds": 0.0}
        self.save()

    def save(self) -> None:
        self.data["seconds"] = round(time.perf_counter() - self._begin, 2)
        write(self._path, self.data)

    def put(self, name: str, value: Any) -> None:
        """Keep a figure beside the cells."""
        self.data[name] = value
        self.save()

    def cell(self, name: str, work: Callable[[], T]) -> T | None:
        """Keep what ``work`` gives under ``name``, if anything; None where it fails: that is kept too, and ends nothing
        else."""
        begin = time.perf_counter()
        try:
            found = work()
        except Exception as error:
            # A cell's edge: the others are measured all the same.
            log.exception("%s failed", name)
            self.fail(name, said(error))
            return None
        if found is not None:
            self.keep(name, found, time.perf_counter() - begin)
        return found

    def keep(self, name: str, found: Any, seconds: float) -> None:
        """Enter a cell that was measured elsewhere."""
        self.data["cells"][name] = {"seconds": round(seconds, 3), "found": found}
        self.save()

    def fail(self, name: str, reason: str) -> None:
        """Say of a cell that it is not as it should be."""
        self.data["failed"][name] = reason
        self.save()

    def end(self) -> bool:
        """Write the last state; whether nothing failed."""
        self.data["status"] = "failed" if self.data["failed"] else "passed"
        self.save()
        return not self.data["failed"]
