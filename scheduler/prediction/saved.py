"""A small state that survives restarts: one JSON file, replaced as a whole."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` in place of what ``path`` holds. Raises ``OSError``."""
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        json.dump(state, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_state(path: Path) -> dict[str, Any] | None:
    """Read what ``write_state`` wrote; None where there is none, or nothing that can be read."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read and is left aside: %s", path.name, error)
        return None
    return state if isinstance(state, dict) else None
