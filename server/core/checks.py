"""Checks of input before anything is begun, and conversion to memory's types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memory import Message, Said, new_message
from memory.checks import checked_message, checked_metadata, checked_tags, checked_time, storable
from memory.dates import LATEST
from memory.filters import compile_filter
from server.core.recalled import without_recalled


def message_of(
    text: str,
    role: str = "user",
    *,
    name: str | None = None,
    time: str | float | None = None,
    metadata: dict[str, Any] | None = None,
) -> Message:
    """Make a message of what a client sends, without memories that were recalled for it. ``time`` is ISO 8601 or Unix
    seconds. Raises ``InvalidMemory``."""
    at, offset = moment(time, "messages")
    return new_message(without_recalled(text, role), role, at, name, utc_offset=offset, metadata=metadata or {})


def checked_message_of(text: str, role: str, *, name: str | None = None, time: str | float | None = None) -> Message:
    """Make a message, and refuse now what could not be kept later. Raises ``InvalidMemory``."""
    return checked_message(message_of(text, role, name=name, time=time))


def answer_of(text: str) -> Message:
    """Make a message of a model's answer, which may hold what no text may."""
    return message_of(storable(text), "assistant")


def checked_said(said: Said) -> Said:
    """Check what several messages have in common. Raises ``InvalidMemory``."""
    checked_metadata(said.metadata or {})
    return replace(said, tags=checked_tags(list(said.tags)))


def check_filter(filter: Mapping[str, Any]) -> None:
    """Refuse a filter that cannot be understood. Raises ``InvalidMemory``."""
    compile_filter(filter)


def moment(value: str | float | None, param: str) -> tuple[float | None, int]:
    """Return a time as Unix seconds, and its clock's offset from UTC. Raises ``InvalidMemory``."""
    return (None, 0) if value is None else checked_time(value, param)


def unix_time(value: str | float | None, param: str) -> float | None:
    """Return a time as Unix seconds. Raises ``InvalidMemory``."""
    return moment(value, param)[0]


def within_calendar(at: float) -> float:
    """Return the time, or the last one that the calendar has."""
    return min(at, LATEST)
