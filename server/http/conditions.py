"""Conditional requests: entity tags of what has revisions, ``If-Match`` and ``If-None-Match`` (RFC 9110, 13.1)."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Response

from memory import Cube, Memory
from server.http.describing import Responses
from server.http.errors import ApiError

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"{_TAG}(?:[ \t]*,[ \t]*(?:{_TAG})?)*")
_REVISION = re.compile("[1-9][0-9]{0,17}")
_ONE = re.compile(r'(W/)?"([^"]*)"')


T = TypeVar("T")

NOT_MODIFIED: Responses = {304: {"description": "The client has this revision"}}


def etag(found: Memory | Cube) -> str:
    """Return a strong tag of a memory or cube: its revision, in quotes."""
    return f'"{found.revision}"'


def tagged(response: Response, found: Memory | Cube) -> None:
    """Say in a reply which revision it shows."""
    response.headers["ETag"] = etag(found)


def _tags(request: Request, name: str) -> list[tuple[bool, str]] | None:
    """Return the tags of a header, each with whether it is weak; None when there is no such header, or any will do.
    Raises a 400 for what is no list of tags: a condition that is not understood must not be passed over."""
    given = ", ".join(request.headers.getlist(name)).strip(" \t,")
    if name not in request.headers or given == "*":
        return None
    if not _TAGS.fullmatch(given):
        raise ApiError(400, f'{name} is * or a list of entity tags in quotes, as "7".', "invalid_value", param=name)
    return [(bool(weak), tag) for weak, tag in _ONE.findall(given)]


def _if_match(request: Request) -> frozenset[int] | None:
    tags = _tags(request, "If-Match")
    return None if tags is None else frozenset(int(tag) for weak, tag in tags if not weak and _REVISION.fullmatch(tag))


Expected = Annotated[frozenset[int] | None, Depends(_if_match)]
"""The revisions that ``If-Match`` lets through; None: any. Weak tags match nothing."""


def shown(request: Request, response: Response, found: Memory | Cube, body: T) -> Response | T:
    """Give the reply to a GET: the body with its tag, or a 304 where ``If-None-Match`` has that. Raises a 400."""
    if _is_known(request, found):
        return Response(status_code=304, headers={"ETag": etag(found)})
    tagged(response, found)
    return body


def _is_known(request: Request, found: Memory | Cube) -> bool:
    """Tell if ``If-None-Match`` says that the client has this revision, so that a 304 will do. Raises a 400."""
    if "If-None-Match" not in request.headers:
        return False
    tags = _tags(request, "If-None-Match")
    return tags is None or any(tag == str(found.revision) for _, tag in tags)
