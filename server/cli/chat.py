"""``recallkv chat``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from server.cli.client import DEFAULT_URL, ApiKey, Client, ServerError, Url
from server.cli.text import clean

console = Console(highlight=False)


def chat(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    once: Annotated[str | None, typer.Option(help="Ask this and exit.")] = None,
    mode: Annotated[str | None, typer.Option(help="auto, kv, text or off.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
) -> None:
    """Talk to the running server. An empty line or Ctrl-D ends it."""
    client = Client(url, api_key)
    model = client.call("GET", "/v1/models")["data"][0]["id"]
    options: dict[str, Any] = {"model": model, "temperature": temperature, "stream": True}
    if mode is not None:
        options["memory"] = {"mode": mode}
    messages: list[dict[str, str]] = []
    if once is not None:
        _turn(client, options, messages, once)
        return
    while said := _read_line():
        try:
            _turn(client, options, messages, said)
        except ServerError as error:
            console.print(clean(str(error)), style="red", markup=False, emoji=False)


def _read_line() -> str:
    try:
        return console.input("[bold]you:[/bold] ").strip()
    except EOFError:
        return ""


def _turn(client: Client, options: dict[str, Any], messages: list[dict[str, str]], said: str) -> None:
    """Ask, print the answer as it comes, and add both to ``messages``; a turn that fails leaves them as they were."""
    asked = {"role": "user", "content": said}
    answer, receipt = "", None
    with client.stream("/v1/chat/completions", {**options, "messages": [*messages, asked]}) as events:
        for event in events:
            chunk = json.loads(event)
            if "error" in chunk:  # the reply had begun when something went wrong
                raise ServerError(chunk["error"]["message"])
            receipt = chunk.get("memory") or receipt
            for choice in chunk.get("choices", []):
                text = choice["delta"].get("content") or ""
                answer += text
                print(clean(text), end="", flush=True)
    print()
    if receipt:
        console.print(describe(receipt), style="dim", markup=False)
    messages += [asked, {"role": "assistant", "content": answer}]


def describe(receipt: dict[str, Any]) -> str:
    """Put a receipt into one line."""
    counts: dict[str, int] = {}
    for memory in receipt["memories"]:
        counts[memory["source"]] = counts.get(memory["source"], 0) + 1
    parts = ", ".join(f"{count} {source}" for source, count in counts.items()) or "none"
    return f"memories: {parts}; {receipt['cached_tokens']} of {receipt['prompt_tokens']} prompt tokens from KV"
