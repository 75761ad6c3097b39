"""``python -m benchmarks.lab``: the lab from a checkout, with nothing of the server installed.

python -m benchmarks.lab --suite memos-table --models qwen3-8b,qwen3-32b,qwen2.5-72b --weights random --json OUT
python -m benchmarks.lab --report OUT --html PAGE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.lab.report import markdown, page
from benchmarks.lab.results import writer
from benchmarks.lab.run import Settings, run
from benchmarks.lab.suites import SUITES
from benchmarks.lab.weights import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default="memos-table")
    parser.add_argument("--models", default="qwen3-8b", help="architectures (random weights), or folders and ids")
    parser.add_argument("--weights", choices=["random", "real"], default="random")
    parser.add_argument("--kind", choices=KINDS, help="how random weights are held; as they fit without it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--deadline", type=float, help="begin nothing that would not end within this many seconds")
    parser.add_argument("--contexts", help="only these lengths of context")
    parser.add_argument("--folder", type=Path, help="where segments are written; a temporary folder without it")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--report", type=Path, nargs="+", help="measure nothing; report these results")
    parser.add_argument("--html", type=Path, help="write the page here")
    asked = parser.parse_args()
    if asked.report:
        results = [json.loads(path.read_text()) for path in asked.report]
    else:
        settings = Settings(
            suite=asked.suite,
            models=tuple(asked.models.split(",")),
            weights=asked.weights,
            device=asked.device,
            dtype=asked.dtype,
            rounds=asked.rounds,
            contexts=tuple(map(int, asked.contexts.split(","))) if asked.contexts else None,
            folder=asked.folder,
            kind=asked.kind,
            deadline_s=asked.deadline,
        )
        save = writer(asked.json) if asked.json else lambda result: None
        results = [run(settings, lambda text: print(text, file=sys.stderr, flush=True), save=save)]
    for result in results:
        print(markdown(result))
    if asked.html:
        asked.html.write_text(page(results))
    if any(result.get("failed") for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
