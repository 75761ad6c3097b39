"""``recallkv bench gpu``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def gpu(
    out: Annotated[Path, typer.Option(help="Where results, logs and the table are written.")],
    deadline: Annotated[float, typer.Option(min=10, help="Seconds for all of it.")] = 540.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "auto",
    models: Annotated[str, typer.Option(help="full, or tiny: a rehearsal.")] = "full",
    only: Annotated[str, typer.Option(help="Only these stages, comma-separated.")] = "",
) -> None:
    """The staged run on a GPU: ceilings, correctness, MemOS's cells for three models, tiers, decoding; one table."""
    # An interpreter of its own: its settings must be there before torch is imported, and nothing may have touched CUDA.
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), "--deadline", str(deadline)]
    done = subprocess.run([*command, "--device", device, "--models", models, "--only", only])
    raise typer.Exit(done.returncode)
