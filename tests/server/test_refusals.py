"""What would change the answer is done or refused by name; hints that change nothing are tolerated."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.running import Running

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
REFUSED: dict[str, Any] = {
    "guided_choice": ["yes", "no"],
    "guided_regex": "[0-9]+",
    "guided_grammar": "root ::= x",
    "guided_decoding_backend": "xgrammar",
    "grammar": {"type": "json", "value": SCHEMA},
    "regex": "[0-9]+",
    "ebnf": "root ::= x",
    "format": "json",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "suffix": "def end",
    "best_of": 3,
    "cache_salt": "mine",
    "continue_final_message": True,
    "add_generation_prompt": False,
    "prompt_logprobs": 0,
    "use_beam_search": True,
    "audio": {"voice": "alloy"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {"search_context_size": "low"},
    "logits_processors": ["x"],
    "truncate_prompt_tokens": 5,
    "allowed_token_ids": [1],
    "bad_words": ["x"],
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "mm_processor_kwargs": {"x": 1},
    "lora": [{"id": 0, "scale": 1.0}],
    "n_predict": 5,
    "do_sample": False,
    "repeat_penalty": 1.1,
    "stop_sequences": ["x"],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
}
HARMLESS: list[dict[str, Any]] = [
    *({name: None} for name in REFUSED),
    *(
        {name: False}
        for name in ("functions", "use_beam_search", "continue_final_message", "include_stop_str_in_output")
    ),
    {"guided_choice": [], "grammar": "", "chat_template_kwargs": {}, "lora": [], "suffix": ""},
    {"best_of": 1},
    {"best_of": 2, "n": 2},
    {"modalities": ["text"]},
    {"add_generation_prompt": True, "skip_special_tokens": True, "do_sample": True},
    {"function_call": "none", "length_penalty": 1.0, "typical_p": 1, "mirostat": 0, "n_predict": -1},
    {
        "response_format": {"type": "text"},
        "structured_outputs": {},
        "stream_options": {"continuous_usage_stats": False},
    },
    {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": False},
    {"reasoning_effort": "low", "verbosity": "low", "safety_identifier": "s", "prompt_cache_key": "k", "priority": 1},
]


def ask(server: Running, path: str, **body: Any) -> httpx.Response:
    prompt = {"prompt": "hello"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "hello"}]}
    return server.client.post(path, json={"model": "tiny", "max_tokens": 2, **prompt, **body})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_is_refused_by_name(server: Running, path: str, name: str) -> None:
    reply = ask(server, path, **{name: REFUSED[name]})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "unsupported", name)
    assert error["message"].startswith(f"{name} is not currently supported: ")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("body", HARMLESS, ids=str)
def test_what_asks_for_nothing_is_tolerated(server: Running, path: str, body: dict[str, Any]) -> None:
    assert ask(server, path, **body).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"structured_outputs": {"regex": "x"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["x"]}}, "structured_outputs.choice"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
        ({"echo": True}, "echo"),
        ({"messages": [{"role": "function", "name": "f", "content": "5"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]},
            "messages.0.function_call",
        ),
        ({"messages": [{"role": "assistant", "content": "So", "prefix": True}]}, "messages.0.prefix"),
    ],
)
def test_what_is_not_done_in_the_objects_of_a_chat(server: Running, change: dict[str, Any], param: str) -> None:
    error = ask(server, "/v1/chat/completions", **change).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported", param)


STRUCTURES: list[dict[str, Any]] = [
    {"guided_json": SCHEMA},
    {"guided_json": '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'},
    {"json_schema": SCHEMA},
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"json_object": True}},
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
]


@pytest.mark.transformers
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("body", STRUCTURES, ids=str)
def test_structure_is_refused_by_the_name_it_has(server: Running, path: str, body: dict[str, Any]) -> None:
    error = ask(server, path, **body).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported", next(iter(body)))


@pytest.mark.parametrize("body", STRUCTURES, ids=str)
def test_the_engine_is_asked_for_the_structure(body: dict[str, Any]) -> None:
    from server.http.schemas.generation import ChatRequest, CompletionRequest

    messages = [{"role": "user", "content": "x"}]
    for request in (
        ChatRequest.model_validate({"model": "m", "messages": messages, **body}),
        CompletionRequest.model_validate({"model": "m", "prompt": "x", **body}),
    ):
        wanted = request.answer("r", 5).sampling.structured
        assert wanted is not None
        assert wanted.schema == (None if "json_object" in str(body) and "schema" not in str(body) else SCHEMA)


def test_one_structure_at_a_time(server: Running) -> None:
    reply = ask(server, "/v1/chat/completions", guided_json=SCHEMA, response_format={"type": "json_object"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "guided_json")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_no_nucleus_means_the_likeliest_token(server: Running, path: str) -> None:
    def texts(**body: Any) -> list[str]:
        choices = ask(server, path, max_tokens=12, ignore_eos=True, **body).json()["choices"]
        return [choice["message"]["content"] if "message" in choice else choice["text"] for choice in choices]

    likeliest = texts(temperature=0)
    assert texts(top_p=0) == likeliest
    assert texts(top_p=0, temperature=2, seed=7) == likeliest
    assert texts(top_p=0, temperature=0) == likeliest
    assert texts(top_p=0, temperature=1.5, n=2, top_k=50) == likeliest * 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_too_long_prompts_are_told_as_clients_look_for(server: Running, path: str) -> None:
    from openai import BadRequestError, OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    field, said = (
        ("prompt", "x" * 3000) if path == "/v1/completions" else ("messages", [{"role": "user", "content": "x" * 3000}])
    )
    error = ask(server, path, **{field: said}).json()["error"]
    assert error["message"].startswith("This model's maximum context length is 2048 tokens. However, your messages")
    assert (error["code"], error["param"]) == ("context_length_exceeded", field)
    error = ask(server, path, max_tokens=2047).json()["error"]
    assert error["message"].startswith("This model's maximum context length is 2048 tokens. However, you requested ")
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")
    if field == "messages":
        with pytest.raises(BadRequestError) as caught:
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "x"}], max_completion_tokens=5000
            )
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_completion_tokens")
