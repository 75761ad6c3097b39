"""Hides what a bare machine has not: with this folder on ``PYTHONPATH`` the modules below cannot be imported.

Python imports this file by its name when it starts, in child processes too.
"""

from __future__ import annotations

import sys
from typing import Any

MISSING = frozenset(
    "blake3 dateparser fastapi gguf mammoth mcp prometheus_client pydantic pypdf starlette typer usearch uvicorn "
    # The project's own packages that a measurement must do without.
    "zstandard memory scheduler server".split()
)


class Hidden:
    """A finder that finds none of them, before any other looks."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in MISSING or name == "huggingface_hub.cli":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
