"""``recallkv bench answers``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.report.answers import LABELS, plot_answers
from benchmarks.suites.answers import measure as answers_bench
from benchmarks.suites.answers import report as answers_report
from benchmarks.suites.answers.sets import draw, draw_adversarial
from benchmarks.suites.retrieval import load
from benchmarks.support.composing import ALWAYS
from benchmarks.support.engines import on_engine
from benchmarks.support.machine import measured_on
from engine.transformers import TransformersEngine
from memory import MemoryStore
from server.embedders import open_embedder

console = Console()


def answers(
    data: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="LoCoMo's JSON file.")],
    model: Annotated[str, typer.Option(help="demo, or any Hugging Face id or folder.")] = "demo",
    questions: Annotated[int, typer.Option(min=1, help="Questions with an answer.")] = 100,
    adversarial: Annotated[int, typer.Option(min=0, help="Questions that nothing answers, counted apart.")] = 20,
    top_k: Annotated[
        int, typer.Option(min=1, help="Memories that each question asks for.")
    ] = answers_bench.Settings.top_k,
    tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of the greedy answers; 0 leaves them out.")
    ] = answers_bench.Settings.greedy_tokens,
    dtype: Annotated[str, typer.Option(help="float32: nothing but composition tells KV from text; auto.")] = "float32",
    embedder: Annotated[str, typer.Option(help="bundled, hash, or a folder or Hugging Face id.")] = "bundled",
    seed: Annotated[
        int, typer.Option(help="Of the draws: questions, rivals, other memories, intervals.")
    ] = answers_bench.Settings.seed,
    check: Annotated[bool, typer.Option("--check", help="Fail where a claim does not hold.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here, and a picture.")] = None,
) -> None:
    """Measure how much likelier memories make the right answer, as text and as KV, and if KV gives the same answers."""
    settings = answers_bench.Settings(top_k, tokens, seed)

    async def measure(engine: TransformersEngine, folder: Path) -> dict[str, Any]:
        conversations = load(data)
        items = draw(conversations, questions, seed)
        unanswered = draw_adversarial(conversations, adversarial, seed)
        store = MemoryStore(folder / "memories.sqlite", open_embedder(embedder))
        try:
            asked = [*items, *unanswered]
            outcomes = await answers_bench.measure(engine, store, conversations, asked, settings, _tell)
        finally:
            store.close()
        return {
            **measured_on(engine),
            "data": data.name,
            "top_k": top_k,
            "seed": seed,
            "embedder": embedder,
            **answers_report.whole(outcomes, seed),
        }

    result = on_engine(model, measure, ALWAYS, dtype=dtype)
    _print(result)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(answers_report.written(result))
        plot_answers(result, json_file.with_suffix(".png"))
        console.print(f"[dim]written: {json_file}[/dim]")
    if check and not all(result["holds"].values()):
        raise typer.Exit(1)


def _tell(text: str) -> None:
    """Print how far it is, with the time: a run of many questions is left alone, and its log is read."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}")


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"Gold answers: {result['model']}, {result['questions']} questions of {result['data']}")
    for column in ("memories come as", "nats a token", "gain over none", "minus text", "kept", "choice", "computed"):
        table.add_column(column, justify="left" if column == "memories come as" else "right")
    for row in result["rows"]:
        choice = row["choice"]
        table.add_row(
            LABELS[row["condition"]],
            f"{row['log_likelihood']['value']:.3f}",
            answers_report.shown(row["gain"]),
            answers_report.shown(row["minus_text"]),
            answers_report.shown(row["kept"]),
            "-" if choice is None else f"{choice['value']:.2f}",
            f"{row['computed_tokens']:.0f} of {row['prompt_tokens']:.0f}",
        )
    console.print(table)
    console.print(f"evidence recall {result['evidence_recall']:.3f}; choice by chance {1 / result['options']:.2f}")
    for sentence in result["sentences"]:
        console.print(sentence)
    console.print(f"holds: {result['holds']}")
