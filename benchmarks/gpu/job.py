"""What a stage is given."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu.plan import Plan
from benchmarks.gpu.record import Record
from engine.dtype import choose_dtype
from engine.transformers.loading import choose_device


@dataclass(frozen=True)
class Job:
    """``folder``: for what is written on the way; ``deadline``: when the stage will be ended (``time.monotonic``)."""

    plan: Plan
    record: Record
    folder: Path
    deadline: float

    @property
    def device(self) -> torch.device:
        return choose_device(self.plan.device)

    @property
    def dtype(self) -> torch.dtype:
        return choose_dtype(self.plan.dtype, self.device)

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()
