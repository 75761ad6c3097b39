"""Filters of a search or a list: JSON in, a condition out (``memory.storage.conditions``). One
rule for every dialect.

``{"and": [F, ...]}``, ``{"or": [F, ...]}``, ``{"not": F}`` (of a list: none of them holds), or ``{field: value}`` and
``{field: {op: value}}`` with the operators below; several fields in one object must all hold. Fields are a memory's
own, ``tags``, and ``metadata.<key>`` (``info.<key>``, or ``{"metadata": {key: value}}``); a key with dots is looked for
as it is, then as a path of keys. Times are Unix seconds or ISO 8601.

**Values.** A field has the values that it lists: a list its elements, anything else itself, a missing field, null and
an empty list none. A condition holds where one of them meets it. Values meet only what is of their own type: text
(compared by code points, in the very case), number, true or false; an object meets nothing.

- ``eq``, ``in``: a value is equal to the operand, or to one of them. ``eq: null``: there is no value; ``eq: "*"``:
  there is one.
- ``gt``, ``gte``, ``lt``, ``lte``: of a number or a text, with a value of that type.
- ``contains``: an element of a list is equal to the operand; a text has it as a part. ``icontains``: the same, of
  texts, in whatever case.
- ``all``: each of these is one of the values.
- ``ne``, ``nin``, ``not``: what ``eq``, ``in`` and the filter inside do not let through, so also what lacks the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memory.checks import checked_time
from memory.errors import InvalidMemory
from memory.storage.conditions import TIMES, All, AnyOf, Condition, Meets, Not, Operand, Present, metadata_key
from memory.types import unstorable

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
_NEGATED = {"ne": "eq", "nin": "in"}
_MAX_DEPTH = 8
_MAX_CONDITIONS = 100


def parse_filter(node: Mapping[str, Any]) -> Condition:
    """Return the condition that a filter states. Raises ``InvalidMemory``."""
    return _Parser().all_of(node)


class _Parser:
    """Counts the conditions of one filter."""

    def __init__(self) -> None:
        self._conditions = 0

    def all_of(self, node: Any, depth: int = 0) -> Condition:
        """Return the condition that each entry of an object states."""
        if not isinstance(node, Mapping) or depth > _MAX_DEPTH:
            raise InvalidMemory(f"A filter is an object, nested at most {_MAX_DEPTH} deep.", "filter")
        if not node and depth:
            raise InvalidMemory("A filter inside another one says something.", "filter")
        return All(tuple(self._entry(str(key), value, depth) for key, value in node.items()))

    def _entry(self, key: str, value: Any, depth: int) -> Condition:
        word = key.lower()
        if word in ("and", "or", "not"):
            return self._combined(word, value, depth)
        if key in ("metadata", "info") and isinstance(value, Mapping):
            return self.all_of({f"metadata.{name}": wanted for name, wanted in value.items()}, depth + 1)
        operators = value if isinstance(value, Mapping) else {"in" if isinstance(value, list) else "eq": value}
        if not operators:
            raise InvalidMemory(f"'{key}' is compared with nothing.", "filter")
        return All(tuple(self._condition(key, str(op), operand) for op, operand in operators.items()))

    def _combined(self, word: str, value: Any, depth: int) -> Condition:
        nodes = value if isinstance(value, list) or word != "not" else [value]
        if not isinstance(nodes, list) or not nodes:
            raise InvalidMemory(f"'{word}' takes a list of filters.", "filter")
        inner = tuple(self.all_of(part, depth + 1) for part in nodes)
        if word == "not":
            return Not(AnyOf(inner))
        return All(inner) if word == "and" else AnyOf(inner)

    def _condition(self, key: str, op: str, operand: Any) -> Condition:
        self._conditions += 1
        if self._conditions > _MAX_CONDITIONS:
            raise InvalidMemory(f"A filter has at most {_MAX_CONDITIONS} conditions.", "filter")
        if op in _NEGATED:
            return Not(self._condition(key, _NEGATED[op], operand))
        field = _checked_field(_ALIASES.get(key, key))
        if op == "eq" and operand is None:
            return Not(Present(field))
        if op == "eq" and operand == "*":
            return Present(field)
        return _comparison(key, field, "in" if op == "eq" and isinstance(operand, list) else op, operand)


def _comparison(key: str, field: str, op: str, operand: Any) -> Condition:
    many = op in ("in", "all")
    items = operand if many and isinstance(operand, list) else [operand]
    wanted = tuple(_operand(field, item) for item in items)
    if op == "all" and wanted:
        return All(tuple(Meets(field, "in", (item,)) for item in wanted))
    if op in ("eq", "in"):
        return Meets(field, "in", wanted)
    if len(wanted) == 1 and _compares(op, wanted[0]):
        return Meets(field, op, wanted)  # type: ignore[arg-type]
    raise InvalidMemory(f"'{op}' is no operator for '{key}', or its value is of the wrong type.", "filter")


def _compares(op: str, value: Operand) -> bool:
    """Tell if a field can be compared with a value by an operator other than equality."""
    if op in ("gt", "gte", "lt", "lte"):
        return not isinstance(value, bool)
    return op == "contains" or (op == "icontains" and isinstance(value, str))


def _checked_field(name: str) -> str:
    """Return a field's name. Raises ``InvalidMemory``."""
    key = metadata_key(name)
    if key is not None and (not key or '"' in key or unstorable(key)):
        raise InvalidMemory(f"'{name}' is no field.", "filter")
    return name


def _operand(field: str, operand: Any) -> Operand:
    if isinstance(operand, str) and unstorable(operand):
        raise InvalidMemory("A filter's texts hold no NUL and no lone surrogates.", "filter")
    if isinstance(operand, float) and not math.isfinite(operand):
        raise InvalidMemory("A filter's numbers are finite.", "filter")
    if field in TIMES:
        if isinstance(operand, bool) or not isinstance(operand, str | int | float):
            raise InvalidMemory(f"'{field}' is compared with a time.", "filter")
        return checked_time(operand, "filter")[0]
    if isinstance(operand, int) and not isinstance(operand, bool) and not -(2**63) <= operand < 2**63:
        return _as_float(operand)
    if isinstance(operand, str) or (field != "tags" and isinstance(operand, int | float)):
        return operand
    raise InvalidMemory(f"'{field}' is compared with a text, a number or true and false.", "filter")


def _as_float(number: int) -> float:
    """Return a whole number of more than 64 bits as it is read from JSON in a store."""
    try:
        return float(number)
    except OverflowError as error:
        raise InvalidMemory("A filter's numbers are finite.", "filter") from error
