"""``recallkv bench preload``: Mooncake's trace by blocks, LoCoMo's scenes by pages, with a model or without."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.data.scenes import Scenes, load_scenes
from benchmarks.suites import preload, trace
from benchmarks.support.machine import manifest
from engine.base import Fidelity
from engine.prompt import PromptRenderer
from engine.transformers import LoadedModel, load_model
from memory import MemoryStore
from scheduler import ForesightConfig
from scheduler.prediction.predictors import PredictorName
from server.assets import demo_model_folder
from server.embedders import open_embedder

console = Console()

# An 8B model with 8 key-value heads of 128 in 32 layers, bfloat16: bytes of a token.
BYTES_PER_TOKEN = 131_072
POLICIES: tuple[preload.PolicyName, ...] = ("none", "lru", "lfu", "predictor", "adversary", "oracle", "resident")


@dataclass(frozen=True)
class Options:
    """``shares``: host budgets, as shares of all pages' bytes; ``model``: None for the index alone."""

    shares: tuple[float, ...] = (0.25,)
    blocks: tuple[int, ...] = trace.BUDGETS
    model: str | None = None
    conversations: int | None = None
    turns_each: int | None = None
    memory_tokens: int = 128
    top_k: int = 5
    fidelity: str = "high"
    predictor: str = "blend"
    folder: Path | None = None
    at_once: bool = False
    policies: tuple[preload.PolicyName, ...] = POLICIES


def policies_of(names: str) -> tuple[preload.PolicyName, ...]:
    """Policies by their names, separated by commas. Raises ``typer.BadParameter``."""
    found = [policy for name in names.split(",") for policy in POLICIES if policy == name]
    if len(found) != len(names.split(",")):
        raise typer.BadParameter(f"policies are {', '.join(POLICIES)}")
    return tuple(found)


def run(path: Path, options: Options) -> dict[str, Any]:
    """Replay ``path``, a Mooncake trace (.jsonl) or a LoCoMo file, and print the table. Raises ``ValueError`` for
    another file."""
    if path.suffix == ".jsonl":
        result = trace.replay(path, options.blocks, trace.BLOCK_TOKENS * BYTES_PER_TOKEN)
        result |= {"kind": "mooncake", "bytes_per_token": BYTES_PER_TOKEN}
    else:
        result = _locomo(path, options)
    _print(result)
    return {"machine": manifest(torch.device("cpu"), "float32" if options.model else "-"), **result}


def _locomo(path: Path, options: Options) -> dict[str, Any]:
    from transformers import AutoTokenizer

    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recallkv-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        source = demo_model_folder() if options.model in (None, "demo") else options.model
        model = None if options.model is None else load_model(source)
        tokenizer = AutoTokenizer.from_pretrained(source) if model is None else model.tokenizer
        memories = MemoryStore(folder / "memories.sqlite", open_embedder("bundled"))
        stack.callback(memories.close)
        scenes = load_scenes(
            memories,
            path,
            PromptRenderer(tokenizer).render,
            memory_tokens=options.memory_tokens,
            top_k=options.top_k,
            conversations=options.conversations,
            turns_each=options.turns_each,
            at_once=options.at_once,
        )
        config = ForesightConfig(predictor=cast(PredictorName, options.predictor))
        found = _by_index(scenes, memories, options, config)
        if model is not None:
            found = asyncio.run(_with_model(model, folder / "pages", scenes, memories, options, config))
        return {
            "kind": "locomo",
            "trace": path.name,
            "cubes": len(scenes.cubes),
            "turns": len(scenes.turns),
            "pages": sum(len(cube.pages) for cube in scenes.cubes),
            "at_once": options.at_once,
            "memory_tokens": options.memory_tokens,
            "top_k": options.top_k,
            "fidelity": options.fidelity if model else None,
            "model": options.model,
            **found,
        }


def _by_index(scenes: Scenes, memories: MemoryStore, options: Options, config: ForesightConfig) -> dict[str, Any]:
    total = preload.total_bytes(scenes)
    rows, card = [], None
    for share in options.shares:
        for policy in options.policies:
            row, report = asyncio.run(preload.replay_index(scenes, memories, policy, int(total * share), config))
            rows.append(asdict(row))
            card = report if policy == "predictor" else card
    return {"all_bytes": total, "rows": rows, "report": card}


async def _with_model(
    model: LoadedModel, folder: Path, scenes: Scenes, memories: MemoryStore, options: Options, config: ForesightConfig
) -> dict[str, Any]:
    from benchmarks.suites import preload_model

    with console.status("...") as status:
        report: Callable[[str], None] = status.update
        if not folder.exists():
            await preload_model.build_pages(model, folder, scenes, report)
        total = preload_model.bytes_of(folder)
        lanes = [(policy, int(total * options.shares[0])) for policy in options.policies]
        rows = await preload_model.replay_model(
            model,
            folder,
            scenes,
            memories,
            lanes,
            top_k=options.top_k,
            fidelity=cast(Fidelity, options.fidelity),
            config=config,
            report=report,
        )
    return {"all_bytes": total, "rows": [asdict(row) for row in rows]}


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"Preloading: {result['trace']}")
    timed = any(row["ttft_p50_s"] is not None for row in result["rows"])
    times = ("TTFT p50 s", "p99 s", "of LRU's p50", "p99") if timed else ()
    for column in ("policy", "GB", "hits", "of oracle", *times, "wasted"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    best = {row["budget_bytes"]: row["hit_rate"] for row in result["rows"] if row["policy"] == "oracle"}
    for row in result["rows"]:
        oracle = best.get(row["budget_bytes"])
        table.add_row(
            row["policy"],
            f"{row['budget_bytes'] / 1e9:.2f}",
            f"{row['hit_rate']:.4f}",
            f"{row['hit_rate'] / oracle:.3f}" if oracle else "-",
            *(_times(row) if timed else ()),
            _shown(row["wasted_share"], 3),
        )
    console.print(table)


def _times(row: dict[str, Any]) -> list[str]:
    ratios = [row["of_lru_p50"], row["of_lru_p99"]]
    return [
        *(_shown(row[name], 3) for name in ("ttft_p50_s", "ttft_p99_s")),
        *(_shown(ratio and ratio["p50"], 2) for ratio in ratios),
    ]


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
