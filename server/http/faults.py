"""Faults of a request, in words of its own fields: a translation of pydantic's errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.http.bodies import FAULT, REFUSED, UNKNOWN, UNSUPPORTED

_MAX_KEY_CHARS = 100

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """The message and the code of an error; ``param`` is the path of the field at fault, None for the whole body."""

    message: str
    code: str
    param: str | None = None


# What a value should have been, by the type of pydantic's error: these say nothing of the value itself.
_KINDS = {
    "string_type": "text",
    "string_unicode": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


_LENGTHS = {
    "string_too_short": ("min_length", "least"),
    "too_short": ("min_length", "least"),
    "string_too_long": ("max_length", "most"),
    "too_long": ("max_length", "most"),
}


def fault_of(errors: Sequence[Mapping[str, Any]], body: Any) -> Fault:
    """Say what the first fault is. ``errors`` are pydantic's entries, with FastAPI's place in front; ``body`` is what
    was sent, as far as it could be read. Values are never repeated: they may be private."""
    first = errors[0]
    if first["type"] == "json_invalid":
        place, reason = first["loc"][-1], first.get("ctx", {}).get("error", "")
        return Fault(f"The body is not valid JSON: {reason} at character {place}.", "invalid_json")
    if first["loc"] == ("body",) and (first["type"] == "missing" or isinstance(body, bytes)):
        return Fault("The body is empty: this route takes JSON.", "invalid_value")
    same = _same_value(errors, body)
    path, chosen = max(same, key=lambda found: _fits(found[1], len(found[0])))
    return _fault(path, chosen, [error for at, error in same if at == path])


def _same_value(errors: Sequence[Mapping[str, Any]], body: Any) -> list[tuple[Path, Mapping[str, Any]]]:
    """Return the first error, with those of the other branches where it is of a union: paths without names of
    branches."""
    found = [(*_path(error, body), error) for error in errors]
    branch = found[0][1]
    if branch is None:
        return [(found[0][0], errors[0])]
    begin = errors[0]["loc"][:branch]
    return [(path, error) for path, _, error in found if error["loc"][:branch] == begin and len(error["loc"]) >= branch]


def _path(error: Mapping[str, Any], body: Any) -> tuple[Path, int | None]:
    """Return the path of an error in what was sent, and the place in its ``loc`` of the first name of a union's
    branch."""
    place, *steps = error["loc"]
    context = error.get("ctx", {})
    field = (context["field"],) if context.get("field") else ()
    if place != "body":  # a query's field, a header: there is nothing inside it
        return (*steps[:1], *field), None
    path: list[str | int] = []
    branch: int | None = None
    value = body
    for i, step in enumerate(steps, 1):
        last = i == len(steps)
        inside = isinstance(value, dict) and isinstance(step, str) and step in value
        if inside or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            path.append(step)
            value = value[step]
        elif last and error["type"] == "missing":
            path.append(step)
        elif branch is None:
            branch = i
    return (*path, *field), branch


def _fits(error: Mapping[str, Any], depth: int) -> tuple[int, int]:
    """Weigh how much an error says: ours most, one of a value of another kind least; then the deepest."""
    if error["type"] in (FAULT, UNSUPPORTED, REFUSED, UNKNOWN):
        return 2, depth
    literal_of_another_kind = error["type"] == "literal_error" and not isinstance(error.get("input"), str)
    return 0 if error["type"] in _KINDS or literal_of_another_kind else 1, depth


def _fault(path: Path, error: Mapping[str, Any], same: Sequence[Mapping[str, Any]]) -> Fault:
    """Put the error into words; ``same`` are those of all branches at its path, itself included."""
    words = error.get("ctx", {}).get("words", "")
    param = _dotted(path) or None
    if error["type"] == REFUSED:
        return Fault(f"{param} {words}", "unsupported", param)
    if error["type"] == UNKNOWN:
        nearest = f"; the nearest is {_dotted((*path[:-1], words))}" if words else ""
        return Fault(f"There is no {param}{nearest}.", "invalid_value", param)
    code = "unsupported" if error["type"] == UNSUPPORTED else "invalid_value"
    return Fault(f"{param or 'body'}: {words or _words(error, same)}", code, param)


def _words(error: Mapping[str, Any], same: Sequence[Mapping[str, Any]]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _KINDS or kind == "literal_error":
        wanted = f"must be {_joined([_wanted(one) for one in same if one['type'] in (*_KINDS, 'literal_error')])}"
        return f"each name in it {wanted}" if error["loc"][-1] == "[key]" else wanted
    if kind in _BOUNDS:
        bound, say = _BOUNDS[kind]
        return f"{say} {context[bound]}"
    if kind in _LENGTHS:
        return _length(*_LENGTHS[kind], context, "character" if isinstance(error["input"], str) else "item")
    if kind == "string_pattern_mismatch":
        return f"must be of the form {context['pattern']}"
    if kind == "value_error":
        return str(context["error"])
    return "this field is missing" if kind == "missing" else "is not valid"


def _wanted(error: Mapping[str, Any]) -> str:
    return str(error["ctx"]["expected"]) if error["type"] == "literal_error" else _KINDS[error["type"]]


def _length(bound: str, sign: str, context: Mapping[str, Any], unit: str) -> str:
    n = context[bound]
    if bound == "min_length" and n == 1:
        return "must not be empty"
    return f"must have at {sign} {n} {unit}{'' if n == 1 else 's'}"


def _joined(words: Sequence[str]) -> str:
    """Join alternatives to one phrase, each once."""
    *some, last = dict.fromkeys(words)
    return f"{', '.join(some)} or {last}" if some else last


def _dotted(path: Path) -> str:
    return ".".join(str(step)[:_MAX_KEY_CHARS] for step in path)
