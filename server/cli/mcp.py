"""``recallkv mcp``."""

from __future__ import annotations

from server.cli.client import DEFAULT_URL, ApiKey, Client, Url


def mcp(url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Serve the memories of a running server to an assistant, over standard input and output (Model Context
    Protocol)."""
    from server.cli.mcp_tools import build  # the protocol's package takes a second to load

    build(Client(url, api_key)).run("stdio")
