"""Filters of a search or a list: JSON in, SQL out. One rule for every dialect.

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

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memory.checks import checked_time, unstorable
from memory.errors import InvalidMemory

_TIMES = ("created_at", "updated_at", "event_at", "expires_at", "valid_until")
# What has expired is archived from that second on, also before the next round of chores.
_STATUS = "(CASE WHEN m.status = 'active' AND m.expires_at <= unix_now() THEN 'archived' ELSE m.status END)"
_TEXT, _NUMBER, _TRUE, _FALSE = ("text",), ("integer", "real"), ("true",), ("false",)
# A memory's own fields: the column, and the type of what is in it.
_COLUMNS = {
    **{name: (f"m.{name}", _TEXT) for name in ("id", "kind", "owner", "author", "agent", "session", "slot")},
    **{name: (f"m.{name}", _NUMBER) for name in (*_TIMES, "importance")},
    "status": (_STATUS, _TEXT),
    "pinned": ("m.pinned", (*_TRUE, *_FALSE)),
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
_NEGATED = {"ne": "eq", "nin": "in"}
_ORDERED = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_FEW = 16  # operands that are quicker compared one by one
_MAX_DEPTH = 8
_MAX_CONDITIONS = 100
_PAST_INTEGERS = 1 << 63
"""SQLite's integers have 64 bits."""

Sql = tuple[str, list[Any]]
"""A condition that is true or false, never null, and the values of its question marks."""
Test = tuple[tuple[str, ...], str, list[Any]]
"""What one value is tested by: the types (as ``json_type`` names them) that can pass, and SQL with ``{v}`` for it."""
_NEVER: Sql = ("0", [])


def compile_filter(node: Mapping[str, Any]) -> Sql:
    """A condition on the table ``memories m``, and its values. Raises ``InvalidMemory``."""
    return _Compiler().all_of(node)


class _Compiler:
    def __init__(self) -> None:
        self._conditions = 0

    def all_of(self, node: Any, depth: int = 0) -> Sql:
        if not isinstance(node, Mapping) or depth > _MAX_DEPTH:
            raise InvalidMemory(f"A filter is an object, nested at most {_MAX_DEPTH} deep.", "filter")
        if not node and depth:
            raise InvalidMemory("A filter inside another one says something.", "filter")
        parts = [self._entry(str(key), value, depth) for key, value in node.items()]
        return _joined("AND", parts) if parts else ("1", [])

    def _entry(self, key: str, value: Any, depth: int) -> Sql:
        word = key.lower()
        if word in ("and", "or", "not"):
            nodes = value if isinstance(value, list) or word != "not" else [value]
            if not isinstance(nodes, list) or not nodes:
                raise InvalidMemory(f"'{word}' takes a list of filters.", "filter")
            inner = [self.all_of(part, depth + 1) for part in nodes]
            return _negated(_joined("OR", inner)) if word == "not" else _joined(word.upper(), inner)
        if key in ("metadata", "info") and isinstance(value, Mapping):
            return self.all_of({f"metadata.{name}": wanted for name, wanted in value.items()}, depth + 1)
        operators = value if isinstance(value, Mapping) else {"in" if isinstance(value, list) else "eq": value}
        if not operators:
            raise InvalidMemory(f"'{key}' is compared with nothing.", "filter")
        return _joined("AND", [self._condition(key, str(op), operand) for op, operand in operators.items()])

    def _condition(self, key: str, op: str, operand: Any) -> Sql:
        self._conditions += 1
        if self._conditions > _MAX_CONDITIONS:
            raise InvalidMemory(f"A filter has at most {_MAX_CONDITIONS} conditions.", "filter")
        if op in _NEGATED:
            return _negated(self._condition(key, _NEGATED[op], operand))
        name = _ALIASES.get(key, key)
        field = _field(name)
        if op == "eq" and operand is None:
            return _negated(field(None, None))
        if op == "eq" and operand == "*":
            return field(None, None)
        if op == "eq" and isinstance(operand, list):
            op = "in"
        many = op in ("in", "all")
        if many and not isinstance(operand, list):
            operand = [operand]
        wanted = [_operand(name, item) for item in (operand if many else [operand])]
        if op == "all" and wanted:
            return _joined("AND", [field(test := _equal([item]), test) for item in wanted])
        tests = _tests(op, wanted)
        if tests is None:
            raise InvalidMemory(f"'{op}' is no operator for '{key}', or its value is of the wrong type.", "filter")
        return field(*tests)


# -- what a value is tested by ---------------------------------------------------------------------------------


def _tests(op: str, wanted: Sequence[Any]) -> tuple[list[Test], list[Test]] | None:
    """Tests of an element of a list, and of a value that is none; None for an unknown operator or a wrong type."""
    if op in ("eq", "in"):
        return (test := _equal(wanted)), test
    (value,) = wanted if len(wanted) == 1 else (None,)
    if op in _ORDERED and isinstance(value, str | int | float) and not isinstance(value, bool):
        types = _TEXT if isinstance(value, str) else _NUMBER
        ordered: list[Test] = [(types, f"{{v}} {_ORDERED[op]} ?", [value])]
        return ordered, ordered
    if op == "contains" and value is not None:
        part: list[Test] = [(_TEXT, "instr({v}, ?) > 0", [value])] if isinstance(value, str) else []
        return _equal(wanted), part
    if op == "icontains" and isinstance(value, str):
        folded = value.casefold()
        return [(_TEXT, "casefold({v}) = ?", [folded])], [(_TEXT, "instr(casefold({v}), ?) > 0", [folded])]
    return None


