"""Conditions as SQL over the table ``memories m``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory.storage.conditions import TEXTS, TIMES, All, AnyOf, Condition, Meets, Not, Operand, Present, metadata_key

# What has expired is archived from that second on, also before the next round of chores.
_STATUS = "(CASE WHEN m.status = 'active' AND m.expires_at <= unix_now() THEN 'archived' ELSE m.status END)"
_TEXT, _NUMBER, _TRUE, _FALSE = ("text",), ("integer", "real"), ("true",), ("false",)
# A memory's own fields: the column, and the type of what is in it.
_COLUMNS = {
    **{name: (f"m.{name}", _TEXT) for name in TEXTS},
    **{name: (f"m.{name}", _NUMBER) for name in (*TIMES, "importance")},
    "status": (_STATUS, _TEXT),
    "pinned": ("m.pinned", (*_TRUE, *_FALSE)),
}
_ORDERED = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_FEW = 16  # operands that are quicker compared one by one

Sql = tuple[str, list[Any]]
"""A condition that is true or false, never null, and the values of its question marks."""
Test = tuple[tuple[str, ...], str, list[Any]]
"""A test of one value: the types (as ``json_type`` names them) that can pass, and SQL with ``{v}`` for it."""
Tests = tuple[list[Test], list[Test]]
"""Tests of an element of a list, and of a single value."""
_NEVER: Sql = ("0", [])
_ALWAYS: Sql = ("1", [])


def compiled(condition: Condition) -> Sql:
    """Return a condition as SQL, and its values."""
    match condition:
        case All(parts):
            return _joined("AND", [compiled(part) for part in parts]) if parts else _ALWAYS
        case AnyOf(parts):
            return _joined("OR", [compiled(part) for part in parts])
        case Not(part):
            return _negated(compiled(part))
        case Present(field):
            return _field(field, None)
        case Meets(field):
            return _field(field, _tests(condition))


# -- what a value is tested by ---------------------------------------------------------------------------------


def _tests(condition: Meets) -> Tests:
    if condition.op == "in":
        return (test := _equal(condition.operands)), test
    (value,) = condition.operands
    if condition.op in _ORDERED:
        types = _TEXT if isinstance(value, str) else _NUMBER
        ordered: list[Test] = [(types, f"{{v}} {_ORDERED[condition.op]} ?", [value])]
        return ordered, ordered
    if condition.op == "contains":
        part: list[Test] = [(_TEXT, "instr({v}, ?) > 0", [value])] if isinstance(value, str) else []
        return _equal((value,)), part
    folded = str(value).casefold()
    return [(_TEXT, "casefold({v}) = ?", [folded])], [(_TEXT, "instr(casefold({v}), ?) > 0", [folded])]


def _equal(wanted: Sequence[Operand]) -> list[Test]:
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


# -- where the values are --------------------------------------------------------------------------------------


def _field(name: str, tests: Tests | None) -> Sql:
    """Return the condition that one of a field's values passes one of the tests (None: that there is one)."""
    elements, single = (None, None) if tests is None else tests
    if name == "tags":
        return _elements("m.tags", [], elements)
    key = metadata_key(name)
    if key is None:
        column, types = _COLUMNS[name]
        return _column(column, types, single)
    parts = key.split(".")
    whole = _path([key])
    if len(parts) == 1 or not all(parts):
        return _metadata(whole, elements, single)
    return _first_of(whole, _path(parts), elements, single)


def _path(keys: Sequence[str]) -> str:
    """Return a path in SQLite's words. Keys are written as they are in the rows, where ``json.dumps`` has escaped
    them."""
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
    """Return the condition that one of a list's elements passes."""
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
