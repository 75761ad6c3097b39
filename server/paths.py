"""Ids in paths. An id may hold slashes: ``%2F`` is a part of it, ``/`` stands between the parts of a path."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

from server.schemas import Name

# Stands for a slash of an id while a route is looked for: Unicode has this one for use inside a program only.
_SLASH = "\ufdd0"
# Nothing follows the id there, so that all slashes are its own; clients that do not quote are understood.
_ENTITY = re.compile(r"/+v2/+entities/+(user|agent|run|app)/+(.+?)/?$")

PathName = Annotated[Name, AfterValidator(lambda name: name.replace(_SLASH, "/").strip())]
"""A name that stands in a path."""


class Slashes:
    """Keeps the slashes of ids apart from those of the path. To be the last that sees a request before the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = told_apart(scope["path"], scope.get("raw_path") or b"")
        await self._app(scope, receive, send)


def told_apart(path: str, raw_path: bytes) -> str:
    """The decoded path, with a sign of its own for each slash of an id. ``raw_path`` is the path as it was sent."""
    raw = raw_path.decode("ascii", "replace").partition("?")[0]
    entity = _ENTITY.search(raw)
    if entity is not None:
        kind, id = entity.groups()
        return f"/v2/entities/{kind}/{unquote(id).replace('/', _SLASH)}/"
    if "%2f" not in raw.lower():
        return path
    parts = [unquote(part).replace("/", _SLASH) for part in raw.split("/")]
    return re.sub("/+", "/", "/".join(parts))
