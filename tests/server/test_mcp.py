"""``recallkv mcp`` as an assistant starts it, over the protocol's own client."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from mcp import Client, StdioServerParameters

from tests.server.running import Running

TOOLS = {"add_memory", "search_memories", "update_memory", "delete_memory", "list_memories"}
Use = Callable[[Client], Awaitable[Any]]


def with_client(url: str, use: Use, key: str | None = None) -> Any:
    environment = {"RECALLKV_API_KEY": key} if key else {}
    command = ["-c", "from server.cli import main; main()", "mcp", "--url", url]
    program = StdioServerParameters(command=sys.executable, args=command, env={**os.environ, **environment})

    async def run() -> Any:
        async with Client(program) as client:
            return await use(client)

    return asyncio.run(run())


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    found: dict[str, Any] = json.loads(result.content[0].text)  # type: ignore[union-attr]
    assert result.structured_content in (None, found, {"result": found})
    return found


def test_tools(server: Running) -> None:
    async def use(client: Client) -> None:
        offered = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(offered) == TOOLS
        assert offered["search_memories"].annotations is not None
        assert offered["search_memories"].annotations.read_only_hint
        assert offered["add_memory"].input_schema["required"] == ["text"]
        added = await call(client, "add_memory", text="The lighthouse keeper is called Ingrid.", kind="fact")
        await call(client, "add_memory", text="Bread is baked on Fridays.", kind="fact")
        found = (await call(client, "search_memories", query="lighthouse keeper", top_k=1))["memories"]
        assert [memory["id"] for memory in found] == [added["id"]]
        changed = await call(client, "update_memory", memory_id=added["id"], text="The lighthouse keeper is Olav.")
        assert changed["text"] == "The lighthouse keeper is Olav."
        page = await call(client, "list_memories", limit=1)
        assert [memory["text"] for memory in page["memories"]] == ["The lighthouse keeper is Olav."]
        rest = await call(client, "list_memories", after=page["next"])
        assert [memory["text"] for memory in rest["memories"]] == ["Bread is baked on Fridays."]
        assert (await call(client, "delete_memory", memory_id=added["id"]))["deleted"]
        again = await client.call_tool("delete_memory", {"memory_id": added["id"]})
        assert again.is_error
        assert "404" in again.content[0].text  # type: ignore[union-attr]

    with_client(server.url, use)


def test_what_is_wrong_is_said(server: Running) -> None:
    async def use(client: Client) -> None:
        for tool, arguments in (
            ("add_memory", {"text": ""}),
            ("add_memory", {"text": "x", "kind": "no such kind"}),
            ("add_memory", {"text": "x", "cube": "no such cube"}),
            ("search_memories", {"query": "x", "top_k": 1000}),
            ("update_memory", {"memory_id": "../cubes", "text": "x"}),
        ):
            assert (await client.call_tool(tool, arguments)).is_error, (tool, arguments)

    with_client(server.url, use)


def test_the_key_says_whose_memories(server: Running) -> None:
    keys = server.services.keys
    boris = keys.create("mcp-boris", "mcp-boris")
    anna = keys.create("mcp-anna", "mcp-anna")

    async def add(client: Client) -> str:
        return str((await call(client, "add_memory", text="Anna's secret is walnut."))["id"])

    secret = with_client(server.url, add, anna)

    async def pry(client: Client) -> None:
        assert (await call(client, "search_memories", query="secret walnut"))["memories"] == []
        assert (await call(client, "list_memories"))["memories"] == []
        for tool, more in (("update_memory", {"text": "mine"}), ("delete_memory", {})):
            assert (await client.call_tool(tool, {"memory_id": secret, **more})).is_error

    with_client(server.url, pry, boris)


def test_without_a_server_tools_fail_by_name() -> None:
    async def use(client: Client) -> None:
        result = await client.call_tool("list_memories", {})
        assert result.is_error
        assert "recallkv serve" in result.content[0].text  # type: ignore[union-attr]

    with_client("http://127.0.0.1:9", use)
