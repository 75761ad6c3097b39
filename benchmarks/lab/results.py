"""Results as files that are whole at every moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, result: Any) -> None:
    """Write JSON in place of what was there: whoever is cut off leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(fresh, path)


def writer(path: Path) -> Callable[[dict[str, Any]], None]:
    """Write each result that comes to ``path``."""
    return lambda result: write(path, result)


def read(path: Path) -> Any:
    """Read JSON; None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
