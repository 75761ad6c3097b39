"""``recallkv memory``: the memories of a running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from server.cli.client import DEFAULT_URL, ApiKey, Client, ServerError, Url
from server.cli.text import clean, plain

app = typer.Typer(no_args_is_help=True, help="Add, search, list and remove memories.")
console = Console(highlight=False)


class Format(StrEnum):
    """The form in which results are printed."""

    terminal = "terminal"
    json = "json"


Cube = Annotated[str | None, typer.Option(help="Cube, by id or name (default: the key's default cube).")]
Output = Annotated[Format, typer.Option("--format", help="terminal or json.")]


@app.command()
def add(
    text: str,
    kind: Annotated[
        str | None, typer.Option(help="fact, preference, event, state, profile, instruction, tool, document.")
    ] = None,
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
def remove(
    memory_id: str,
    forget: Annotated[bool, typer.Option(help="Overwrite it for good, and show the proof.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Delete a memory and everything computed from it; for a while `undelete` brings it back."""
    path = f"/v1/memories/{quote(memory_id, safe='')}"
    reply = Client(url, api_key).call("DELETE", path, params={"forget": forget})
    if forget:
        print(json.dumps(reply["proof"]))


@app.command()
def undelete(memory_id: str, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Bring a deleted memory back."""
    Client(url, api_key).call("POST", f"/v1/memories/{quote(memory_id, safe='')}/undelete")


@app.command()
def reindex(cube: str = "default", url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Make a cube's full text, vectors and names anew from its memories."""
    reply = Client(url, api_key).call("POST", f"/v1/cubes/{quote(cube, safe='')}/reindex")
    print(reply["memories"])


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders: txt, md, html, pdf, docx.", exists=True)],
    cube: Annotated[str, typer.Option(help="Cube, by id or name.")] = "default",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Keep documents as memories, a line for each; those of folders that are of a known kind. Exits with 1 when one
    could not be kept."""
    client = Client(url, api_key)
    failed = False
    for path, name in (item for given in paths for item in _documents(given)):
        try:
            data, headers = path.read_bytes(), {"Content-Type": "application/octet-stream"}
            route = f"/v1/cubes/{quote(cube, safe='')}/documents"
            done = client.call("POST", route, params={"name": name}, content=data, headers=headers)
            line = f"{done['action']:9} {name} ({done['n_chunks']} memories)"
        except (ServerError, OSError) as error:
            failed = True
            line = f"failed    {name}: {error}"
        print(clean(line), flush=True)
    raise typer.Exit(1 if failed else 0)


@app.command()
def dump(
    file: Annotated[Path, typer.Argument(help="Where to write it.", dir_okay=False)],
    cube: Annotated[str, typer.Option(help="Cube, by id or name.")] = "default",
    segments: Annotated[
        bool, typer.Option("--segments", help="Also its pages of keys and values, which are large.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Write a cube to one file: memories, messages, histories, documents and vectors. Pages are taken by servers with
    the same bundle key; others compute theirs from the texts."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            partial.chmod(0o600)
            path = f"/v1/cubes/{quote(cube, safe='')}/dump"
            Client(url, api_key).save(path, stream, params={"segments": segments})
        partial.replace(file)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    print(clean(str(file)))


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help="What dump wrote.", exists=True, dir_okay=False)],
    cube: Annotated[str, typer.Option(help="Name of the cube that is made.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Make a new cube from a file; its id is printed, and, on stderr, what became of the pages in it."""
    headers = {"Content-Type": "application/zip"}
    client = Client(url, api_key)
    with file.open("rb") as stream:
        made = client.call("POST", "/v1/cubes/load", params={"name": cube}, content=stream, headers=headers)
    print(made["id"])
    told = made["segments"]
    if told["taken"] or told["left"]:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(told["reasons"].items()))
        print(clean(f"pages: {told['taken']} taken, {told['left']} left {reasons}".rstrip()), file=sys.stderr)


def _documents(path: Path) -> Iterator[tuple[Path, str]]:
    """List files to import and the names they get: a file's own, or, in a folder, its path from the folder's parent
    on."""
    from memory.language.reading import SUFFIXES

    if path.is_file():
        yield path, path.name
        return
    folder = path.resolve()
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts)
        if file.suffix.lower() in SUFFIXES and file.is_file() and not hidden:
            yield file, f"{folder.name}/{inner.as_posix()}"


def _print(memories: list[dict[str, Any]], why: list[str] | None) -> None:
    table = Table("id", "kind", "text", *(["why"] if why is not None else []))
    for i, memory in enumerate(memories):
        text = memory["text"] if len(memory["text"]) <= 200 else memory["text"][:197] + "..."
        table.add_row(memory["id"], memory["kind"], plain(text), *([plain(why[i])] if why is not None else []))
    console.print(table)
