"""``recallkv bench updates``: labelled cases of memories that change, from a file or from the bank of scenarios."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from rich.console import Console

from benchmarks.data.updates.bank import Split, load_background, load_bank
from benchmarks.data.updates.cases import Case, CaseError, load_cases, write_cases
from benchmarks.data.updates.generate import LANGUAGES, Choice, generate
from benchmarks.suites import updates as suite
from benchmarks.support.machine import manifest
from memory import MemoryStore
from server.embedders import open_embedder

console = Console()
_COLUMNS: tuple[suite.What, ...] = get_args(suite.What)


def updates(
    data: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Cases; without, generated.")] = None,
    generate_to: Annotated[
        Path | None, typer.Option("--generate", help="Write generated cases here; run none.")
    ] = None,
    split: Annotated[str, typer.Option(help="Generated: train, held-out or all scenarios.")] = "held-out",
    lang: Annotated[str | None, typer.Option(help="Generated: languages, comma-separated; all unless given.")] = None,
    seed: Annotated[int, typer.Option(help="Generated: decides the facts between, their order and times.")] = 0,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Generated: cases; one a scenario unless given.")] = None,
    embedder: Annotated[str, typer.Option(help="bundled, hash, or a folder or Hugging Face id.")] = "bundled",
    failures: Annotated[int, typer.Option(min=0, help="Print at most so many faults.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Memories that stay true: what changed is retired, what did not is kept, what nobody asserted is not stored."""
    try:
        cases = load_cases(data) if data is not None else _generated(split, lang, seed, n)
    except CaseError as error:
        raise typer.BadParameter(str(error)) from error
    if generate_to is not None:
        write_cases(cases, generate_to)
        console.print(f"{len(cases)} cases written: {generate_to}")
        return
    source = data.name if data is not None else f"generated, {split}, seed {seed}"
    result = {"data": source, **_measured(cases, embedder)}
    _print(result, failures)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _generated(split: str, lang: str | None, seed: int, n: int | None) -> list[Case]:
    chosen = [name for name in get_args(Split) if name == split]
    if not chosen and split != "all":
        raise typer.BadParameter(f"splits are {', '.join(get_args(Split))}, all")
    langs = None if lang is None else tuple(lang.split(","))
    if unknown := [name for name in langs or () if name not in LANGUAGES]:
        raise typer.BadParameter(f"'{unknown[0]}' is no language; there are {', '.join(LANGUAGES)}")
    return generate(load_bank(), load_background(), Choice(seed, n, langs, chosen[0] if chosen else None))


def _measured(cases: list[Case], embedder: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        store = MemoryStore(Path(folder) / "memories.sqlite", open_embedder(embedder))
        try:
            kept = suite.InProcess(store)
            result = suite.measure(kept, cases)
        finally:
            store.close()
    speed = {"messages": kept.messages, "messages_added_per_s": round(kept.messages / kept.add_s, 1)}
    return {"machine": manifest(torch.device("cpu"), "-"), "embedder": embedder, **result, **speed}


def _print(result: dict[str, Any], failures: int) -> None:
    console.print(f"{result['cases']} cases, {result['data']}: right of all")
    _row("", [*(what.replace("_", " ") for what in _COLUMNS), "whole"])
    for name in sorted(result["totals"], key=lambda name: (name == "all", name.startswith("lang:"), name)):
        counts = [*(result["totals"][name].get(what) for what in _COLUMNS), result["whole"][name]]
        _row(name, [_of(count) for count in counts])
        if name in ("all", "lang:en", "lang:others"):
            _row("", [_share(count) for count in counts])
    console.print(f"{result['messages_added_per_s']} messages added a second, one by one")
    for failure in result["failures"][:failures]:
        console.print_json(data=failure, indent=None, ensure_ascii=False)


def _row(name: str, cells: list[str]) -> None:
    console.print(f"{name:24}" + "".join(f"{cell:>11}" for cell in cells), highlight=False)


def _of(count: list[int] | None) -> str:
    return "-" if count is None else f"{count[0]}/{count[1]}"


def _share(count: list[int] | None) -> str:
    return "-" if count is None else f"{count[0] / count[1]:.3f}"
