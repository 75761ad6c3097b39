"""The description of the API (OpenAPI), as far as routes do not describe themselves."""

from __future__ import annotations

from typing import Any

from server.http.schemas.memory_replies import ErrorReply

Responses = dict[int | str, dict[str, Any]]

ERRORS: Responses = {
    400: {"model": ErrorReply, "description": "The request is not valid; `param` names the field at fault"},
    "default": {"model": ErrorReply, "description": "Any other error"},
}
"""What every route may reply. A default keeps the framework from promising its own 422, which is never sent."""


def documented(media_type: str) -> Responses:
    """Describe a successful reply that is a text or a file of this type (beside JSON, where the route has a model)."""
    return {200: {"content": {media_type: {"schema": {"type": "string"}}}}}
