"""What a check is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.plan import Plan


@dataclass(frozen=True)
class Site:
    """The place of a check; ``folder`` takes its files."""

    plan: Plan
    device: torch.device
    folder: Path


@dataclass(frozen=True)
class Finding:
    """``passed`` is None where there is nothing to check on this device; ``note`` says why, or what is wrong."""

    passed: bool | None
    figures: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def told(self) -> dict[str, Any]:
        return asdict(self)


Check = Callable[[Site], Finding]
CHECKS: dict[str, Check] = {}
"""All of them by name, in the order in which they are done."""


def check(work: Check) -> Check:
    """Enter a check under its own name."""
    CHECKS[work.__name__] = work
    return work


def within(figures: dict[str, float], bounds: dict[str, float]) -> Finding:
    """A finding that passes where every figure is at most its bound (and is a number)."""
    over = [f"{name} is {figures[name]:.3g}, at most {bound:.3g}" for name, bound in bounds.items()]
    bad = [told for told, (name, bound) in zip(over, bounds.items(), strict=True) if not figures[name] <= bound]
    return Finding(not bad, {**figures, "bounds": bounds}, "; ".join(bad))


def poison(device: torch.device, nbytes: int = 256 << 20) -> None:
    """Fill memory that the allocator gives out next with what is not a number, so that what is never written shows."""
    if device.type == "cuda":
        held = [torch.full((nbytes // 8 // 4,), float("nan"), device=device) for _ in range(8)]
        del held
