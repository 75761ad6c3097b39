"""``recallkv bench locomo`` and ``recallkv bench search``: the plaintext side."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.suites import retrieval
from benchmarks.suites import search as search_scale
from benchmarks.support.machine import manifest
from memory import MemoryStore
from server.assets import demo_model_folder
from server.embedders import open_embedder

console = Console()


def locomo(data: Path, embedder: str, tokenizer: str, top_k: int) -> dict[str, Any]:
    """Measure retrieval on a LoCoMo file and print it."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(demo_model_folder() if tokenizer == "demo" else tokenizer)
    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        store = MemoryStore(Path(folder) / "memories.sqlite", open_embedder(embedder))
        try:
            result = retrieval.measure(store, data, lambda text: len(tokens.encode(text)), top_k)
        finally:
            store.close()
    _print_retrieval(result)
    return {"machine": manifest(torch.device("cpu"), "-"), "embedder": embedder, **result}


def _print_retrieval(result: dict[str, Any]) -> None:
    table = Table(title=f"LoCoMo, {result['questions']} questions with evidence, top_k {result['top_k']}")
    names = [name for name in result["overall"] if not name.startswith("all@") or name == "all@10"]
    for column in ("", *names):
        table.add_column(column, justify="right" if column else "left")
    for level, found in (("turns", result), ("memories", result["memories"])):
        rows = {f"{level}: overall": found["overall"], **{f"  {n}": r for n, r in found["by_category"].items()}}
        for name, row in rows.items():
            table.add_row(name, *(str(row[column]) for column in names))
    console.print(table)
    console.print(
        f"context at top 10: {result['context_share']:.1%} of the history; search p50 {result['search_ms']['p50']} ms,"
        f" p99 {result['search_ms']['p99']} ms, embedding the question {result['embed_query_ms']['p50']} ms;"
        f" {result['messages_added_per_s']} messages added a second"
    )


def search(sizes: list[int], embedder: str, add: int) -> dict[str, Any]:
    """Measure search at growing sizes and print it."""
    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        result = search_scale.measure(Path(folder), sizes, open_embedder(embedder), add, console.print)
    table = Table(title="Search on one core, the query's embedding excluded")
    for column in ("memories", "p50 ms", "p99 ms", "embed ms", "recall@10", "build s", "memory MB", "file MB"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        table.add_row(
            f"{row['n']:,}",
            str(row["search_ms"]["p50"]),
            str(row["search_ms"]["p99"]),
            str(row["embed_query_ms"]),
            str(row["vector_recall@10"]),
            str(row["build_s"]),
            str(row["memory_mb"]),
            str(row["file_mb"]),
        )
    console.print(table)
    console.print(f"restart: {result['restart']}; adding: {result['adding']}")
    return {"machine": manifest(torch.device("cpu"), "-"), "embedder": embedder, **result}
