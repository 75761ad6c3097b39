"""Clients that work with openai 3: the library itself, and what is built on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import agents
import instructor
import litellm
import openai
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from instructor.core.exceptions import InstructorRetryException
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import OpenAIContextOverflowError
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.asking import MODEL, TOKENS, WEATHER

T = TypeVar("T")
KEY = "none"
litellm.telemetry = False
agents.set_tracing_disabled(True)


class Dog(BaseModel):
    """What is asked for where an answer is to have a structure."""

    name: str


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def messages(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


def body(memory: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if memory is None else {"memory": memory}


def text_of(reply: Any) -> str:
    return str(reply.choices[0].message.content)


def receipt_of(reply: Any) -> Any:
    return (reply.model_extra or {}).get("memory")


def joined(chunks: list[Any]) -> tuple[list[str], Any]:
    """Texts and receipt of OpenAI's chunks."""
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    receipts = [receipt_of(chunk) for chunk in chunks]
    return texts, next((found for found in receipts if found is not None), None)


def with_client(url: str, use: Callable[[openai.AsyncOpenAI], Awaitable[T]]) -> T:
    """Use an async client in a loop of its own, and close it."""

    async def run() -> T:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            return await use(client)

    return asyncio.run(run())


class OpenAI:
    """openai, with its async client for several questions at once."""

    TOO_LONG = REFUSED = openai.BadRequestError
    SHOWS_RECEIPT = (True, True)

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1"
        self.client = openai.OpenAI(base_url=self._url, api_key=KEY, max_retries=0)

    def _ask(self, prompt: str, memory: dict[str, Any] | None = None, **more: Any) -> Any:
        return self.client.chat.completions.create(
            model=MODEL,
            messages=messages(prompt),
            temperature=0,
            max_tokens=TOKENS,
            extra_body=body(memory),
            **more,
        )

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        reply = self._ask(prompt, memory)
        return text_of(reply), receipt_of(reply)

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        with self._ask(prompt, memory, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
        assert chunks[-1].usage.completion_tokens > 0
        return joined(chunks)

    def batch(self, prompts: list[str]) -> list[str]:
        async def ask(client: openai.AsyncOpenAI) -> list[Any]:
            create = client.chat.completions.create
            asked = [
                create(model=MODEL, messages=messages(prompt), temperature=0, max_tokens=TOKENS) for prompt in prompts
            ]
            return await asyncio.gather(*asked)

        return [text_of(reply) for reply in with_client(self._url, ask)]

    def structured(self, prompt: str) -> Any:
        return self.client.chat.completions.parse(model=MODEL, messages=messages(prompt), response_format=Dog)

    def tools(self, prompt: str) -> Any:
        return self._ask(prompt, tools=[WEATHER])


class LangChain:
    """ChatOpenAI, which shows no fields of a reply that it does not know."""

    TOO_LONG = OpenAIContextOverflowError
    REFUSED = openai.BadRequestError
    SHOWS_RECEIPT = (False, False)

    def __init__(self, url: str) -> None:
        self._fields: dict[str, Any] = {
            "model": MODEL,
            "base_url": f"{url}/v1",
            "api_key": KEY,
            "temperature": 0,
            "max_tokens": TOKENS,
            "max_retries": 0,
        }

    def _model(self, memory: dict[str, Any] | None = None) -> ChatOpenAI:
        return ChatOpenAI(**self._fields, extra_body=body(memory))

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        return str(self._model(memory).invoke(prompt).content), None

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        return [str(chunk.content) for chunk in self._model(memory).stream(prompt)], None

    def batch(self, prompts: list[str]) -> list[str]:
        return [str(reply.content) for reply in self._model().batch(prompts)]

    def structured(self, prompt: str) -> Any:
        return self._model().with_structured_output(Dog).invoke(prompt)

    def tools(self, prompt: str) -> Any:
        return self._model().bind_tools([weather]).invoke(prompt)


class PydanticAI:
    """An agent; it shows no fields of a reply that it does not know."""

    TOO_LONG = REFUSED = ModelHTTPError
    SHOWS_RECEIPT = (False, False)

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1"

    def _run(self, prompts: list[str], memory: dict[str, Any] | None = None, **more: Any) -> list[str]:
        async def ask(client: openai.AsyncOpenAI) -> list[str]:
            agent = self._agent(client, memory, **more)
            return [str(result.output) for result in await asyncio.gather(*(agent.run(prompt) for prompt in prompts))]

        return with_client(self._url, ask)

    def _agent(self, client: openai.AsyncOpenAI, memory: dict[str, Any] | None, **more: Any) -> Agent[Any, Any]:
        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
        settings: Any = {"temperature": 0, "max_tokens": TOKENS, "extra_body": body(memory)}
        return Agent(model, model_settings=settings, **more)

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        return self._run([prompt], memory)[0], None

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        async def ask(client: openai.AsyncOpenAI) -> list[str]:
            async with self._agent(client, memory).run_stream(prompt) as result:
                return [part async for part in result.stream_text(delta=True, debounce_by=None)]

        return with_client(self._url, ask), None

    def batch(self, prompts: list[str]) -> list[str]:
        return self._run(prompts)

    def structured(self, prompt: str) -> Any:
        return self._run([prompt], output_type=NativeOutput(Dog))

    def tools(self, prompt: str) -> Any:
        return self._run([prompt], tools=[weather])


class OpenAIAgents:
    """An agent on the chat completions model; it shows no fields of a reply that it does not know."""

    TOO_LONG = REFUSED = openai.BadRequestError
    SHOWS_RECEIPT = (False, False)

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1"

    def _run(self, prompts: list[str], memory: dict[str, Any] | None = None, **more: Any) -> list[str]:
        async def ask(client: openai.AsyncOpenAI) -> list[str]:
            agent = self._agent(client, memory, **more)
            results = await asyncio.gather(*(agents.Runner.run(agent, prompt) for prompt in prompts))
            return [str(result.final_output) for result in results]

        return with_client(self._url, ask)

    def _agent(self, client: openai.AsyncOpenAI, memory: dict[str, Any] | None, **more: Any) -> agents.Agent[Any]:
        settings = agents.ModelSettings(temperature=0, max_tokens=TOKENS, include_usage=True, extra_body=body(memory))
        return agents.Agent("asked", model=OpenAIChatCompletionsModel(MODEL, client), model_settings=settings, **more)

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        return self._run([prompt], memory)[0], None

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        async def ask(client: openai.AsyncOpenAI) -> list[str]:
            result = agents.Runner.run_streamed(self._agent(client, memory), prompt)
            data = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
            return [event.delta for event in data if event.type == "response.output_text.delta"]

        return with_client(self._url, ask), None

    def batch(self, prompts: list[str]) -> list[str]:
        return self._run(prompts)

    def structured(self, prompt: str) -> Any:
        return self._run([prompt], output_type=Dog)

    def tools(self, prompt: str) -> Any:
        return self._run([prompt], tools=[agents.function_tool(weather)])


class Instructor:
    """instructor over openai; without a model of the answer it hands the reply through."""

    TOO_LONG = openai.BadRequestError
    REFUSED = InstructorRetryException
    SHOWS_RECEIPT = (True, True)

    def __init__(self, url: str) -> None:
        self._openai = OpenAI(url)

    def _ask(self, prompt: str, mode: instructor.Mode = instructor.Mode.TOOLS, model: Any = None, **more: Any) -> Any:
        return instructor.from_openai(self._openai.client, mode=mode).chat.completions.create(
            model=MODEL,
            messages=messages(prompt),
            response_model=model,
            max_retries=0,
            temperature=0,
            max_tokens=TOKENS,
            **more,
        )

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        reply = self._ask(prompt, extra_body=body(memory))
        return text_of(reply), receipt_of(reply)

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        return joined(list(self._ask(prompt, extra_body=body(memory), stream=True)))

    def batch(self, prompts: list[str]) -> list[str]:
        return [self.chat(prompt)[0] for prompt in prompts]

    def structured(self, prompt: str) -> Any:
        return self._ask(prompt, instructor.Mode.JSON_SCHEMA, Dog)

    def tools(self, prompt: str) -> Any:
        return self._ask(prompt, instructor.Mode.TOOLS, Dog)


class LiteLLM:
    """litellm with its provider for OpenAI's dialect."""

    PROVIDER = "openai"
    TOO_LONG = litellm.ContextWindowExceededError
    REFUSED = litellm.BadRequestError
    SHOWS_RECEIPT = (True, True)

    def __init__(self, url: str) -> None:
        self._where = {"model": f"{self.PROVIDER}/{MODEL}", "api_base": f"{url}/v1", "api_key": KEY}

    def _ask(self, prompt: str, memory: dict[str, Any] | None = None, **more: Any) -> Any:
        return litellm.completion(
            messages=messages(prompt),
            temperature=0,
            max_tokens=TOKENS,
            extra_body=body(memory),
            num_retries=0,
            **self._where,
            **more,
        )

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        reply = self._ask(prompt, memory)
        return text_of(reply), receipt_of(reply)

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        return joined(list(self._ask(prompt, memory, stream=True)))

    def batch(self, prompts: list[str]) -> list[str]:
        asked = [messages(prompt) for prompt in prompts]
        replies = litellm.batch_completion(messages=asked, temperature=0, max_tokens=TOKENS, **self._where)
        return [text_of(reply) for reply in replies]

    def structured(self, prompt: str) -> Any:
        return self._ask(prompt, response_format=Dog)

    def tools(self, prompt: str) -> Any:
        return self._ask(prompt, tools=[WEATHER])


class LiteLLMAsVLLM(LiteLLM):
    """litellm with its provider for vLLM's servers."""

    PROVIDER = "hosted_vllm"
    SHOWS_RECEIPT = (True, False)


CLIENTS = (OpenAI, LangChain, PydanticAI, OpenAIAgents, Instructor, LiteLLM, LiteLLMAsVLLM)
