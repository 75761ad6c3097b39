"""LlamaIndex, which works with openai 2, against a server process."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.clients import asking
from tests.clients.asking import MODEL, PROMPTS, TOKENS, TOO_LONG


class Dog(BaseModel):
    name: str


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def told(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=prompt)]


def receipt_of(raw: Any) -> Any:
    return (raw.model_extra or {}).get("memory")


class LlamaIndex:
    """OpenAILike as a chat model; the reply as it came is its ``raw``."""

    TOO_LONG = REFUSED = openai.BadRequestError
    SHOWS_RECEIPT = (True, True)

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1"

    def model(self, memory: dict[str, Any] | None = None, **more: Any) -> OpenAILike:
        fields: dict[str, Any] = {"is_chat_model": True, **more}
        if memory is not None:
            fields["additional_kwargs"] = {"extra_body": {"memory": memory}}
        return OpenAILike(
            model=MODEL,
            api_base=self._url,
            api_key="none",
            temperature=0,
            max_tokens=TOKENS,
            context_window=8192,
            max_retries=0,
            **fields,
        )

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        reply = self.model(memory).chat(told(prompt))
        return str(reply.message.content), receipt_of(reply.raw)

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        parts = list(self.model(memory).stream_chat(told(prompt)))
        receipts = [receipt_of(part.raw) for part in parts]
        return [str(part.delta) for part in parts], next((found for found in receipts if found is not None), None)

    def batch(self, prompts: list[str]) -> list[str]:
        async def ask() -> list[str]:
            model = self.model()
            replies = await asyncio.gather(*(model.achat(told(prompt)) for prompt in prompts))
            return [str(reply.message.content) for reply in replies]

        return asyncio.run(ask())

    def structured(self, prompt: str) -> Any:
        return self.model(should_use_structured_outputs=True).as_structured_llm(Dog).chat(told(prompt))

    def tools(self, prompt: str) -> Any:
        model = self.model(is_function_calling_model=True)
        return model.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=prompt)


@pytest.fixture
def client(url: str) -> LlamaIndex:
    return LlamaIndex(url)


def test_chat(client: LlamaIndex) -> None:
    asking.check_chat(client)


def test_streaming(client: LlamaIndex) -> None:
    asking.check_stream(client)


def test_memory(client: LlamaIndex, cube: str) -> None:
    asking.check_memory(client, cube)


def test_batch(client: LlamaIndex) -> None:
    asking.check_batch(client)


@pytest.mark.parametrize("way", ["chat", "stream"])
def test_an_over_long_prompt_is_told_from_other_errors(client: LlamaIndex, way: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        getattr(client, way)(TOO_LONG)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(("wish", "name"), [("structured", "response_format"), ("tools", "tools")])
def test_what_the_engine_cannot_do_is_refused_by_name(client: LlamaIndex, wish: str, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        getattr(client, wish)(PROMPTS[0])
    assert f"{name}: not supported" in str(caught.value)


def test_a_completion_model(client: LlamaIndex) -> None:
    model = client.model(is_chat_model=False)
    whole = model.complete(PROMPTS[1]).text
    assert whole
    assert "".join(str(part.delta) for part in model.stream_complete(PROMPTS[1])) == whole
