"""``recallkv memory``: the memories of a running server."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from server.cli.client import DEFAULT_URL, ApiKey, Client, Url
from server.cli.text import plain

app = typer.Typer(no_args_is_help=True, help="Add, search, list and remove memories.")
console = Console(highlight=False)


class Format(StrEnum):
    """How results are printed."""

    terminal = "terminal"
    json = "json"


Cube = Annotated[str | None, typer.Option(help="Cube, by id or name (default: the key's default cube).")]
Output = Annotated[Format, typer.Option("--format", help="terminal or json.")]


@app.command()
def add(
    text: str,
    kind: Annotated[str, typer.Option(help="fact, preference, event, profile or document.")] = "fact",
    pinned: Annotated[bool, typer.Option(help="Part of every prompt.")] = False,
    cube: Cube = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    format: Output = Format.terminal,
) -> None:
    """Add a memory."""
    body: dict[str, Any] = {"text": text, "kind": kind, "pinned": pinned, "cube": cube}
    memory = Client(url, api_key).call("POST", "/v1/memories", json=body)
    print(json.dumps(memory) if format is Format.json else memory["id"])


@app.command()
def search(
    query: str,
    top_k: Annotated[int, typer.Option(min=1, max=100)] = 5,
    cube: Cube = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    format: Output = Format.terminal,
) -> None:
    """Search by meaning and by words."""
    body = {"query": query, "top_k": top_k, "cube": cube}
    hits = Client(url, api_key).call("POST", "/v1/memories/search", json=body)["data"]
    if format is Format.json:
        print(json.dumps(hits))
        return
    _print([hit["memory"] for hit in hits], [hit["why"] for hit in hits])


@app.command("ls")
def list_(
    cube: Cube = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    format: Output = Format.terminal,
) -> None:
    """List memories in order of creation."""
    params: dict[str, Any] = {"limit": limit} | ({"cube": cube} if cube else {})
    page = Client(url, api_key).call("GET", "/v1/memories", params=params)
    if format is Format.json:
        print(json.dumps(page["data"]))
        return
    _print(page["data"], None)
    if page["next"]:
        console.print(f"[dim]there are more after {page['next']}[/dim]")


@app.command("rm")
def remove(memory_id: str, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Delete a memory and everything computed from it."""
    Client(url, api_key).call("DELETE", f"/v1/memories/{quote(memory_id, safe='')}")


def _print(memories: list[dict[str, Any]], why: list[str] | None) -> None:
    table = Table("id", "kind", "text", *(["why"] if why is not None else []))
    for i, memory in enumerate(memories):
        text = memory["text"] if len(memory["text"]) <= 200 else memory["text"][:197] + "..."
        table.add_row(memory["id"], memory["kind"], plain(text), *([plain(why[i])] if why is not None else []))
    console.print(table)
