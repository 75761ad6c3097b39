"""``python -m benchmarks.gpu --out DIR``: the staged run, from a checkout.

python -m benchmarks.gpu --out DIR --deadline 540
python -m benchmarks.gpu --out DIR --device cpu --models tiny      a rehearsal
python -m benchmarks.gpu --out DIR --table                         the table of what is there already
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Before torch is imported. Asking NVML rather than CUDA whether there is a GPU leaves forking possible.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.gpu.checks import CHECKS
from benchmarks.gpu.runner import run_all, run_check, run_stage
from benchmarks.gpu.stages import STAGES
from benchmarks.gpu.summary import brief, markdown


def main() -> None:
    """Run, and end with 1 unless every stage passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="results, logs and the table")
    parser.add_argument("--deadline", type=float, default=540.0, help="seconds for all of it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", choices=["full", "tiny"], default="full", help="tiny: a rehearsal")
    parser.add_argument("--only", default="", help=f"of the stages {', '.join(stage.name for stage in STAGES)}")
    parser.add_argument("--table", action="store_true", help="measure nothing; print the table of what is in --out")
    parser.add_argument("--check", choices=sorted(CHECKS), help="do this one check of correctness here, and tell")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, default=60.0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    only = tuple(name for name in asked.only.split(",") if name)
    if unknown := set(only) - {stage.name for stage in STAGES}:
        parser.error(f"no such stages: {', '.join(sorted(unknown))}")
    if asked.check:
        found = run_check(asked.models, asked.device, asked.check)
        print(json.dumps(found, indent=1))
        sys.exit(1 if found["passed"] is False else 0)
    if asked.stage:
        sys.exit(0 if run_stage(asked.models, asked.device, asked.out, asked.stage, asked.budget) else 1)
    passed = True if asked.table else run_all(asked.models, asked.device, asked.out, asked.deadline, only)
    (asked.out / "table.md").write_text(markdown(asked.out) + "\n")
    print(brief(asked.out))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
