"""``recallkv bench load``: open-loop load against a running server, or against one that is started for it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import load as load_bench
from benchmarks.load import Arrival, LoadError, Settings
from benchmarks.support.machine import manifest
from benchmarks.support.serving import ServerNotStarted, started

console = Console()


def load(
    url: Annotated[str | None, typer.Option(help="Server; without, one is started: recallkv serve MODEL.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="RECALLKV_API_KEY", help="Its key.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model; default: the server's first, and demo for one that is started.")
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            help="on, off, both, or modes that take turns: kv (memories injected), text (the same prompt, prefilled in "
            "full), off (no memory); both is kv,off."
        ),
    ] = "both",
    pattern: Annotated[
        str, typer.Option(help="Arrivals: poisson, bursts, constant, or a trace in Mooncake's format.")
    ] = "poisson",
    request_rate: Annotated[float, typer.Option(help="Requests a second; inf: all at once.")] = 1.0,
    burstiness: Annotated[
        float | None, typer.Option(help="Shape of the gaps' gamma distribution: 1 is Poisson's; bursts: 0.2.")
    ] = None,
    num_prompts: Annotated[int, typer.Option(min=1, help="Requests that count; of a trace, its first.")] = 100,
    input_len: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, memories not included.")] = 128,
    output_len: Annotated[int, typer.Option(min=1, help="Tokens of a reply.")] = 32,
    time_scale: Annotated[float, typer.Option(help="Trace: times are multiplied by it.")] = 1.0,
    length_scale: Annotated[float, typer.Option(help="Trace: lengths are multiplied by it.")] = 1.0,
    max_input: Annotated[int, typer.Option(min=1, help="Trace: the most tokens of a prompt.")] = 2048,
    max_output: Annotated[int, typer.Option(min=1, help="Trace: the most tokens of a reply.")] = 256,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="The most requests at once.")] = None,
    num_warmups: Annotated[int, typer.Option(min=0, help="Requests before the run.")] = 4,
    seed: Annotated[int, typer.Option(help="Of arrivals, prompts and memories.")] = 0,
    goodput: Annotated[
        str | None, typer.Option(help="Goals in ms for request_goodput, such as ttft:500,tpot:50 (or e2el).")
    ] = None,
    memories: Annotated[int, typer.Option(min=1, help="Memories to retrieve from.")] = 40,
    pinned: Annotated[int, typer.Option(min=0, help="Memories that are in every prompt.")] = 4,
    memory_tokens: Annotated[int, typer.Option(min=8, help="Tokens of a memory.")] = 64,
    top_k: Annotated[int, typer.Option(min=0, max=64, help="Memories that are retrieved.")] = 5,
    fidelity: Annotated[str | None, typer.Option(help="exact, high or fast; default: the server's.")] = None,
    prepare_s: Annotated[
        float, typer.Option(min=0, help="Seconds at most for the server to compute what it keeps, before the run.")
    ] = 120.0,
    ignore_eos: Annotated[bool, typer.Option(help="Ask for replies of full length, as vLLM does.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds a reply may be silent.")] = 600.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Open-loop load: times and throughput with memory and without it, the two taking turns in one run."""
    try:
        planned = (
            load_bench.arrivals(pattern, num_prompts, request_rate, burstiness, seed, input_len, output_len)
            if pattern in load_bench.PATTERNS or not Path(pattern).is_file()
            else load_bench.traced(Path(pattern), num_prompts, time_scale, length_scale, max_input, max_output)
        )
        settings = Settings(
            model=model or "",
            modes=load_bench.parse_modes(memory),
            max_concurrency=max_concurrency,
            num_warmups=num_warmups,
            seed=seed,
            goodput=load_bench.parse_goodput(goodput) if goodput else {},
            timeout_s=timeout,
            ignore_eos=ignore_eos,
            memories=memories,
            pinned=pinned,
            memory_tokens=memory_tokens,
            top_k=top_k,
            fidelity=fidelity,
            prepare_s=prepare_s,
        )
        if url is not None:
            result = _run(url, api_key, settings, planned)
        else:
            with tempfile.TemporaryDirectory(prefix="recallkv-bench-") as folder:
                console.print(f"[dim]starting: recallkv serve {model or 'demo'}[/dim]")
                with started(model or "demo", Path(folder)) as own:
                    result = _run(own, None, settings, planned)
    except (LoadError, ServerNotStarted) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    offered = {
        "pattern": Path(pattern).name,
        "num_prompts": len(planned),
        "request_rate": None if pattern not in load_bench.PATTERNS else str(request_rate),
        "burstiness": burstiness,
        "input_len": sum(a.input_tokens for a in planned) / len(planned),
        "output_len": sum(a.output_tokens for a in planned) / len(planned),
    }
    result["settings"] = {**offered, **result["settings"]}
    show(result)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"[dim]written: {json_file}[/dim]")
    if not result["all"]["completed"]:
        raise typer.Exit(1)


