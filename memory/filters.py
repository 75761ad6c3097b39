"""Filters of a search or a list: JSON in, SQL out.

``{"and": [F, ...]}``, ``{"or": [F, ...]}``, ``{"not": F}``, or ``{field: value}`` and ``{field: {op: value}}`` with the
operators below; several fields in one object must all hold. Fields are a memory's own, ``tags``, and
``metadata.<key>`` (or ``info.<key>``). Times are Unix seconds or ISO 8601.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from memory.checks import checked_time
from memory.errors import InvalidMemory

_TIMES = ("created_at", "updated_at", "event_at", "expires_at", "valid_until")
_FIELDS = {
    name: f"m.{name}"
    for name in (*_TIMES, "id", "kind", "status", "owner", "author", "agent", "session", "importance", "pinned", "slot")
}
# The names other servers use for the same.
_ALIASES = {
    "user_id": "owner",
    "agent_id": "agent",
    "run_id": "session",
    "session_id": "session",
    "conversation_id": "session",
    "create_time": "created_at",
    "update_time": "updated_at",
    "memory_type": "kind",
}
_COMPARE = {"eq": "=", "ne": "IS NOT", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_MAX_DEPTH = 8
_MAX_CONDITIONS = 100


class _Compiler:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self._conditions = 0

    def any_of(self, node: Any, depth: int = 0) -> str:
        if not isinstance(node, Mapping) or depth > _MAX_DEPTH:
            raise InvalidMemory(f"A filter is an object, nested at most {_MAX_DEPTH} deep.", "filter")
        parts = [self._entry(str(key), value, depth) for key, value in node.items()]
        return " AND ".join(f"({part})" for part in parts) or "1"

    def _entry(self, key: str, value: Any, depth: int) -> str:
        word = key.lower()
        if word in ("and", "or"):
            if not isinstance(value, list) or not value:
                raise InvalidMemory(f"'{word}' takes a list of filters.", "filter")
            return f" {word.upper()} ".join(f"({self.any_of(part, depth + 1)})" for part in value)
        if word == "not":
            nodes = value if isinstance(value, list) else [value]
            if not nodes:
                raise InvalidMemory("'not' takes a filter, or a list of them.", "filter")
            return " AND ".join(f"NOT ({self.any_of(part, depth + 1)})" for part in nodes)
        operators = value if isinstance(value, Mapping) else {"in" if isinstance(value, list) else "eq": value}
        return " AND ".join(self._condition(key, str(op), operand) for op, operand in operators.items()) or "1"

    def _condition(self, field: str, op: str, operand: Any) -> str:
        self._conditions += 1
        if self._conditions > _MAX_CONDITIONS:
            raise InvalidMemory(f"A filter has at most {_MAX_CONDITIONS} conditions.", "filter")
        field = _ALIASES.get(field, field)
        if field == "tags":
            return self._tags(op, operand)
        column, before = self._column(field)
        self.values += before
        if operand == "*" and op == "eq":
            return f"{column} IS NOT NULL"
        if operand is None and op in ("eq", "ne"):
            return f"{column} IS {'NOT ' if op == 'ne' else ''}NULL"
        if op in _COMPARE:
            self.values.append(self._operand(field, operand))
            return f"{column} {_COMPARE[op]} ?"
        if op in ("in", "nin") and isinstance(operand, list):
            self.values.append(json.dumps([self._operand(field, item) for item in operand]))
            return f"{column} {'NOT ' if op == 'nin' else ''}IN (SELECT value FROM json_each(?))"
        if op in ("contains", "icontains") and isinstance(operand, str):
            escaped = operand.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            self.values.append(f"%{escaped}%")
            return f"{column} LIKE ? ESCAPE '\\'"
        raise InvalidMemory(f"'{op}' is no operator for '{field}', or its value is of the wrong type.", "filter")

    def _tags(self, op: str, operand: Any) -> str:
        wanted = operand if isinstance(operand, list) else [operand]
        if op not in ("eq", "in", "contains", "all", "ne", "nin") or not all(isinstance(tag, str) for tag in wanted):
            raise InvalidMemory("Tags are filtered with eq, in, contains, all, ne or nin, and texts.", "filter")
        has = "EXISTS (SELECT 1 FROM json_each(m.tags) t WHERE t.value = ?)"
        self.values += wanted
        joined = (" AND " if op == "all" else " OR ").join([has] * len(wanted)) or "0"
        return f"NOT ({joined})" if op in ("ne", "nin") else joined

    @staticmethod
    def _column(field: str) -> tuple[str, list[Any]]:
        if field in _FIELDS:
            return _FIELDS[field], []
        section, _, path = field.partition(".")
        key = path if section in ("metadata", "info") and path else field
        if '"' in key or "\x00" in key:
            raise InvalidMemory(f"'{field}' is no field.", "filter")
        return "json_extract(m.metadata, ?)", [f'$."{key}"']

    @staticmethod
    def _operand(field: str, operand: Any) -> Any:
        if field in _TIMES:
            if isinstance(operand, bool) or not isinstance(operand, str | int | float):
                raise InvalidMemory(f"'{field}' is compared with a time.", "filter")
            return checked_time(operand, "filter")[0]
        if isinstance(operand, str | int | float | bool) and "\x00" not in str(operand):
            return operand
        raise InvalidMemory(f"'{field}' is compared with a text, a number or true and false.", "filter")


def compile_filter(node: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A condition on the table ``memories m``, and its values. Raises ``InvalidMemory``."""
    compiler = _Compiler()
    condition = compiler.any_of(node)
    return condition, compiler.values
