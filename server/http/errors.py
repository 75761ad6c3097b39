"""The one place where errors become HTTP: OpenAI's shape, a status, and a code for each named error."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from engine import errors as engine_errors
from memory import errors as memory_errors
from server.core import errors as core_errors
from server.http.bodies import encodable
from server.http.faults import fault_of
from server.http.middleware.paths import ALLOWED

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
    (memory_errors.KeyReused, 409, "invalid_request_error", "idempotency_key_reused"),
    (memory_errors.StillRunning, 409, "invalid_request_error", "idempotency_key_in_use"),
    (memory_errors.CutOff, 409, "invalid_request_error", "idempotency_cut_off"),
    (memory_errors.ReplyGone, 410, "invalid_request_error", "idempotency_reply_gone"),
    (memory_errors.Conflict, 409, "invalid_request_error", "conflict"),
    (memory_errors.StorageFull, 507, "server_error", "storage_full"),
    (memory_errors.EmbedderRefused, 400, "invalid_request_error", "invalid_value"),
    (memory_errors.EmbedderError, 503, "server_error", "embedder_failed"),
    (memory_errors.RerankError, 503, "server_error", "reranker_failed"),
    (memory_errors.MemoryStoreError, 500, "server_error", "memory_store_failed"),
    (engine_errors.ContextTooLong, 400, "invalid_request_error", "context_length_exceeded"),
    (engine_errors.InvalidRequest, 400, "invalid_request_error", "invalid_request"),
    (engine_errors.QueueFull, 503, "server_error", "queue_full"),
    (engine_errors.TooLargeForMemory, 400, "invalid_request_error", "kv_memory_exceeded"),
    (engine_errors.OutOfDeviceMemory, 503, "server_error", "out_of_device_memory"),
    (engine_errors.EngineClosed, 503, "server_error", "shutting_down"),
    (engine_errors.EngineError, 500, "server_error", "engine_failed"),
    (core_errors.ModelUnknown, 404, "invalid_request_error", "model_not_found"),
    (core_errors.Unsupported, 400, "invalid_request_error", "unsupported"),
    (core_errors.InvalidValue, 400, "invalid_request_error", "invalid_value"),
    (core_errors.InvalidMessages, 400, "invalid_request_error", "invalid_messages"),
    (core_errors.PromptTooLong, 400, "invalid_request_error", "context_length_exceeded"),
)
_RETRY_AFTER = {503: {"Retry-After": "1"}}
# Why the framework could not read a body, where it is not a matter of JSON's grammar.
_UNREADABLE: dict[type[BaseException], str] = {
    UnicodeDecodeError: "The body is not valid JSON: it is not text in UTF-8.",
    RecursionError: "The body is not valid JSON for this server: it is nested too deeply.",
    ValueError: "The body is not valid JSON for this server: a number in it is too long.",
}
# What the side store calls a field, and what dialects call it.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "name": ("cube_name", "principal", "mem_cube_id", "user_id"),
    "model": ("model_name", "model_name_or_path"),
    "text": ("memory_content", "content", "data", "feedback_content", "query"),
    "messages": ("history",),
    "filter": ("filters",),
    "metadata": ("info",),
    "tags": ("custom_tags",),
    "memory_ids": ("retrieved_memory_ids",),
    "at": ("feedback_time", "reference_time", "reference_date"),
    "event_at": ("timestamp",),
    "expires_at": ("expiration_date",),
}
_STATUS_CODES = {401: "invalid_api_key", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def error_body(message: str, type: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object. Half surrogate pairs, which a body may hold and no reply can, become question
    marks."""
    message, param = encodable(message), None if param is None else encodable(param)
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return status and body of any error. One that is not in the table is a 500 that tells nothing of the inside."""
    if isinstance(error, ApiError):
        return error.status, error_body(error.message, error.type, error.code, error.param)
    for kind, status, type_, code in TABLE:
        if isinstance(error, kind):
            body = error_body(str(error), type_, code, getattr(error, "param", None))
            if isinstance(error, memory_errors.Stale):
                body["error"]["revision"] = error.revision
            return status, body
    return 500, error_body(
        "An internal error happened; the log has it under this request's id.", "server_error", "internal"
    )


def _respond(status: int, body: Mapping[str, Any]) -> JSONResponse:
    return JSONResponse(body, status, headers=_RETRY_AFTER.get(status))


def _fields_of(route: object) -> frozenset[str]:
    """Return the names that a request to a route may hold."""
    if not isinstance(route, APIRoute):
        return frozenset()
    named = (*route.dependant.path_params, *route.dependant.query_params, *route.dependant.header_params)
    model = None if route.body_field is None else route.body_field.field_info.annotation
    return frozenset({field.alias for field in named} | getattr(model, "model_fields", {}).keys())


def _named_here(param: str | None, route: object) -> str | None:
    """Return the field at fault by the name that it has in this route's dialect; None where it has none."""
    if param is None or "." in param:
        return param
    fields = _fields_of(route)
    return next((name for name in (param, *_OTHER_NAMES.get(param, ())) if name in fields), None)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    status, body = describe(error)
    body["error"]["param"] = _named_here(body["error"]["param"], request.scope.get("route"))
    if status == 503:  # it passes, and says what it is
        log.warning("%s %s: %s", request.method, request.url.path, error)
    elif status >= 500:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _respond(status, body)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    for kind, told in _UNREADABLE.items():
        if isinstance(error.__cause__, kind):
            return _respond(400, error_body(told, "invalid_request_error", "invalid_json"))
    code = _STATUS_CODES.get(error.status_code, "invalid_request")
    response = _respond(error.status_code, error_body(str(error.detail), "invalid_request_error", code))
    if error.status_code == 405 and ALLOWED in request.scope:
        headers = {"Allow": request.scope[ALLOWED]}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        response.headers.update(headers)
    return response


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer 400 with the path of the first field at fault."""
    assert isinstance(error, RequestValidationError)
    fault = fault_of(error.errors(), error.body)
    return _respond(400, error_body(fault.message, "invalid_request_error", fault.code, fault.param))


def install(app: FastAPI) -> None:
    """Make every error of ``app`` leave in OpenAI's shape."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ApiError, _on_error)
    for kind, *_ in TABLE:
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(Exception, _on_error)
