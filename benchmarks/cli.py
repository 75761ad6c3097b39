"""``recallkv bench``: each command prints a table and writes JSON."""

from __future__ import annotations

import asyncio
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import answers_cli, gpu_cli, lab_cli, load_cli, memory_cli, preload_cli, updates_cli
from benchmarks.data.locomo import load_questions
from benchmarks.report.plot import plot_fidelity, plot_preload, plot_ttft
from benchmarks.suites import busy as busy_bench
from benchmarks.suites import codec as codec_bench
from benchmarks.suites import crowded as crowded_bench
from benchmarks.suites import fidelity as fidelity_bench
from benchmarks.suites import overhead as http_bench
from benchmarks.suites import soak as day_bench
from benchmarks.suites import store as store_bench
from benchmarks.suites import streams as streams_bench
from benchmarks.suites import ttft as ttft_bench
from benchmarks.suites.retrieval import TOP_K
from benchmarks.support.composing import ALWAYS
from benchmarks.support.engines import on_engine, source_of
from benchmarks.support.machine import manifest
from engine.config import CompositionConfig, EngineConfig
from engine.transformers import TransformersEngine
from kvcache import StoreConfig

app = typer.Typer(no_args_is_help=True, help="Measure: time to first token, fidelity of composition, streams.")
app.command()(answers_cli.answers)
app.command()(load_cli.load)
app.command()(lab_cli.lab)
app.command()(lab_cli.report)
app.command()(gpu_cli.gpu)
app.command()(updates_cli.updates)
console = Console()

Model = Annotated[str, typer.Option(help="demo, or any Hugging Face id or folder.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result here.")]


def _write(result: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"[dim]written: {path}[/dim]")


@app.command()
def ttft(
    model: Model = "demo",
    context: Annotated[str, typer.Option(help="Context lengths in tokens.")] = "1024,4096",
    query: Annotated[int, typer.Option(min=1, help="Query length in tokens.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; each measures every mode once.")] = 5,
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="PNG; beside the JSON file where that is given.")] = None,
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    restarts: Annotated[int, typer.Option(min=1, help="With vLLM: how often it is started anew.")] = 3,
) -> None:
    """Time to first token: full prefill against KV resident, in host memory and on disk, in one run."""
    contexts = [int(part) for part in context.split(",")]
    if engine == "vllm":
        _vllm_ttft(model, contexts[-1], query, repeat, restarts, json_file)
        return

    result = on_engine(model, lambda engine, folder: ttft_bench.measure(engine, folder, contexts, query, repeat))
    _print_ttft(result)
    _write(result, json_file)
    picture = plot or (json_file.with_suffix(".png") if json_file else None)
    if picture is not None:
        plot_ttft(result, picture)
        console.print(f"[dim]written: {picture}[/dim]")


