"""The base of all request bodies: null means absent, what cannot be done is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

FAULT, UNSUPPORTED, REFUSED, UNKNOWN = "fault", "unsupported", "refused", "unknown_field"
"""Kinds of our own errors. Their context has the field (of the model, or empty) and the words: of a fault, of what is
unsupported, what follows the name of a refused field, the nearest name to an unknown one."""


def fault(field: str, words: str, kind: str = FAULT) -> PydanticCustomError:
    """Make the error of a field (or a path, with dots) of the model that is being validated; an empty ``field`` is the
    model itself."""
    return PydanticCustomError(kind, "{words}", {"field": encodable(field), "words": words})


def encodable(text: str) -> str:
    """Put question marks for halves of surrogate pairs, which JSON can name, and no file and no reply can hold."""
    return text.encode(errors="replace").decode()


def lone_surrogate(value: Any, path: str = "") -> str | None:
    """Return the path of the first text or name in a JSON value that holds half a surrogate pair; None when there is
    none."""
    if isinstance(value, str):
        return None if value.isascii() or encodable_as_it_is(value) else path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        inner = f"{path}.{name}" if path else str(name)
        found = inner if isinstance(name, str) and not encodable_as_it_is(name) else lone_surrogate(item, inner)
        if found is not None:
            return found
    return None


def encodable_as_it_is(text: str) -> bool:
    """Tell if the text is free of halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Refusal:
    """A parameter that is known elsewhere, would change the answer, and is not done here.

    ``why`` says so in a user's words. ``harmless`` are values that ask for nothing, beside null, what is empty and
    (unless true is harmless) false; ``like`` names a whole number (default 1) that the value may be equal to.
    """

    why: str
    harmless: tuple[Any, ...] = ()
    like: str | None = None

    def lets_through(self, value: Any, beside: Mapping[str, Any]) -> bool:
        """Tell if the value asks for nothing; ``beside`` are all fields of the body."""
        if self.like is not None and _same(value, beside.get(self.like) or 1):
            return True
        off = not any(harmless is True for harmless in self.harmless)
        nothing = (None, "", [], {}, *((False,) if off else ()), *self.harmless)
        return any(_same(value, harmless) for harmless in nothing)


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does, where true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


class Body(BaseModel):
    """A request's body or an object in it.

    Null in an optional field is dropped before validation, so that it means what leaving the field out means, except in
    the fields of ``null_means``. A field of ``refused`` with a value that asks for something is refused by name, unless
    the model has a field of that name itself.
    """

    null_means: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[Mapping[str, Refusal]] = {}

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if (place := lone_surrogate(values)) is not None:
            raise fault(place, "the text holds a lone surrogate")
        given = {name: value for name, value in values.items() if value is not None or cls._keeps_null(name)}
        for name, value in given.items():
            refusal = None if name in cls.model_fields else cls.refused.get(name)
            if refusal is not None and not refusal.lets_through(value, given):
                raise fault(name, f"is not currently supported: {refusal.why}", REFUSED)
        if cls.model_config.get("extra") == "forbid":
            cls._check_known(given)
        return given

    @classmethod
    def _keeps_null(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return name in cls.null_means or field is None or field.is_required()

    @classmethod
    def _check_known(cls, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in cls.model_fields:
                nearest = difflib.get_close_matches(str(name), cls.model_fields, 1, 0.4)
                raise fault(name, nearest[0] if nearest else "", UNKNOWN)


class Strict(Body):
    """A body of our own: an unknown field is a mistake."""

    model_config = ConfigDict(extra="forbid")
