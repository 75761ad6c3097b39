"""Talking to a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO

import httpx
import typer

Url = Annotated[str, typer.Option(envvar="RECALLKV_URL", help="Where the server is.")]
ApiKey = Annotated[str | None, typer.Option(envvar="RECALLKV_API_KEY", help="Key, where the server needs one.")]
DEFAULT_URL = "http://127.0.0.1:8000"


class ServerError(Exception):
    """The server cannot be reached, or says no."""


class Client:
    """A thin client that turns every failure into ``ServerError``."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float = 600.0) -> None:
        self._url = url
        self._timeout = httpx.Timeout(min(10.0, timeout_s), read=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def _open(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, headers=self._headers, timeout=self._timeout)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request, and return the reply's JSON."""
        with self._reachable(), self._open() as http:
            reply = http.request(method, path, **arguments)
        self._check(reply)
        try:
            return reply.json()
        except ValueError as error:
            raise ServerError(f"what answers at {self._url} is no RecallKV server") from error

    def save(self, path: str, into: BinaryIO, **arguments: Any) -> None:
        """Write the reply's bytes to a file."""
        with self._reachable(), self._open() as http, http.stream("GET", path, **arguments) as reply:
            if reply.status_code >= 400:
                reply.read()
                self._check(reply)
            for part in reply.iter_bytes():
                into.write(part)

    @contextmanager
    def stream(self, path: str, body: dict[str, Any]) -> Iterator[Iterator[str]]:
        """Yield the data of server-sent events, up to ``[DONE]``."""
        with self._reachable(), self._open() as http, http.stream("POST", path, json=body) as reply:
            if reply.status_code >= 400:
                reply.read()
                self._check(reply)
            yield (
                line.removeprefix("data: ")
                for line in reply.iter_lines()
                if line.startswith("data: ") and line != "data: [DONE]"
            )

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except httpx.InvalidURL as error:
            raise ServerError(f"{self._url} is not a URL: {error}") from error
        except UnicodeEncodeError as error:
            raise ServerError("the text is not valid UTF-8") from error
        except httpx.HTTPError as error:
            raise ServerError(
                f"no answer from {self._url} ({type(error).__name__}); is 'recallkv serve' running?"
            ) from error

    @staticmethod
    def _check(reply: httpx.Response) -> None:
        if reply.status_code < 400:
            return
        try:
            message = reply.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = reply.text[:200]
        raise ServerError(f"{reply.status_code}: {message}")