@app.command()
def mixed(
    model: Model = "demo",
    repeat: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Under vLLM: sixteen requests at once, half of them stored, with the connector and without."""
    from benchmarks.suites.vllm import mixed as vllm_mixed

    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        result = asyncio.run(vllm_mixed.measure(source_of(model), Path(folder), repeat, console.print))
    for name in ("vllm", "connector"):
        console.print(name, result[name])
    console.print(f"throughput: {result['throughput_ratio']:.2f} of vLLM's")
    _write(result, json_file)


def _vllm_ttft(model: str, context: int, query: int, repeat: int, restarts: int, json_file: Path | None) -> None:
    from benchmarks.suites.vllm import ttft as vllm_ttft

    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        result = asyncio.run(
            vllm_ttft.measure(
                source_of(model), Path(folder), context, query, repeat, restarts, lambda text: console.print(text)
            )
        )
    table = Table(title=f"Time to first token under vLLM: {context} + {query} tokens")
    for column in ("mode", "p50 s", "min", "max", "/text", "/resident", "load s", "equal"):
        table.add_column(column, justify="left" if column == "mode" else "right", no_wrap=True)
    for row in result["rows"]:
        times = [f"{row['ttft_s'][name]:.3f}" for name in ("p50", "min", "max")]
        ratios = [f"{row['ratio_to_text']:.4f}", f"{row['ratio_to_resident']:.3f}", f"{row['load_s']:.3f}"]
        table.add_row(row["mode"], *times, *ratios, "yes" if row["outputs_equal"] else "NO")
    console.print(table)
    for mode, raw in result["raw_read_s"].items():
        console.print(f"raw read beside '{mode}': {raw['p50'] * 1e3:.0f} ms, {result['file_mb']:.0f} MB")
    _write(result, json_file)


def _print_ttft(result: dict[str, Any]) -> None:
    table = Table(title=f"Time to first token: {result['model']}, {result['machine']['dtype']}")
    for column in ("mode", "context", "query", "p50 s", "min", "max", "/text", "/floor", "equal"):
        table.add_column(column, justify="left" if column == "mode" else "right", no_wrap=True)
    for row in result["rows"]:
        times = [f"{row['ttft_s'][name]:.3f}" for name in ("p50", "min", "max")]
        ratios = [f"{row['ratio_to_text']:.3f}", f"{row['ratio_to_floor']:.3f}"]
        counts = [str(row["context_tokens"]), str(row["query_tokens"])]
        table.add_row(row["mode"], *counts, *times, *ratios, "yes" if row["outputs_equal"] else "NO")
    console.print(table)


@app.command()
def crowded(
    model: Model = "demo",
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of each answer.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Answers alone, and as many beside the other process.")] = 10,
    json_file: JsonFile = None,
) -> None:
    """Answers beside another process that computes on all cores: with threads that adapt, and with a fixed number."""
    result: dict[str, Any] = {}
    table = Table(title=f"{tokens} tokens beside another process: {model}")
    for column in ("threads", "alone s", "beside s", "max", "ratio", "worst", "stepped down"):
        table.add_column(column, justify="left" if column == "threads" else "right")
    for name in ("adaptive", "fixed"):
        rounds = repeat if name == "adaptive" else min(repeat, 3)  # the fixed number needs up to a minute per answer
        measure = partial(_crowded, tokens=tokens, repeat=rounds)
        row = result[name] = on_engine(model, measure, adapt_threads=name == "adaptive")
        times = [
            row["alone_s"]["p50"],
            row["beside_s"]["p50"],
            row["beside_s"]["max"],
            row["ratio"],
            row["worst_ratio"],
        ]
        table.add_row(name, *(f"{figure:.2f}" for figure in times), str(row["steps_down"]))
    console.print(table)
    _write(result, json_file)


async def _crowded(engine: TransformersEngine, folder: Path, tokens: int, repeat: int) -> dict[str, Any]:
    return await crowded_bench.measure(engine, tokens, repeat)


@app.command("http")
def http_overhead(
    model: Model = "demo",
    context_chars: Annotated[int, typer.Option(min=21, help="Characters of pinned memory.")] = 4000,
    repeat: Annotated[int, typer.Option(min=1, help="Requests that count.")] = 15,
    json_file: JsonFile = None,
) -> None:
    """Measure what HTTP adds to the engine's time to first token, and how long a server takes to start."""
    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        result = http_bench.measure(model, context_chars, repeat, Path(folder))
    result = {"machine": manifest(torch.device("cpu"), "auto"), "model": model, "repeat": repeat, **result}
    for name in ("client_ttft_s", "engine_ttft_s", "overhead_s"):
        row = result[name]
        console.print(f"{name:14} p50 {row['p50']:.4f}  min {row['min']:.4f}  max {row['max']:.4f}")
    console.print(f"server start   {result['start_s']:.1f} s")
    _write(result, json_file)


@app.command()
def streams(
    model: Model = "demo",
    streams: Annotated[int, typer.Option(min=2, help="Concurrent streams.")] = 8,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of each stream.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Tokens per second of one stream and of several, and the first token of one more request."""
    result = on_engine(model, lambda engine, _: streams_bench.measure(engine, streams, tokens, repeat))
    table = Table(title=f"Concurrent streams: {result['model']}")
    table.add_column("streams", justify="right")
    table.add_column("tokens/s", justify="right")
    for count, rate in result["tokens_per_s"].items():
        table.add_row(count, f"{rate:.1f}")
    console.print(table)
    following = result["next_request"]
    console.print(
        f"ratio {result['ratio']:.2f}; one more request: first token after {following['ttft_s']:.2f} s, "
        f"the first of the others ended {following['first_other_ended_after_s']:.2f} s after it arrived"
    )
    _write(result, json_file)


@app.command()
def fidelity(
    data: Annotated[Path, typer.Option(help="A LoCoMo or MuSiQue file.", exists=True, dir_okay=False)],
    model: Model = "demo",
    memories: Annotated[str, typer.Option(help="Memories x tokens of each, comma-separated.")] = "6x128,12x64",
    questions: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 12,
    facts: Annotated[int, typer.Option(min=0, help="Questions of the recall task; 0 leaves it out.")] = 100,
    engine: Annotated[
        str, typer.Option(help="transformers or vllm (divergences of the main strategies).")
    ] = "transformers",
    json_file: JsonFile = None,
) -> None:
    """Measure how far composed memories are from full prefill, by strategy and share recomputed, and the cost."""
    sizes = [(int(n), int(tokens)) for n, _, tokens in (part.partition("x") for part in memories.split(","))]
    if engine == "vllm":
        _vllm_fidelity(data, model, sizes, questions, json_file)
        return
    defaults = CompositionConfig()
    strategies = fidelity_bench.frontier(defaults.high, defaults.fast)

    async def measure(engine: TransformersEngine, _: Path) -> dict[str, Any]:
        rows: list[fidelity_bench.Row] = []
        with console.status("measuring") as status:
            for n, tokens in sizes:
                asked = load_questions(
                    data,
                    n,
                    tokens,
                    questions,
                    lambda text: engine.prompts.tokenize(text, add_special_tokens=False),
                    seed=0,
                )
                status.update(f"{n} memories of {tokens} tokens")
                rows += await fidelity_bench.measure_divergence(engine, asked, strategies, tokens, status.update)
            if facts:
                asked_for = fidelity_bench.for_recall(strategies)
                rows += await fidelity_bench.measure_recall(engine, asked_for, facts, status.update)
        return fidelity_bench.result(engine, rows, data.name)

    result = on_engine(model, measure, ALWAYS)
    _print_fidelity(result)
    _write(result, json_file)
    if json_file is not None:
        plot_fidelity(result, json_file.with_suffix(".png"))


def _vllm_fidelity(
    data: Path, model: str, sizes: list[tuple[int, int]], questions: int, json_file: Path | None
) -> None:
    from benchmarks.suites.vllm import fidelity as vllm_fidelity
    from engine.vllm.loading import load_vllm_engine

    async def run(folder: Path) -> list[vllm_fidelity.Row]:
        engine = load_vllm_engine(EngineConfig(source_of(model), model, composing=ALWAYS), StoreConfig(folder))
        rows = []
        try:
            for n, tokens in sizes:
                asked = load_questions(
                    data,
                    n,
                    tokens,
                    questions,
                    lambda text: engine.prompts.tokenize(text, add_special_tokens=False),
                    seed=0,
                )
                rows += await vllm_fidelity.measure(engine, asked, tokens, console.print)
        finally:
            await engine.close()
        return rows

    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
        rows = asyncio.run(run(Path(folder)))
    for row in rows:
        console.print(
            f"{row.strategy:18} {row.memories} x {row.tokens_each}  KL {row.kl_mean:.4f}  top-1 {row.top1:.3f}"
        )
    _write(vllm_fidelity.result(rows, manifest(torch.device("cpu"), "float32"), data.name), json_file)


def _print_fidelity(result: dict[str, Any]) -> None:
    table = Table(title=f"Fidelity of composition: {result['model']}, {result['data']}")
    columns = ("strategy", "memories", "share", "KL", "first", "top-1", "recall", "TTFT")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:1] else "right", no_wrap=True)
    for row in result["rows"]:
        numbers = [row[name] for name in ("kl_mean", "kl_first", "top1", "answer_accuracy", "ttft_ratio_to_text")]
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        size = f"{row['memories']} x {row['tokens_each']}"
        table.add_row(row["strategy"], size, f"{row['share_recomputed']:.2f}", *shown)
    console.print(table)


@app.command()
def codec(
    data: Annotated[Path, typer.Option(help="A LoCoMo or MuSiQue file.", exists=True, dir_okay=False)],
    model: Model = "demo",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts over which the KL is taken.")] = 8,
    json_file: JsonFile = None,
) -> None:
    """Codecs: bytes, speed on one core, KL added."""

    async def measure(engine: TransformersEngine, _: Path) -> dict[str, Any]:
        asked = load_questions(data, 6, 128, prompts, lambda text: engine.prompts.tokenize(text), seed=0)
        made = [(q.text, [q.cube[i] for i in q.chosen]) for q in asked]
        with console.status("measuring") as status:
            return await codec_bench.measure(engine, made, status.update)

    result = on_engine(model, measure)
    table = Table(title=f"Codecs: {result['model']}; bytes of bfloat16's, GB/s on one core, KL added")
    for column in ("codec", "bytes", "enc", "dec", "dec bf16", "KL", "top-1"):
        table.add_column(column, justify="left" if column == "codec" else "right", no_wrap=True)
    for row in result["rows"]:
        name = row["codec"] + (", unrotated" if row["before_rotation"] else "")
        speeds = [f"{row[key]:.2f}" for key in ("encode_gb_s", "decode_gb_s", "decode_bf16_gb_s")]
        table.add_row(name, f"{row['share_of_bf16']:.3f}", *speeds, f"{row['kl_added']:.5f}", f"{row['top1']:.3f}")
    console.print(table)
    _write(result, json_file)


@app.command()
def store(
    repeat: Annotated[int, typer.Option(min=1, help="Rounds of reading.")] = 5,
    segments: Annotated[int, typer.Option(min=100, help="Segments to find one among.")] = 10_000,
    folder: Annotated[Path | None, typer.Option(help="Where to write; a temporary folder without it.")] = None,
    json_file: JsonFile = None,
) -> None:
    """The segment store: reading against the drive's own speed, finding among many."""
    with tempfile.TemporaryDirectory(prefix="recallkv-bench-", dir=folder) as where, console.status("...") as status:
        reads = store_bench.measure_reads(Path(where) / "reads", repeat, status.update)
        status.update(f"{segments} segments")
        finding = store_bench.measure_finding(Path(where) / "finding", segments, 200)
    table = Table(title="From disk to where attention reads")
    for column in ("kind", "codec", "segments", "MB", "raw GB/s", "injected GB/s", "ratio"):
        table.add_column(column, justify="left" if column in ("kind", "codec") else "right", no_wrap=True)
    for row in reads:
        sizes = [f"{row.segments} x {row.tokens_each}", f"{row.file_mb:.0f}"]
        table.add_row(
            row.kind, row.codec, *sizes, f"{row.raw_gb_s:.2f}", f"{row.injected_gb_s:.2f}", f"{row.ratio:.2f}"
        )
    console.print(table)
    console.print(
        f"{finding.segments} segments: open {finding.open_s:.2f} s, {finding.bytes_read_at_open / 1e6:.1f} MB read; "
        f"chain {finding.match_ms:.3f} ms, part {finding.find_part_ms:.3f} ms, order of 12 memories "
        f"{finding.plan_ms:.3f} ms, at most {finding.lookup_max_ms:.3f} ms"
    )
    _write(store_bench.result(reads, finding), json_file)


Embedder = Annotated[str, typer.Option(help="bundled, multilingual, hash, a folder or id, or a URL.")]


@app.command()
def locomo(
    data: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="LoCoMo's JSON file.")],
    embedder: Embedder = "bundled",
    tokenizer: Annotated[str, typer.Option(help="Counts the context's tokens: demo, or a folder or id.")] = "demo",
    top_k: Annotated[int, typer.Option(min=1, help="Memories that each question asks for.")] = TOP_K,
    json_file: JsonFile = None,
) -> None:
    """Retrieval on LoCoMo's conversations: which turns are found for a question, without a judge."""
    _write(memory_cli.locomo(data, embedder, tokenizer, top_k), json_file)


