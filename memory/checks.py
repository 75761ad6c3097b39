"""What may be stored. Each check returns the value in the form that is stored, or raises ``InvalidMemory``."""

from __future__ import annotations

import json
from typing import Any, cast

from memory.errors import InvalidMemory
from memory.types import FIDELITIES, KINDS, MAX_TEXT_CHARS, MemoryKind, MemoryStatus

_MAX_METADATA_BYTES = 16_384


def unstorable(text: str) -> bool:
    """Whether a text holds what UTF-8 or SQLite cannot: lone surrogates or NUL."""
    return "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text)


def checked_text(text: str) -> str:
    """A memory's text, without white space around it."""
    text = text.strip()
    if not text:
        raise InvalidMemory("A memory's text is not empty.", "text")
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidMemory(f"A memory's text has at most {MAX_TEXT_CHARS} characters, not {len(text)}.", "text")
    if unstorable(text):
        raise InvalidMemory("A memory's text holds no NUL and no lone surrogates.", "text")
    return text


def checked_kind(kind: str) -> MemoryKind:
    """A known kind."""
    if kind not in KINDS:
        raise InvalidMemory(f"'{kind}' is not a kind of memory; there are {', '.join(KINDS)}.", "kind")
    return cast(MemoryKind, kind)


def checked_status(status: str) -> MemoryStatus:
    """A status that can be set."""
    if status not in ("active", "archived"):
        raise InvalidMemory("A status is set to active or archived; to delete, use delete.", "status")
    return cast(MemoryStatus, status)


def checked_fidelity(fidelity: str | None) -> str | None:
    """A known fidelity, or None."""
    if fidelity is not None and fidelity not in FIDELITIES:
        raise InvalidMemory(f"'{fidelity}' is no fidelity; there are {', '.join(FIDELITIES)}.", "fidelity")
    return fidelity


def checked_metadata(metadata: dict[str, Any]) -> str:
    """Metadata as JSON."""
    try:
        encoded = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidMemory("Metadata is a JSON object.", "metadata") from error
    if len(encoded) > _MAX_METADATA_BYTES:
        raise InvalidMemory(f"Metadata has at most {_MAX_METADATA_BYTES} bytes as JSON.", "metadata")
    return encoded
