"""``recallkv plan`` and ``recallkv top``: what pays, and what the scheduler is doing."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from server.cli.client import DEFAULT_URL, ApiKey, Client, Url
from server.cli.memory import Format, Output
from server.cli.text import plain

console = Console(highlight=False)


def plan(
    cube: Annotated[str, typer.Argument(help="A cube's id or name.")],
    limit: Annotated[int, typer.Option(min=1, max=500, help="Memories to look at.")] = 100,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    format: Output = Format.terminal,
) -> None:
    """Does it pay to keep the KV of a cube's memories on this machine? Seconds to build, bytes, uses expected."""
    found = Client(url, api_key).call("GET", f"/v1/cubes/{cube}/plan", params={"limit": limit})
    if format is Format.json:
        print(json.dumps(found))
        return
    table = Table("memory", "tokens", "MB", "build s", "saved s a use", "uses / 100 turns", "pays from", "", "advice")
    for row in found["data"]:
        pays = "-" if row["break_even_uses"] is None else f"{row['break_even_uses']:.1f} uses"
        numbers = [str(row["tokens"]), f"{row['bytes'] / 1e6:.1f}", f"{row['build_s']:.3f}", f"{row['saved_s']:.4f}"]
        state = "kept" if row["activated"] else ""
        table.add_row(plain(row["memory_id"]), *numbers, f"{row['expected_uses']:.1f}", pays, state, row["verdict"])
    console.print(table)
    console.print(found["summary"])


def top(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
) -> None:
    """Show live what the scheduler is doing. Ends with Ctrl-C."""
    client = Client(url, api_key)
    if once:
        console.print(_screen(client))
        return
    with Live(_screen(client), console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(_screen(client), refresh=True)
        except KeyboardInterrupt:
            return


def _screen(client: Client) -> Group:
    state = client.call("GET", "/v1/scheduler", params={"events": 12})
    tiers = client.call("GET", "/v1/cache", params={"limit": 0})["tiers"]
    panels = [Panel(_tiers(tiers), title="tiers"), Panel(_work(state), title="work")]
    if state["predictor"] is not None:
        panels.insert(1, Panel(_predictor(state), title="predictor"))
    return Group(Columns(panels), Panel(_events(state["events"]), title="events"))


def _tiers(tiers: dict[str, Any]) -> Table:
    table = Table("tier", "segments", "MB", "of MB", "hits", box=None)
    for name, tier in tiers.items():
        sizes = [f"{tier[key] / 1e6:,.0f}" for key in ("bytes", "budget")]
        table.add_row(name, str(tier["segments"]), *sizes, str(tier["hits"]))
    return table


def _predictor(state: dict[str, Any]) -> Table:
    card, preloads = state["predictor"], state["preloads"]
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("predictor", card["predictor"]),
        ("turns seen", str(card["scenes"])),
        ("precision", f"{card['precision']:.2f}"),
        ("recall", f"{card['recall']:.2f}"),
        ("calibration error", f"{card['calibration_error']:.3f}"),
        ("preloaded MB", f"{preloads['bytes'] / 1e6:,.0f}"),
        ("used MB", f"{preloads['used_bytes'] / 1e6:,.0f}"),
        ("wasted MB", f"{preloads['wasted_bytes'] / 1e6:,.0f}"),
        ("saved s", f"{preloads['saved_s']:.2f}"),
    ):
        table.add_row(name, value)
    return table


def _work(state: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    upkeep = state["upkeep"]
    rows = [("pages built", upkeep["pages_built"]), ("healed", upkeep["healed"]), ("upkeep waiting", upkeep["waiting"])]
    if "preloader" in state:
        moved = state["preloader"]
        rows += [("preloads", moved["moved"]), ("waiting", moved["waiting"]), ("cancelled", moved["cancelled"])]
    rows += [(f"jobs {status}", n) for status, n in sorted(state["jobs"].items())]
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def _events(events: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for event in events:
        at = time.strftime("%H:%M:%S", time.localtime(event["at"]))
        rest = {name: value for name, value in event.items() if name not in ("number", "at", "event")}
        table.add_row(at, event["event"], plain(", ".join(f"{name} {value}" for name, value in rest.items())))
    return table