@app.command()
def search(
    n: Annotated[str, typer.Option("--n", help="Numbers of memories.")] = "1000,10000,100000",
    embedder: Embedder = "bundled",
    add: Annotated[int, typer.Option(min=1, help="Messages to add with the real embedder.")] = 10_000,
    json_file: JsonFile = None,
) -> None:
    """Search at growing numbers of memories: latency, memory, build time; and adding messages."""
    _write(memory_cli.search([int(part) for part in n.split(",")], embedder, add), json_file)


@app.command()
def preload(
    trace: Annotated[
        Path, typer.Option("--trace", exists=True, dir_okay=False, help="Mooncake's trace (.jsonl) or LoCoMo's file.")
    ],
    model: Annotated[
        str | None, typer.Option(help="With LoCoMo: demo, or an id or folder; without, the index alone.")
    ] = None,
    blocks: Annotated[str, typer.Option(help="Mooncake: budgets in blocks of 512 tokens.")] = "2000,5000,20000",
    shares: Annotated[
        str, typer.Option(help="LoCoMo: host budgets, as shares of all pages (a model: the first).")
    ] = "0.25",
    conversations: Annotated[int | None, typer.Option(min=1, help="LoCoMo: the most conversations.")] = None,
    turns: Annotated[int | None, typer.Option(min=1, help="LoCoMo: the most turns of each.")] = None,
    memory_tokens: Annotated[int, typer.Option(min=16, help="LoCoMo: tokens of a memory.")] = 128,
    top_k: Annotated[int, typer.Option(min=1, help="LoCoMo: memories a turn.")] = 5,
    fidelity: Annotated[str, typer.Option(help="high or fast.")] = "high",
    predictor: Annotated[str, typer.Option(help="blend, recency, frequency, transition or drift.")] = "blend",
    folder: Annotated[Path | None, typer.Option(help="Keep memories and pages here, for a further run.")] = None,
    policies: Annotated[
        str, typer.Option(help="LoCoMo: which; one named twice shows how far a run differs from itself.")
    ] = ",".join(preload_cli.POLICIES),
    at_once: Annotated[
        bool, typer.Option("--at-once", help="LoCoMo: all conversations at once, seeded pauses.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Does prediction pay? Hits, times to first token and wasted bytes against LRU, LFU, an oracle and nothing."""
    options = preload_cli.Options(
        shares=tuple(float(part) for part in shares.split(",")),
        blocks=tuple(int(part) for part in blocks.split(",")),
        model=model,
        conversations=conversations,
        turns_each=turns,
        memory_tokens=memory_tokens,
        top_k=top_k,
        fidelity=fidelity,
        predictor=predictor,
        folder=folder,
        at_once=at_once,
        policies=preload_cli.policies_of(policies),
    )
    result = preload_cli.run(trace, options)
    _write(result, json_file)
    if json_file is not None:
        plot_preload(result, json_file.with_suffix(".png"))


@app.command()
def day(
    cubes: Annotated[int, typer.Option(min=1, help="Cubes.")] = 200,
    turns: Annotated[int, typer.Option(min=10, help="Turns.")] = 10_000,
    folder: Annotated[Path | None, typer.Option(help="Keep the state here; a run that was cut off goes on.")] = None,
    json_file: JsonFile = None,
) -> None:
    """A day of the scheduler on the index alone: memory, queues, jobs, hits."""
    with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as temporary, console.status("...") as status:
        where = folder or Path(temporary)
        where.mkdir(parents=True, exist_ok=True)
        result = asyncio.run(day_bench.live(where, day_bench.Size(cubes, turns), status.update))
    for name in ("turns", "resumed_at", "seconds", "memory_mb", "most_queued", "hit_rate", "wasted_share"):
        console.print(f"{name:14} {result[name]}")
    console.print(f"preloader      {result['preloader']}")
    console.print(f"jobs           {result['jobs']}")
    _write({"machine": manifest(torch.device("cpu"), "-"), **result}, json_file)


@app.command()
def busy(
    model: Model = "demo",
    prompt: Annotated[int, typer.Option(min=8, help="Tokens of each prompt.")] = 256,
    requests: Annotated[int, typer.Option(min=2, help="Requests with and without.")] = 40,
    json_file: JsonFile = None,
) -> None:
    """Measure what a busy preloader does to the requests beside it."""
    result = on_engine(model, lambda engine, _: busy_bench.measure(engine, prompt, requests))
    console.print({name: result[name] for name in ("ttft_s", "p95_s", "ratio", "paired_ratio", "preloads")})
    _write(result, json_file)