def _equal(wanted: Sequence[Any]) -> list[Test]:
    texts = [item for item in wanted if isinstance(item, str)]
    numbers = [item for item in wanted if isinstance(item, int | float) and not isinstance(item, bool)]
    tests: list[Test] = []
    for types, items in ((_TEXT, texts), (_NUMBER, numbers)):
        if len(items) == 1:
            tests.append((types, "{v} = ?", items))
        elif 0 < len(items) <= _FEW:
            tests.append((types, f"{{v}} IN ({', '.join('?' * len(items))})", items))
        elif items:
            tests.append((types, "{v} IN (SELECT value FROM json_each(?))", [json.dumps(items)]))
    tests += [(types, "1", []) for types, truth in ((_TRUE, True), (_FALSE, False)) if any(i is truth for i in wanted)]
    return tests


def _operand(field: str, operand: Any) -> Any:
    if isinstance(operand, str) and unstorable(operand):
        raise InvalidMemory("A filter's texts hold no NUL and no lone surrogates.", "filter")
    if isinstance(operand, float) and not math.isfinite(operand):
        raise InvalidMemory("A filter's numbers are finite.", "filter")
    if field in _TIMES:
        if isinstance(operand, bool) or not isinstance(operand, str | int | float):
            raise InvalidMemory(f"'{field}' is compared with a time.", "filter")
        return checked_time(operand, "filter")[0]
    if isinstance(operand, int) and not isinstance(operand, bool) and not -(2**63) <= operand < 2**63:
        return _as_float(operand)
    if isinstance(operand, str) or (field != "tags" and isinstance(operand, int | float)):
        return operand
    raise InvalidMemory(f"'{field}' is compared with a text, a number or true and false.", "filter")


def _as_float(number: int) -> float:
    """A whole number beyond SQLite's, as SQLite reads it from JSON."""
    try:
        return float(number)
    except OverflowError as error:
        raise InvalidMemory("A filter's numbers are finite.", "filter") from error


# -- where the values are --------------------------------------------------------------------------------------

Field = Callable[[list[Test] | None, list[Test] | None], Sql]
"""The condition that one of a field's values passes one of the tests: of a list's elements, of a single value. None:
there is a value at all."""


def _field(name: str) -> Field:
    if name == "tags":
        return lambda elements, _: _elements("m.tags", [], elements)
    if name in _COLUMNS:
        column, types = _COLUMNS[name]
        return lambda _, single: _column(column, types, single)
    section, _, rest = name.partition(".")
    key = rest if section in ("metadata", "info") and rest else name
    parts = key.split(".")
    if not key or '"' in key or unstorable(key):
        raise InvalidMemory(f"'{name}' is no field.", "filter")
    whole = _path([key])
    if len(parts) == 1 or not all(parts):
        return lambda elements, single: _metadata(whole, elements, single)
    return lambda elements, single: _first_of(whole, _path(parts), elements, single)


def _path(keys: Sequence[str]) -> str:
    """A path in SQLite's words. Keys are written as they are in the rows, where ``json.dumps`` has escaped them."""
    return "$" + "".join(f".{json.dumps(key)}" for key in keys)


def _first_of(whole: str, path: str, elements: list[Test] | None, single: list[Test] | None) -> Sql:
    there, values = _metadata(whole, elements, single)
    nested, more = _metadata(path, elements, single)
    sql = f"CASE WHEN json_type(m.metadata, ?) IS NULL THEN {nested} ELSE {there} END"
    return sql, [whole, *more, *values]


def _column(column: str, types: tuple[str, ...], tests: list[Test] | None) -> Sql:
    if tests is None:
        return f"{column} IS NOT NULL", []
    sql: list[Sql] = []
    for wanted, test, values in tests:
        if not set(wanted) & set(types):
            continue
        if test == "1":  # true or false
            sql.append((f"{column} = {int(wanted == _TRUE)}", []))
        elif test == "{v} = ?":
            sql.append((f"{column} IS ?", values))
        else:
            sql.append((f"{column} IS NOT NULL AND {test.format(v=column)}", values))
    return _joined("OR", sql) if sql else _NEVER


def _metadata(path: str, elements: list[Test] | None, single: list[Test] | None) -> Sql:
    of_list, values = _elements("m.metadata, ?", [path], elements)
    sql = f"CASE json_type(m.metadata, ?) WHEN 'array' THEN {of_list}"
    values = [path, *values]
    if single is None:
        return f"{sql} WHEN 'null' THEN 0 ELSE json_type(m.metadata, ?) IS NOT NULL END", [*values, path]
    for types, test, more in single:
        for type in types:
            sql += f" WHEN '{type}' THEN {test.format(v='json_extract(m.metadata, ?)')}"
            values += ([] if test == "1" else [path]) + more
    return f"{sql} ELSE 0 END", values


def _elements(source: str, before: list[Any], tests: list[Test] | None) -> Sql:
    """The condition that one of a list's elements passes."""
    if tests is None:
        test: Sql = ("e.type != 'null'", [])
    else:
        typed = [(f"{_typed(types)} AND {sql.format(v='e.value')}", values) for types, sql, values in tests]
        test = _joined("OR", typed)
    return f"EXISTS (SELECT 1 FROM json_each({source}) e WHERE {test[0]})", [*before, *test[1]]


def _typed(types: Sequence[str]) -> str:
    return "e.type IN (" + ", ".join(f"'{type}'" for type in types) + ")"


def _joined(word: str, parts: Sequence[Sql]) -> Sql:
    if not parts:
        return _NEVER
    sql = f" {word} ".join(f"({part})" for part, _ in parts)
    return f"({sql})", [value for _, values in parts for value in values]


def _negated(condition: Sql) -> Sql:
    return f"(NOT {condition[0]})", condition[1]