def _run(url: str, api_key: str | None, settings: Settings, planned: list[Arrival]) -> dict[str, Any]:
    """On uvloop where there is one: it takes a third off what a chunk costs the generator."""
    factory = None
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_measure(url, api_key, settings, planned))


async def _measure(url: str, api_key: str | None, settings: Settings, planned: list[Arrival]) -> dict[str, Any]:
    async with load_bench.connect(url, api_key, settings.timeout_s) as client:
        settings = replace(settings, model=settings.model or await load_bench.served_model(client))
        with console.status("...") as status:
            found = await load_bench.measure(client, settings, planned, status.update)
    shown = {**asdict(settings), "modes": list(settings.modes), "goodput": dict(settings.goodput)}
    return {"machine": manifest(torch.device("cpu"), "auto"), "settings": shown, **found}


_SHOWN = ("ttft", "tpot", "itl", "e2el")


def show(result: dict[str, Any]) -> None:
    """Print the tables, and say it where the generator fell behind."""
    rows = result["rows"] + ([{"mode": "all", **result["all"]}] if len(result["rows"]) > 1 else [])
    table = Table(title=f"Open-loop load: {result['settings']['model']}, {result['settings']['pattern']}")
    for column in ("", *(row["mode"] for row in rows)):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    counts = ("completed", "failed", "total_input_tokens", "cached_tokens", "total_output_tokens")
    rates = ("request_throughput", "request_goodput", "output_throughput", "total_token_throughput")
    for name in (*counts, *rates):
        table.add_row(name, *(_shown(row[name]) for row in rows))
    for name in _SHOWN:
        table.add_section()
        for statistic in ("mean", "median", "p95", "p99"):
            key = f"{statistic}_{name}_ms"
            table.add_row(key, *(_shown(row[key]) for row in rows))
    console.print(table)
    for row in result["rows"]:
        for reason, n in row["failures"].items():
            console.print(f"[red]{row['mode']}: {n} failed: {reason}[/red]")
    for ratio in result["ratios"]:
        console.print(
            f"{ratio['of']} by {ratio['by']}, in this run: median ttft {_shown(ratio['median_ttft_ms'])}, "
            f"median e2el {_shown(ratio['median_e2el_ms'])}"
        )
    if result["prepared"] and not result["prepared"]["settled"]:
        console.print("[yellow]The server still had memories to compute when the run began: see --prepare-s.[/yellow]")
    own = result["client"]
    console.print(
        f"{result['duration_s']:.1f} s; requests left {own['median_late_ms']:.1f} ms late "
        f"(99%: {own['p99_late_ms']:.1f}), "
        f"event loop {own['p99_loop_lag_ms']:.1f} ms (99%), {own['cpu_share']:.0%} of a core, "
        f"at most {own['max_concurrent_requests']} at once"
    )
    if own["fell_behind"]:
        console.print(
            f"[yellow]The generator fell behind (over {load_bench.LATE_MS:.0f} ms late): the load was less than asked "
            "for, and times may be the generator's own.[/yellow]"
        )


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
