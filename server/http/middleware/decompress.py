"""Bodies that come compressed, or as JSON under another name, made into what routes read."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.middleware.answers import CLOSE, header, refuse

# zlib's windows: with a gzip header, with a zlib header, without any.
_GZIP, _ZLIB, _RAW = 31, 15, -15
_TAKEN = ("gzip", "x-gzip", "deflate")
_PIECE_BYTES = 1 << 18


class UnreadableBody(Exception):
    """A compressed body is damaged or cut short."""


class _Inflater:
    """A body's data as it comes, a bounded piece at a time. Raises ``UnreadableBody``."""

    def __init__(self, encoding: str) -> None:
        self._window = 0 if encoding == "deflate" else _GZIP
        self._stream: Any = None
        self._left = b""

    def feed(self, data: bytes) -> None:
        """Take compressed data."""
        self._left += data

    def piece(self) -> bytes:
        """Return the next data, up to 256 KiB; empty when more must be fed first."""
        while True:
            if self._stream is None or self._stream.eof:  # the first member, or one more behind it
                if not self._left:
                    return b""
                self._stream = zlib.decompressobj(self._window or _window_of(self._left[0]))
            try:
                piece: bytes = self._stream.decompress(self._left, _PIECE_BYTES)
            except zlib.error as error:
                raise UnreadableBody("it is damaged") from error
            self._left = self._stream.unused_data or self._stream.unconsumed_tail
            if piece or not self._left:
                return piece

    def end(self) -> None:
        """Check that nothing is missing."""
        if self._stream is not None and not self._stream.eof:
            raise UnreadableBody("it is cut short")


def _window_of(first: int) -> int:
    """Return zlib's window: ``deflate`` means zlib's format; some clients send the bare stream."""
    return _ZLIB if first & 0x0F == 8 and first >> 4 <= 7 else _RAW


class Decompress:
    """Reads bodies with ``Content-Encoding`` gzip or deflate, in pieces: what bounds bodies behind it bounds what they
    hold. Damaged ones get 400, other encodings 415."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoding = (header(scope, b"content-encoding") or "").strip().lower() if scope["type"] == "http" else ""
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
            return
        if encoding not in _TAKEN:
            told = f"Content-Encoding may be gzip or deflate, not {encoding[:50]}; or send the body as it is."
            accepted = (b"accept-encoding", b"gzip, deflate")
            await refuse(send, 415, told, "unsupported_encoding", (accepted, *CLOSE), unread=receive)
            return
        body = _Body(_Inflater(encoding), receive, send)
        plain = [item for item in scope["headers"] if item[0] not in (b"content-encoding", b"content-length")]
        try:
            await self._app({**scope, "headers": plain}, body.receive, body.send)
        except UnreadableBody as error:
            told = f"The body is not valid {encoding}: {error}."
            await refuse(send, 400, told, "invalid_encoding", CLOSE, unread=body.unread)


class _Body:
    """The two ends of a connection, with the request's body decompressed until there is an answer."""

    def __init__(self, inflater: _Inflater, receive: Receive, send: Send) -> None:
        self._inflater = inflater
        self._receive = receive
        self._send = send
        self._more = True
        self._answered = False

    @property
    def unread(self) -> Receive | None:
        """Give the source of the rest of the body, if there is any."""
        return self._receive if self._more else None

    async def send(self, message: Message) -> None:
        self._answered = True
        await self._send(message)

    async def receive(self) -> Message:
        """Return a piece of the body as it was before compression; what comes behind an early answer, as it is."""
        if self._answered:
            return await self._receive()
        while not (piece := self._inflater.piece()) and self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._inflater.feed(message.get("body", b""))
            self._more = message.get("more_body", False)
        await asyncio.sleep(0)  # a piece takes a millisecond, and a body may have many
        if not piece:
            self._inflater.end()
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}


class _AsJson:
    """Reads a route's body as JSON whatever it is called, as curl and others send it without saying so.

    Web pages of other sites can send such bodies without asking, but not without ``Origin``: those must say that it is
    JSON, which makes a browser ask first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
        if given == "application/json" or (given.startswith("application/") and given.endswith("+json")):
            await self._app(scope, receive, send)
        elif header(scope, b"origin") is not None:
            await refuse(send, 415, "Send JSON, with Content-Type: application/json.", "unsupported_media_type")
        else:
            named = (b"content-type", b"application/json")
            headers = [named, *(item for item in scope["headers"] if item[0] != b"content-type")]
            await self._app({**scope, "headers": headers}, receive, send)


def read_as_json(app: FastAPI) -> None:
    """Let all routes with a JSON body read it under any content type."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.body_field is not None:
            route.app = _AsJson(route.app)
