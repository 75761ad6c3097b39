"""Types of fields that several bodies have."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from memory.dates import EARLIEST, LATEST
from server.http.bodies import encodable_as_it_is


def _encodable(text: str) -> str:
    if not encodable_as_it_is(text):
        raise ValueError("the text holds a lone surrogate")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Seconds = Annotated[float, Field(ge=EARLIEST, le=LATEST)]
"""Unix seconds, within the calendar."""
StopText = Annotated[Text, StringConstraints(min_length=1, max_length=1000)]


def _schema(value: Any) -> Any:
    """Read a JSON schema, which some clients send as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("must be a JSON schema") from error


Schema = Annotated[dict[str, Any], BeforeValidator(_schema)]


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_encodable)
]
"""An id or a name, without white space around it."""
Time = str | float
"""ISO 8601, or Unix seconds."""
