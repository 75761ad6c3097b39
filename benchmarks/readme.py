"""README's figures, written from the committed results: ``python -m benchmarks.readme`` (``--check`` only looks)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures: begin (python -m benchmarks.readme) -->", "<!-- figures: end -->"
_MODES = {
    "text": "text (full prefill)",
    "resident": "KV, resident",
    "host": "KV, host memory",
    "disk": "KV, disk (page cache dropped)",
}


def _load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return result


def _ttft_table(result: dict[str, Any]) -> list[str]:
    lines = ["| context + query | memory comes as | time to first token | of text | of the floor | same output |"]
    lines.append("|---|---|---|---|---|---|")
    for row in result["rows"]:
        cells = (
            f"{row['context_tokens']:,} + {row['query_tokens']}",
            _MODES[row["mode"]],
            f"{row['ttft_s']['p50']:.3f} s",
            f"{row['ratio_to_text']:.3f}",
            f"{row['ratio_to_floor']:.2f}",
            "yes" if row["outputs_equal"] else "**no**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def figures() -> str:
    """The README's section of figures."""
    ttft, streams, http = _load("ttft-cpu.json"), _load("streams-cpu.json"), _load("http-cpu.json")
    machine = ttft["machine"]
    many = str(streams["streams"])
    rates, following = streams["tokens_per_s"], streams["next_request"]
    lines = [
        f"Demo model (SmolLM2-135M-Instruct, {machine['dtype']}) on {machine['cores']} cores of an {machine['cpu']}, "
        f"torch {machine['torch']}, transformers {machine['transformers']}, commit {machine['commit']}; medians of "
        f"{ttft['repeat']} rounds in one run, the modes taking turns. The floor is the bare forward pass of the query "
        "over a cache that is already in place.",
        "",
        *_ttft_table(ttft),
        "",
        f"- {many} concurrent streams give {rates[many]:.0f} tokens/s, one gives {rates['1']:.0f} "
        f"({streams['ratio']:.1f} times). One more request gets its first token after {following['ttft_s']:.2f} s, "
        f"{following['first_other_ended_after_s']:.1f} s before the first of them ends.",
        f"- Over HTTP a client sees {http['overhead_s']['p50'] * 1e3:.0f} ms more than the engine, retrieval included; "
        f"the server is up {http['start_s']:.0f} s after it is started.",
        "- On a GPU: not yet run.",
    ]
    return "\n".join(lines)


def rendered(readme: str) -> str:
    """``readme`` with its figures brought up to date. Raises ``ValueError`` without the two markers."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("README.md has lost the markers around its figures")
    return f"{head}{BEGIN}\n{figures()}\n{END}{tail}"


def main() -> int:
    """Write README.md, or with ``--check`` say (by status 1) that it is out of date."""
    path = ROOT / "README.md"
    old = path.read_text()
    new = rendered(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
