"""The one place where errors become HTTP: OpenAI's shape, a status, and a code for each named error."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engine import errors as engine_errors
from memory import errors as memory_errors
from server.schemas import MemoryOptions

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An error that a route raises itself. ``param`` names the field at fault."""

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, type: str = "invalid_request_error"
    ) -> None:
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.type = type
        super().__init__(message)


# Domain error -> (status, type, code). The first entry that the error is an instance of counts.
TABLE: tuple[tuple[type[Exception], int, str, str], ...] = (
    (memory_errors.NotFound, 404, "invalid_request_error", "not_found"),
    (memory_errors.Forbidden, 403, "invalid_request_error", "forbidden"),
    (memory_errors.InvalidMemory, 400, "invalid_request_error", "invalid_memory"),
    (memory_errors.UnreadableDocument, 400, "invalid_request_error", "unreadable_document"),
    (memory_errors.Conflict, 409, "invalid_request_error", "conflict"),
    (memory_errors.StorageFull, 507, "server_error", "storage_full"),
    (memory_errors.EmbedderError, 503, "server_error", "embedder_failed"),
    (memory_errors.RerankError, 503, "server_error", "reranker_failed"),
    (memory_errors.MemoryStoreError, 500, "server_error", "memory_store_failed"),
    (engine_errors.ContextTooLong, 400, "invalid_request_error", "context_length_exceeded"),
    (engine_errors.InvalidRequest, 400, "invalid_request_error", "invalid_request"),
    (engine_errors.QueueFull, 503, "server_error", "queue_full"),
    (engine_errors.EngineClosed, 503, "server_error", "shutting_down"),
    (engine_errors.EngineError, 500, "server_error", "engine_failed"),
)
_RETRY_AFTER = {503: {"Retry-After": "1"}}
_STATUS_CODES = {401: "invalid_api_key", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def error_body(message: str, type: str, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object. A message may quote half a surrogate pair, which no reply can hold."""
    message = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of any error. What is not in the table is a 500 that tells nothing of the inside."""
    if isinstance(error, ApiError):
        return error.status, error_body(error.message, error.type, error.code, error.param)
    for kind, status, type_, code in TABLE:
        if isinstance(error, kind):
            return status, error_body(str(error), type_, code, getattr(error, "param", None))
    return 500, error_body(
        "An internal error happened; the log has it under this request's id.", "server_error", "internal"
    )


def _respond(status: int, body: Mapping[str, Any]) -> JSONResponse:
    return JSONResponse(body, status, headers=_RETRY_AFTER.get(status))


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    status, body = describe(error)
    if status >= 500:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _respond(status, body)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _STATUS_CODES.get(error.status_code, "invalid_request")
    return _respond(error.status_code, error_body(str(error.detail), "invalid_request_error", code))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """400 with the path of the first field at fault (the values are not repeated: they may be private)."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        return _respond(400, error_body("The body is not valid JSON.", "invalid_request_error", "invalid_json"))
    message = f"{'.'.join(path) or 'body'}: {first['msg']}"
    if first["type"] == "extra_forbidden" and path[:-1] == ["memory"]:
        close = difflib.get_close_matches(path[-1], MemoryOptions.model_fields, 1, 0.4)
        message = f"There is no memory.{path[-1]}" + (f"; the nearest is memory.{close[0]}." if close else ".")
    return _respond(400, error_body(message, "invalid_request_error", "invalid_value", ".".join(path) or None))


def install(app: FastAPI) -> None:
    """Make every error of ``app`` leave in OpenAI's shape."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ApiError, _on_error)
    for kind, *_ in TABLE:
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(Exception, _on_error)
