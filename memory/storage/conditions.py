"""Conditions on memories, as a tree: what a filter says (``memory.search.filters`` reads it), for a backend to apply.

Fields are a memory's own (``OWN_FIELDS``), ``tags``, and keys of the metadata; a key with dots is looked for as it is,
then as a path of keys. ``memory.search.filters`` says which values a field has and when one of them meets a condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

TIMES = ("created_at", "updated_at", "event_at", "expires_at", "valid_until")
TEXTS = ("id", "kind", "owner", "author", "agent", "session", "slot")
OWN_FIELDS = frozenset({*TIMES, *TEXTS, "importance", "status", "pinned"})

Operand: TypeAlias = str | int | float | bool
Comparison = Literal["in", "gt", "gte", "lt", "lte", "contains", "icontains"]


@dataclass(frozen=True)
class All:
    """Each of the parts holds; of none: always."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """One of the parts holds; of none: never."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Condition


@dataclass(frozen=True)
class Present:
    """The field has a value."""

    field: str


@dataclass(frozen=True)
class Meets:
    """One of the field's values is one of ``operands`` (``in``), or compares so with the only one."""

    field: str
    op: Comparison
    operands: tuple[Operand, ...]


Condition: TypeAlias = All | AnyOf | Not | Present | Meets
EVERYTHING = All(())


def metadata_key(field: str) -> str | None:
    """Return the key of the metadata that a field names; None for ``tags`` and a memory's own fields."""
    if field == "tags" or field in OWN_FIELDS:
        return None
    section, _, rest = field.partition(".")
    return rest if section in ("metadata", "info") and rest else field
