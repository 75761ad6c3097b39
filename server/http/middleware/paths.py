"""Paths as clients write them, made those that routes are declared with.

Doubled slashes and a missing or added last one make no difference. Nothing is redirected: clients drop bodies or keys
on the way. An encoded slash is part of a name and separates nothing: the application below gets it still encoded, with
``%`` and control characters, in ``path``, so that routes are found by the segments that were sent; the names that
routes get are decoded in full.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from starlette.convertors import Convertor
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALLOWED = "recallkv.allowed"
"""In the scope of a request whose path has no route for its method: those that it has, as ``Allow`` lists them."""

_NOT_IN_SEGMENTS = re.compile(r"[%/\x00-\x1f\x7f]")


class _Decoded(Convertor[str]):
    """Another convertor, for a value that is still encoded; of a route whose pattern has been made."""

    regex = ""

    def __init__(self, inner: Convertor[str]) -> None:
        self._inner = inner

    def convert(self, value: str) -> str:
        return self._inner.convert(unquote(value))

    def to_string(self, value: str) -> str:
        return self._inner.to_string(value)


def decode_names(routes: Iterable[BaseRoute]) -> None:
    """Have routes decode what of a path is theirs."""
    for route in routes:
        if isinstance(route, Route):
            route.param_convertors = {name: _Decoded(found) for name, found in route.param_convertors.items()}


class _Table:
    """The methods of each path. Paths end with a slash where their routes are declared so."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._fixed: dict[str, set[str]] = {}
        self._patterns: dict[bool, list[tuple[re.Pattern[str], set[str]]]] = {False: [], True: []}
        for route in routes:
            if not isinstance(route, Route):
                continue
            methods = set(route.methods or ())
            if route.param_convertors:
                self._patterns[route.path.endswith("/")].append((route.path_regex, methods))
            else:
                self._fixed.setdefault(route.path, set()).update(methods)

    def methods(self, path: str) -> set[str]:
        """Return all methods of a path."""
        found = set(self._fixed.get(path, ()))
        return found.union(*(own for regex, own in self._patterns[path.endswith("/")] if regex.match(path)))

    def serves(self, path: str, method: str) -> bool:
        """Tell if the path has the method."""
        return method in self._fixed.get(path, ()) or method in self.methods(path)


class Paths:
    """Gives every request the path of a route, before anything else looks at it. A HEAD request is a GET request whose
    body is not sent."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._table = _Table(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        found = {**scope, "method": "GET" if head else scope["method"]}
        segments = [segment for segment in _raw_path(scope).split(b"/") if segment]
        plain = "".join("/" + _decoded(segment) for segment in segments)
        slash = _raw_path(scope).endswith(b"/")
        forms = (plain + "/", plain) if slash or not plain else (plain, plain + "/")
        found["path"] = self._chosen(forms, found)
        found["raw_path"] = b"".join(b"/" + segment for segment in segments) + b"/" * found["path"].endswith("/")
        await self._app(found, receive, _without_body(send) if head else send)

    def _chosen(self, forms: tuple[str, str], scope: Scope) -> str:
        """Choose the form that has a route for the method, else the first that has one at all, else the first."""
        for form in forms:
            if self._table.serves(form, scope["method"]):
                return form
        methods: Mapping[str, set[str]] = {form: self._table.methods(form) for form in forms}
        allowed = set().union(*methods.values())
        if allowed:
            allowed |= {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
            scope[ALLOWED] = ", ".join(sorted(allowed))
        return next((form for form in forms if methods[form]), forms[0])


def _raw_path(scope: Scope) -> bytes:
    raw: bytes = scope.get("raw_path") or quote_from_bytes(scope["path"].encode()).encode()
    return raw.partition(b"?")[0]


def _decoded(segment: bytes) -> str:
    """Return a segment's text, in which the characters that have a meaning in paths are encoded."""
    text = unquote_to_bytes(segment).decode("utf-8", "replace")
    return _NOT_IN_SEGMENTS.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _without_body(send: Send) -> Send:
    """Make a channel that ends an answer where its body begins."""
    ended = False

    async def send_head(message: Message) -> None:
        nonlocal ended
        if ended:
            return
        ended = message["type"] == "http.response.body"
        await send({"type": "http.response.body", "body": b""} if ended else message)

    return send_head
