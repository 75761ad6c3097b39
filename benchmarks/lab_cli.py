"""``recallkv bench lab`` and ``recallkv bench report``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.lab import findings
from benchmarks.lab.architectures import ARCHITECTURES
from benchmarks.lab.report import build_table, markdown, mode_name, page, table
from benchmarks.lab.results import writer
from benchmarks.lab.run import Settings, UnknownModel, run
from benchmarks.lab.suites import SUITES
from benchmarks.lab.weights import KINDS
from benchmarks.peers import PEERS, PeerProcess, PeerSkipped
from server.assets import demo_model_folder

console = Console()


def open_peers(
    names: Sequence[str], model: str | Path, context: int, threads: int
) -> tuple[list[PeerProcess], dict[str, str]]:
    """Start peers one after the other, each in a process of its own."""
    opened: list[PeerProcess] = []
    refused: dict[str, str] = {}
    if not Path(model).is_dir():
        return [], dict.fromkeys(names, "peers load a model from a folder")
    for name in names:
        try:
            opened.append(PeerProcess(name, Path(model), threads, context=context))
        except PeerSkipped as reason:
            refused[name] = str(reason)
    return opened, refused


def find_model(name: str) -> str | Path:
    return demo_model_folder() if name == "demo" else name


def lab(
    suite: Annotated[str, typer.Option(help=", ".join(SUITES))] = "quick",
    models: Annotated[
        str, typer.Option(help="demo, ids or folders; with random weights " + ", ".join(ARCHITECTURES))
    ] = "demo",
    weights: Annotated[str, typer.Option(help="real, or random: the architecture without its weights.")] = "real",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="bfloat16, float32, ...")] = "auto",
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds that count; the suite's own without it.")] = None,
    contexts: Annotated[str | None, typer.Option(help="Only these lengths of context, comma-separated.")] = None,
    peers: Annotated[
        str | None, typer.Option(help=f"{', '.join(PEERS)}, all or none; the suite's own without it.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help=f"How random weights are held: {', '.join(KINDS)}; as they fit without it.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(min=1, help="Begin nothing that would not end within this many seconds.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where segments are written; a temporary folder without it.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report as a page here; beside the JSON without it.")
    ] = None,
) -> None:
    """First token, speedup and build time for every context and query, in every mode, with floors: the lab."""
    kinds = {str(one): one for one in KINDS}
    if suite not in SUITES or weights not in ("real", "random") or not (kind is None or kind in kinds):
        told = f"suites: {', '.join(SUITES)}; weights: real, random; kinds: {', '.join(KINDS)}"
        raise typer.BadParameter(told)
    settings = Settings(
        suite=suite,
        models=tuple(models.split(",")),
        weights="random" if weights == "random" else "real",
        device=device,
        dtype=dtype,
        rounds=rounds,
        contexts=tuple(map(int, contexts.split(","))) if contexts else None,
        peers=_peers(peers),
        folder=folder,
        kind=None if kind is None else kinds[kind],
        deadline_s=deadline,
    )
    save = writer(json_file) if json_file is not None else lambda result: None
    try:
        with console.status("...") as status:
            result = run(settings, status.update, find_model, open_peers, save)
    except UnknownModel as error:
        raise typer.BadParameter(str(error)) from error
    _print(result)
    picture = html or (json_file.with_suffix(".html") if json_file else None)
    if picture is not None:
        picture.write_text(page([result]))
    for path in (json_file, picture):
        if path is not None:
            console.print(f"[dim]written: {path}[/dim]")
    if result["failed"]:
        raise typer.Exit(1)


def _peers(asked: str | None) -> tuple[str, ...] | None:
    if asked is None or asked == "none":
        return None if asked is None else ()
    names = PEERS if asked == "all" else tuple(asked.split(","))
    if unknown := set(names) - set(PEERS):
        raise typer.BadParameter(f"unknown peers: {', '.join(sorted(unknown))}; there are: {', '.join(PEERS)}")
    return names


def _print(result: dict[str, Any]) -> None:
    for model in result["models"]:
        rows = [row for row in result["rows"] if row["model"] == model]
        shown = Table(title=f"{model}, suite {result['suite']}")
        for column in ("tokens", "mode", "first token", "speedup", "floor", "of floor", "same"):
            shown.add_column(column, justify="left" if column == "mode" else "right", no_wrap=True)
        for line, row in zip(table(rows), rows, strict=True):
            line[1:3] = [mode_name(row), line[2].partition(" (")[0]]
            line[-1] = line[-1].partition(";")[0].partition(",")[0]
            shown.add_row(*(cell.replace("**", "") for cell in line))
        console.print(shown)
        for context, build, prefill, ratio, store, nbytes, *_ in build_table(
            row for row in result["builds"] if row["model"] == model
        ):
            times = [part.partition(" (")[0] for part in (build, prefill)]
            stored = "" if store == "-" else f" on disk {store} later,"
            console.print(
                f"build {context} tokens: {times[0]} ({ratio} of plain prefill, {times[1]}),{stored} {nbytes}"
            )
        console.print(findings.sentence(model, findings.single(rows, model)))
    for told, ones in (("not run", result["skipped"]), ("failed", result["failed"])):
        for one in ones:
            console.print(f"[yellow]{told}: {one['model']}, {one['what']}: {one['reason']}[/yellow]")


def report(
    results: Annotated[list[Path], typer.Argument(help="JSON files of the lab.", exists=True, dir_okay=False)],
    html: Annotated[Path, typer.Option(help="The page.")] = Path("lab.html"),
    md: Annotated[
        Path | None, typer.Option("--markdown", help="Write the tables here too; else they are printed.")
    ] = None,
) -> None:
    """One self-contained HTML page and Markdown tables from results of the lab."""
    loaded = [json.loads(path.read_text()) for path in results]
    if any("rows" not in one or "builds" not in one for one in loaded):
        raise typer.BadParameter("not a result of `recallkv bench lab`")
    text = "\n".join(markdown(one) for one in loaded)
    html.write_text(page(loaded))
    if md is not None:
        md.write_text(text + "\n")
    else:
        print(text)
    console.print(f"[dim]written: {', '.join(str(path) for path in (html, md) if path)}[/dim]")
