"""Structured output and tool calls, through the official client and vLLM's own machinery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from engine.base import Delta, Tools
from engine.errors import UnsupportedModel
from engine.transformers import LoadedModel
from engine.vllm.tools import ToolParsing
from server.assets import demo_model_folder
from tests.server.running import Running, running

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


@pytest.fixture(scope="module")
def server(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(model, tmp_path_factory.mktemp("structured")) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_an_answer_follows_its_schema(client: openai.OpenAI) -> None:
    schema = WEATHER["function"]["parameters"]  # type: ignore[index]
    format: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    reply = client.chat.completions.create(**ASKED, max_tokens=120, response_format=format)
    answer = json.loads(reply.choices[0].message.content or "")
    assert answer["city"] in ("Rome", "Oslo")
    assert 1 <= answer["days"] <= 9
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["guided_json", "json_schema", "structured_outputs"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_other_names_of_a_schema_are_followed(server: Running, name: str, path: str) -> None:
    schema = WEATHER["function"]["parameters"]  # type: ignore[index]
    asked = {"prompt": "hi", **ASKED} if path == "/v1/completions" else ASKED
    wish = {name: {"json": schema} if name == "structured_outputs" else schema}
    (choice,) = server.client.post(path, json={**asked, **wish, "max_tokens": 120}).json()["choices"]
    answer = json.loads(choice["message"]["content"] if "message" in choice else choice["text"])
    assert answer["city"] in ("Rome", "Oslo")


def test_a_schema_that_cannot_be_followed_is_a_bad_request(client: openai.OpenAI) -> None:
    format: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASKED, max_tokens=10, response_format=format)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_asked_for_is_made(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    asked = {**ASKED, "max_tokens": 160, "tools": [WEATHER], "tool_choice": choice}
    if stream:
        deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
        (part,) = [call for delta in deltas for call in delta.delta.tool_calls or ()]
        assert part.function is not None
        name, arguments, reason = part.function.name, part.function.arguments, deltas[-1].finish_reason
    else:
        choice_ = client.chat.completions.create(**asked).choices[0]
        (call,) = choice_.message.tool_calls or []
        assert choice_.message.content is None
        assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
        name, arguments, reason = call.function.name, call.function.arguments, choice_.finish_reason
    assert name == "weather"
    assert json.loads(arguments or "")["city"] in ("Rome", "Oslo")
    assert reason == "tool_calls"


def test_choices_that_cannot_be_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tool parser"):
        client.chat.completions.create(**ASKED, max_tokens=5, tools=[WEATHER])  # type: ignore[list-item]
    other: Any = {"type": "function", "function": {"name": "other"}}
    with pytest.raises(openai.BadRequestError, match="not among"):
        client.chat.completions.create(**ASKED, max_tokens=5, tools=[WEATHER], tool_choice=other)  # type: ignore[list-item]
    with pytest.raises(UnsupportedModel, match="no such"):
        ToolParsing("no such", None)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_calls_are_read_from_text_by_vllms_parser(size: int) -> None:
    """What a model of the Hermes kind writes, in pieces of any size."""
    call = {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}
    text = f"Let me look.<tool_call>\n{json.dumps(call)}\n</tool_call>"
    tokenizer = AutoTokenizer.from_pretrained(demo_model_folder())
    readers = ToolParsing("hermes", tokenizer).readers(Tools((WEATHER,)))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    deltas = [
        readers.read(Delta(0, piece, tuple(tokenizer.encode(piece)), (), "stop" if i == len(pieces) - 1 else None))
        for i, piece in enumerate(pieces)
    ]
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert "".join(delta.text for delta in deltas).strip() == "Let me look."
    assert [call.name for call in calls if call.name] == ["weather"]
    assert json.loads("".join(call.arguments for call in calls)) == call["arguments"]
    assert deltas[-1].finish_reason == "tool_calls"


def test_tools_turns_come_back_into_the_prompt(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns: Any = [
        {"role": "user", "content": "How is it in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It snows."},
    ]
    reply = client.chat.completions.create(model="tiny", messages=turns, max_tokens=3)
    assert reply.usage is not None
    assert reply.usage.completion_tokens >= 1
