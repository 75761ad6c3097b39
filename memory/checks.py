"""Checks of what is to be stored. Each returns the value in the form that is stored, or raises ``InvalidMemory``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from memory.errors import InvalidMemory
from memory.language.dates import parse_time
from memory.types import FIDELITIES, KINDS, MAX_TEXT_CHARS, ROLES, MemoryKind, MemoryStatus, Message, unstorable

_MAX_METADATA_BYTES = 16_384
# With room for dates around them, which the calendar must have too.
_FIRST_TIME, _LAST_TIME = -6.21e10, 2.2e11
_MAX_TAGS = 64
_MAX_TAG_CHARS = 200


def storable(text: str) -> str:
    """Return what a model has written, with a sign in the place of what cannot be stored: it cannot be asked to mend
    it."""
    return text[:MAX_TEXT_CHARS].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def checked_text(text: str) -> str:
    """Check a memory's text; return it without white space around it."""
    text = text.strip()
    if not text:
        raise InvalidMemory("A memory's text is not empty.", "text")
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidMemory(f"A memory's text has at most {MAX_TEXT_CHARS} characters, not {len(text)}.", "text")
    if unstorable(text):
        raise InvalidMemory("A memory's text holds no NUL and no lone surrogates.", "text")
    return text


def checked_message(message: Message) -> Message:
    """Check a message, whose text may be empty; return it with a name that can be stored."""
    if message.role not in ROLES:
        raise InvalidMemory(f"'{message.role}' is no role; there are {', '.join(ROLES)}.", "messages")
    if len(message.text) > MAX_TEXT_CHARS or unstorable(message.text) or unstorable(message.author or ""):
        raise InvalidMemory(
            f"A message has at most {MAX_TEXT_CHARS} characters, no NUL, no lone surrogates.", "messages"
        )
    if not _FIRST_TIME < message.sent_at < _LAST_TIME:
        raise InvalidMemory("A message's time is in Unix seconds, between the years 2 and 9000.", "messages")
    checked_metadata(message.metadata)
    return replace(message, author=(message.author or "").strip()[:_MAX_TAG_CHARS] or None)


def checked_kind(kind: str) -> MemoryKind:
    """Check that a kind is known."""
    if kind not in KINDS:
        raise InvalidMemory(f"'{kind}' is not a kind of memory; there are {', '.join(KINDS)}.", "kind")
    return cast(MemoryKind, kind)


def checked_status(status: str) -> MemoryStatus:
    """Check that a status can be set."""
    if status not in ("active", "archived"):
        raise InvalidMemory("A status is set to active or archived; to delete, use delete.", "status")
    return cast(MemoryStatus, status)


def checked_fidelity(fidelity: str | None) -> str | None:
    """Check that a fidelity is known, or None."""
    if fidelity is not None and fidelity not in FIDELITIES:
        raise InvalidMemory(f"'{fidelity}' is no fidelity; there are {', '.join(FIDELITIES)}.", "fidelity")
    return fidelity


def checked_time(value: str | float, param: str) -> tuple[float, int]:
    """Return a time as Unix seconds, and its clock's offset from UTC in seconds (see
    ``memory.language.dates.parse_time``)."""
    try:
        return parse_time(value)
    except ValueError as error:
        raise InvalidMemory(str(error), param) from error


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Check tags; return each once."""
    if len(tags) > _MAX_TAGS or any(not tag or len(tag) > _MAX_TAG_CHARS or unstorable(tag) for tag in tags):
        raise InvalidMemory(f"There are at most {_MAX_TAGS} tags of 1 to {_MAX_TAG_CHARS} characters.", "tags")
    return tuple(dict.fromkeys(tags))


def checked_metadata(metadata: dict[str, Any]) -> str:
    """Check metadata; return them as JSON."""
    try:
        encoded = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidMemory("Metadata is a JSON object.", "metadata") from error
    if unstorable(json.dumps(metadata, ensure_ascii=False)):
        raise InvalidMemory("Metadata holds no lone surrogates.", "metadata")
    if len(encoded) > _MAX_METADATA_BYTES:
        raise InvalidMemory(f"Metadata has at most {_MAX_METADATA_BYTES} bytes as JSON.", "metadata")
    return encoded
