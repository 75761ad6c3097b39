"""Asking a language model for JSON: whom to ask, how data is told, and what is found in an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx

from memory.errors import CompletionError

Complete = Callable[[list[dict[str, str]], dict[str, Any]], str]
"""Chat messages and the JSON schema of the answer, to the answer. Raises ``CompletionError``."""

_MAX_ANSWER_CHARS = 200_000
# An answer made of braces must not take long.
_TRIES = 20
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*$", re.MULTILINE)


def quoted(value: Any) -> str:
    """Return JSON in which no chat template's special tokens (``<|im_end|>``, ``[INST]``) can stand."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace("[", "\\u005b")


# -- what a model answers --------------------------------------------------------------------------------------


def objects_in(answer: str, name: str, mark: str, at_most: int) -> list[Any] | None:
    """Return the list ``name`` of an answer: as it stands, out of fences and talk, or its first ``at_most`` items up to
    where it was cut off. A lone object that has the field ``mark`` is a list of one. None where there is nothing of the
    kind."""
    text = _FENCE.sub("", _THOUGHT.sub("", answer[:_MAX_ANSWER_CHARS])).strip()
    begin = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if begin < 0:
        return None
    end = max(text.rfind("}"), text.rfind("]")) + 1
    try:
        return _listed(json.loads(text[begin:end]), name, mark)
    except (ValueError, RecursionError):
        return _whole_items(text, begin, name, mark, at_most)


def _listed(parsed: Any, name: str, mark: str) -> list[Any] | None:
    if isinstance(parsed, list):
        return parsed
    if not isinstance(parsed, dict):
        return None
    if mark in parsed:
        return [parsed]
    wanted = parsed.get(name)
    if isinstance(wanted, list):
        return wanted
    return next((value for value in parsed.values() if isinstance(value, list)), None)


def _whole_items(text: str, begin: int, name: str, mark: str, at_most: int) -> list[Any] | None:
    """Return the objects of the first list that are whole, where the text around them is not JSON."""
    decoder = json.JSONDecoder()
    items: list[Any] = []
    at = text.find("[", begin)
    at = begin - 1 if at < 0 else at
    tries = _TRIES
    while tries and len(items) < at_most and (at := text.find("{", at + 1)) >= 0:
        try:
            item, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            tries -= 1
            continue
        items += _listed(item, name, mark) or [item]
        at = end - 1
    return items or None


# -- who answers -----------------------------------------------------------------------------------------------


class EndpointCompleter:
    """Any endpoint that speaks OpenAI's ``/chat/completions``. ``url`` ends before ``/chat/completions``."""

    def __init__(
        self, url: str, model: str, api_key: str | None = None, *, timeout_s: float = 60.0, max_tokens: int = 2048
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s)
        self._body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": max_tokens}
        self._structured = True

    def __call__(self, messages: list[dict[str, str]], schema: dict[str, Any]) -> str:
        body = {**self._body, "messages": messages}
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        try:
            reply = self._post({**body, "response_format": wanted} if self._structured else body)
            if reply.status_code == 400 and self._structured:
                reply = self._post(body)
                # Only if that was what it refused: a prompt that is too long is no reason to ask for less.
                self._structured = not reply.is_success
            reply.raise_for_status()
            content = reply.json()["choices"][0]["message"]["content"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            status = f" {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
            raise CompletionError(f"the endpoint failed: {type(error).__name__}{status}") from error
        if not isinstance(content, str):
            raise CompletionError("the endpoint answered with no text")
        return content

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        return self._client.post("/chat/completions", json=body)
