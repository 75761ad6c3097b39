"""All stages of a run as one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.stages import STAGES
from benchmarks.lab.report import markdown as lab_markdown
from benchmarks.lab.report import memos_lines
from benchmarks.lab.results import read

_HEAD = ("| stage | result | seconds | what |", "|---|---|---|---|")


def markdown(out: Path) -> str:
    """The table, what failed, and the lab's tables below."""
    results = [data["lab"] for _, data in _found(out) if "lab" in data]
    return "\n\n".join([brief(out), *map(lab_markdown, results)])


def brief(out: Path) -> str:
    """The table, what failed, and MemOS's cells beside ours."""
    found = _found(out)
    lines = [
        *_HEAD,
        *(f"| {name} | {data['status']} | {data['seconds']:.1f} | {_gist(data)} |" for name, data in found),
    ]
    failures = [f"- {name}, {cell}: {reason}" for name, data in found for cell, reason in data["failed"].items()]
    parts = ["\n".join(lines)]
    if failures:
        parts.append("Not as it should be:\n\n" + "\n".join(failures))
    for name, data in found:
        for model in data.get("lab", {}).get("models", ()):
            if beside := memos_lines(data["lab"], model):
                parts.append(f"{name}, {model}:\n\n" + "\n".join(beside))
    return "\n\n".join(parts)


def _found(out: Path) -> list[tuple[str, dict[str, Any]]]:
    """The stages that have a result, in their order."""
    stages = [(stage.file(number), read(out / f"{stage.file(number)}.json")) for number, stage in enumerate(STAGES)]
    return [(name, data) for name, data in stages if data is not None]


def _gist(data: dict[str, Any]) -> str:
    told = list(_lab(data["lab"])) if "lab" in data else data.get("gist", [])
    return "; ".join(told) or "-"


def _lab(result: dict[str, Any]) -> Iterator[str]:
    """A stage of the lab in a few words: its longest context behind its shortest query."""
    rows = result["rows"]
    if not rows:
        return
    longest = max(row["context_tokens"] for row in rows)
    shortest = min(row["query_tokens"] for row in rows)
    for row in rows:
        if (row["context_tokens"], row["query_tokens"]) == (longest, shortest):
            name = row["mode"] + (f" {row['fidelity']}" if row["fidelity"] else "")
            bare = "" if row["ratio_to_bare"] is None else f", {row['ratio_to_bare']:.2f} of the bare pass"
            yield f"{name} {row['ttft_s']['p50'] * 1e3:.1f} ms{bare}"
