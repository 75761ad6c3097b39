"""openai 3, LangChain, Pydantic AI, OpenAI's agents, Instructor and LiteLLM against a server process."""

from __future__ import annotations

from typing import Any

import litellm
import openai
import pytest
from langchain_openai import OpenAI as LangChainLLM

from tests.clients import asking
from tests.clients.asking import MODEL, PROMPTS, TOKENS, TOO_LONG
from tests.clients.openai_3 import CLIENTS, KEY, LiteLLM, OpenAI


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.__name__)
def client(request: pytest.FixtureRequest, url: str) -> Any:
    return request.param(url)


def test_chat(client: Any) -> None:
    asking.check_chat(client)


def test_streaming(client: Any) -> None:
    asking.check_stream(client)


def test_memory(client: Any, cube: str) -> None:
    asking.check_memory(client, cube)


def test_batch(client: Any) -> None:
    asking.check_batch(client)


@pytest.mark.parametrize("way", ["chat", "stream"])
def test_an_over_long_prompt_is_told_from_other_errors(client: Any, way: str) -> None:
    with pytest.raises(client.TOO_LONG) as caught:
        getattr(client, way)(TOO_LONG)
    if client.TOO_LONG is openai.BadRequestError:
        assert caught.value.code == "context_length_exceeded"
    assert "context_length_exceeded" in str(caught.value) or isinstance(client, LiteLLM)


@pytest.mark.parametrize(("wish", "name"), [("structured", "response_format"), ("tools", "tools")])
def test_what_the_engine_cannot_do_is_refused_by_name(client: Any, wish: str, name: str) -> None:
    with pytest.raises(client.REFUSED) as caught:
        getattr(client, wish)(PROMPTS[0])
    assert f"{name}: not supported" in str(caught.value)


def one_by_one(client: openai.OpenAI) -> list[str]:
    create = client.completions.create
    replies = [create(model=MODEL, prompt=prompt, temperature=0, max_tokens=TOKENS) for prompt in PROMPTS]
    return [reply.choices[0].text for reply in replies]


def test_completions_of_several_prompts(url: str) -> None:
    client = OpenAI(url).client
    reply = client.completions.create(model=MODEL, prompt=PROMPTS, temperature=0, max_tokens=TOKENS)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [choice.text for choice in reply.choices] == one_by_one(client)


def test_langchain_completes_several_prompts(url: str) -> None:
    model = LangChainLLM(
        model=MODEL, base_url=f"{url}/v1", api_key=KEY, temperature=0, max_tokens=TOKENS, max_retries=0
    )
    found = [generations[0].text for generations in model.generate(PROMPTS).generations]
    assert found == one_by_one(OpenAI(url).client)


@pytest.mark.parametrize("provider", ["text-completion-openai", "hosted_vllm"])
def test_litellm_completes_several_prompts(url: str, provider: str) -> None:
    reply = litellm.text_completion(
        model=f"{provider}/{MODEL}",
        prompt=PROMPTS,
        api_base=f"{url}/v1",
        api_key=KEY,
        temperature=0,
        max_tokens=TOKENS,
    )
    assert len(reply.choices) == len(PROMPTS)
    if provider == "text-completion-openai":  # the other one asks chat
        assert [choice.text for choice in reply.choices] == one_by_one(OpenAI(url).client)


def test_openai_s_stream_helper(url: str) -> None:
    asked: Any = [{"role": "user", "content": PROMPTS[0]}]
    with OpenAI(url).client.chat.completions.stream(
        model=MODEL, messages=asked, temperature=0, max_tokens=100
    ) as stream:
        events = list(stream)
        whole = stream.get_final_completion()
    assert "".join(event.delta for event in events if event.type == "content.delta") == whole.choices[0].message.content


def test_errors_carry_the_request_s_id(url: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        OpenAI(url).client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id
