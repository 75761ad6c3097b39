"""Completions over real HTTP with OpenAI's client: batches, echo, log-probabilities, memories."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from engine.base import Delta, TokenLogprob
from engine.transformers import prepare
from server.core.completing import MAX_SCORES, as_written
from server.http.replies import CompletionFormat
from server.http.schemas.generation import MAX_PROMPTS
from tests.server import running as serving
from tests.server.running import Running
from tests.tiny import tiny_network, tiny_tokenizer

PROMPTS = ["once upon", "a time", "the fox", "naïve 🦊 text"]
NO_END = {"extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def post(server: Running, **body: Any) -> Any:
    return server.client.post("/v1/completions", json={"model": "tiny", "max_tokens": 4, "temperature": 0, **body})


def ok(reply: Any) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def refused(reply: Any, param: str) -> dict[str, Any]:
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param), error["message"]
    return error


def ids(text: str) -> list[int]:
    found: list[int] = tiny_tokenizer().encode(text)
    return found


def check_aligned(choice: dict[str, Any]) -> None:
    """All lists are of one length, and each offset is where its token's text stands."""
    logprobs, text = choice["logprobs"], choice["text"]
    lengths = {len(logprobs[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
    assert len(lengths) == 1
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith(("bytes:", "<|")) and "\ufffd" not in token:
            assert text[offset : offset + len(token)] == token
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])


# -- batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_tokens", [False, True])
def test_a_batch_answers_each_prompt(client: openai.OpenAI, as_tokens: bool) -> None:
    prompts: Any = [ids(prompt) for prompt in PROMPTS] if as_tokens else PROMPTS
    request: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "temperature": 0, **NO_END}
    alone = [client.completions.create(prompt=prompt, **request) for prompt in PROMPTS]
    together = client.completions.create(prompt=prompts, **request)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == [one.choices[0].text for one in alone]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(len(ids(prompt)) for prompt in PROMPTS)
    assert together.usage.completion_tokens == 24
    assert together.usage.total_tokens == together.usage.prompt_tokens + 24


def test_a_batch_with_several_choices_and_a_seed(client: openai.OpenAI) -> None:
    """Choice i of prompt p has the index p * n + i, and is what it is when the prompt is asked alone."""
    request: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "temperature": 1.5, "seed": 3, "n": 3, **NO_END}
    first = client.completions.create(prompt=PROMPTS[:3], **request)
    again = client.completions.create(prompt=PROMPTS[:3], **request)
    alone = [client.completions.create(prompt=prompt, **request) for prompt in PROMPTS[:3]]
    texts = [choice.text for choice in first.choices]
    assert [choice.index for choice in first.choices] == list(range(9))
    assert texts == [choice.text for choice in again.choices]
    assert texts == [choice.text for one in alone for choice in one.choices]
    assert len(set(texts)) > 6


def test_a_streamed_batch(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": "tiny",
        "prompt": PROMPTS,
        "max_tokens": 5,
        "temperature": 0,
        "n": 2,
        "logprobs": 1,
        **NO_END,
    }
    whole = client.completions.create(**request)
    chunks = list(client.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        assert [part.finish_reason for part in mine] == [None] * (len(mine) - 1) + ["length"]
        assert choice.logprobs is not None
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            parts = [value for part in mine if part.logprobs for value in getattr(part.logprobs, name)]
            assert parts == getattr(choice.logprobs, name)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_a_streamed_batch_ends_once(server: Running) -> None:
    reply = post(server, prompt=PROMPTS, stream=True)
    lines = [line for line in reply.text.split("\n\n") if line]
    assert lines.count("data: [DONE]") == 1
    assert lines[-1] == "data: [DONE]"


def test_a_batch_larger_than_the_queue_waits_for_room(server: Running) -> None:
    """This server's queue takes 4."""
    prompts = [f"prompt {i}" for i in range(60)]
    body = ok(post(server, prompt=prompts, max_tokens=3, ignore_eos=True))
    assert [choice["index"] for choice in body["choices"]] == list(range(60))
    assert (
        body["choices"][17]["text"]
        == ok(post(server, prompt="prompt 17", max_tokens=3, ignore_eos=True))["choices"][0]["text"]
    )


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([""], "prompt.0"),
        ([[]], "prompt.0"),
        (["a", "b", ""], "prompt.2"),
        ([[1, 2], [3], []], "prompt.2"),
        ([10**9], "prompt"),
        ([[1], [2, 10**9]], "prompt.1"),
        ([[1], ids("x" * 3000)], "prompt.1"),
        (["a", "x" * 3000], "prompt.1"),
    ],
)
def test_one_bad_prompt_refuses_all_by_name(server: Running, prompt: Any, param: str) -> None:
    def started() -> list[str]:
        lines = server.client.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith("recallkv_choices_finished_total")]

    before = started()
    for stream in (False, True):
        refused(post(server, prompt=prompt, stream=stream), param)
    assert started() == before


@pytest.mark.parametrize(
    "prompt",
    [
        [1.5],
        [True],
        ["a", 1],
        [1, "a"],
        [[1], "a"],
        [["a"]],
        [[-1]],
        {"a": 1},
        5,
        None,
        [None],
        ["a"] * (MAX_PROMPTS + 1),
        [[1]] * (MAX_PROMPTS + 1),
    ],
)
def test_what_is_no_prompt_is_refused(server: Running, prompt: Any) -> None:
    reply = post(server, prompt=prompt)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("prompt")


def test_as_many_prompts_as_are_allowed(server: Running) -> None:
    body = ok(post(server, prompt=[[i % 250] for i in range(MAX_PROMPTS)], max_tokens=1, ignore_eos=True))
    assert len(body["choices"]) == MAX_PROMPTS


def test_a_too_long_answer_names_the_prompt(server: Running) -> None:
    context = server.services.engine.capacity().context
    error = refused(post(server, prompt=["a", "x" * 100], max_tokens=context - 50), "prompt.1")
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_all_of_them(server: Running, stream: bool) -> None:
    raw = json.dumps(
        {"model": "tiny", "prompt": PROMPTS * 2, "max_tokens": 1500, "ignore_eos": True, "stream": stream}
    ).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        while server.services.engine.capacity().running < 4:
            time.sleep(0.005)
    deadline = time.monotonic() + 30
    while server.services.engine.capacity().running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.services.engine.capacity().running == 0
    ok(post(server, prompt="on we go"))


# -- log-probabilities -----------------------------------------------------------------------------------------


def test_logprobs_of_emoji_are_their_bytes(server: Running) -> None:
    """One token a byte here: the bytes of each token, joined, are the text."""
    wanted = ids("🦊")
    for i, token in enumerate(wanted, 1):
        body = ok(post(server, prompt="x", logit_bias={token: 100}, max_tokens=1, logprobs=5, ignore_eos=True))
        (choice,) = body["choices"]
        assert choice["logprobs"]["tokens"] == [f"bytes:\\x{'🦊'.encode()[i - 1]:02x}"]
        assert choice["text"] in ("", "\ufffd")
        assert len(choice["logprobs"]["top_logprobs"][0]) in (5, 6)
        chat = server.chat(logit_bias={token: 100}, max_tokens=1, logprobs=True, top_logprobs=5)
        (content,) = ok(chat)["choices"][0]["logprobs"]["content"]
        assert content["bytes"] == ["🦊".encode()[i - 1]]
        assert content["token"] == "\ufffd"
        assert len({tuple(top["bytes"]) for top in content["top_logprobs"]}) >= 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["stop", "eos", "length"])
def test_joined_bytes_are_the_content(server: Running, end: str, stream: bool) -> None:
    """A token is listed as far as it is in the text: whatever ends the answer."""
    bias = dict.fromkeys(ids("aé🦊"), 30)
    more: dict[str, Any] = {"temperature": 1.0, "logit_bias": bias, "max_tokens": 40, "seed": 5}
    if end == "stop":
        more |= {"stop": ["aa", "é"], "ignore_eos": True}
    elif end == "eos":
        more |= {"logit_bias": bias | {257: 33}, "ignore_eos": False}
    else:
        more |= {"ignore_eos": True}
    reasons = []
    for seed in range(6):
        body = {"logprobs": True, **more, "seed": seed}
        if stream:
            lines = server.chat(**body, stream=True).text.split("\n\n")
            choices = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
            content = "".join(choice["delta"].get("content", "") for choice in choices)
            listed = [item for choice in choices for item in (choice["logprobs"] or {"content": []})["content"]]
        else:
            choices = ok(server.chat(**body))["choices"]
            content, listed = choices[0]["message"]["content"], choices[0]["logprobs"]["content"]
        reasons.append(choices[-1]["finish_reason"])
        joined = bytes(byte for item in listed for byte in item["bytes"]).decode(errors="replace")
        if reasons[-1] == "length":  # half a character at the very end is listed, but not shown
            assert joined.startswith(content)
            assert set(joined[len(content) :]) <= {"\ufffd"}
        else:
            assert joined == content
        assert not any(item["token"].startswith("<|") for item in listed)
    assert ("length" if end == "length" else "stop") in reasons


def test_an_answer_of_nothing_has_empty_lists(server: Running) -> None:
    body = ok(post(server, prompt="x", logit_bias={257: 100}, logprobs=1))
    assert body["choices"][0]["text"] == ""
    assert body["choices"][0]["logprobs"] == {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    chat = ok(server.chat(logit_bias={257: 100}, ignore_eos=False, logprobs=True))
    assert chat["choices"][0]["logprobs"] == {"content": []}


def test_offsets_count_characters(server: Running) -> None:
    for seed in range(4):
        bias = dict.fromkeys(ids("aé🦊 z"), 20)
        body = ok(post(server, prompt="x", logprobs=2, max_tokens=30, temperature=1, seed=seed, logit_bias=bias, n=2))
        for choice in body["choices"]:
            check_aligned(choice)


def test_two_tokens_with_the_same_text_have_two_keys() -> None:
    def token(i: int, text: str, own: bytes, logprob: float, *top: TokenLogprob) -> TokenLogprob:
        return TokenLogprob(i, text, logprob, own, top)

    rivals = (
        token(7, "A", b"A", -0.1),
        token(8, "A", b"A", -0.2),
        token(9, "\ufffd", b"\xf0", -0.3),
        token(10, "\ufffd", b"\x9f", -0.4),
    )

    delta = Delta(0, "A", (8,), (token(8, "A", b"A", -0.2, *rivals),), "length")
    (choice,) = CompletionFormat("c", "m", logprobs=True).whole({0: [delta]})["choices"]
    assert choice["logprobs"]["tokens"] == ["A"]
    assert choice["logprobs"]["top_logprobs"] == [
        {"token_id:7": -0.1, "A": -0.2, "bytes:\\xf0": -0.3, "bytes:\\x9f": -0.4}
    ]


# -- echo ------------------------------------------------------------------------------------------------------


def likelihoods(token_ids: list[int], n: int) -> list[float]:
    """Log-likelihoods of the last ``n`` tokens by plain transformers."""
    if serving.ENGINE == "vllm":
        from tests.vllm.shared import TINY

        network = tiny_network(**TINY)
    else:
        network = tiny_network()
    with torch.inference_mode():
        rows = torch.log_softmax(network(torch.tensor([token_ids])).logits[0].float(), -1)
    return [float(rows[i - 1][token_ids[i]]) for i in range(len(token_ids) - n, len(token_ids))]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_the_prompts_log_likelihoods(client: openai.OpenAI, max_tokens: int, stream: bool) -> None:
    """As evaluation harnesses ask: a batch of token ids, one rival."""
    request: dict[str, Any] = {
        "model": "tiny",
        "prompt": [ids(prompt) for prompt in PROMPTS],
        "max_tokens": max_tokens,
        "temperature": 0,
        "echo": True,
        "logprobs": 1,
        "seed": 1234,
        **NO_END,
    }
    if stream:
        chunks = [chunk.choices[0] for chunk in client.completions.create(**request, stream=True) if chunk.choices]
        choices = []
        for index in range(len(PROMPTS)):
            mine = [chunk for chunk in chunks if chunk.index == index]
            lists: dict[str, Any] = {
                name: [value for chunk in mine if chunk.logprobs for value in getattr(chunk.logprobs, name)]
                for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
            }
            text = "".join(chunk.text for chunk in mine)
            choices.append({"text": text, "logprobs": lists, "finish_reason": mine[-1].finish_reason})
    else:
        reply = client.completions.create(**request)
        assert reply.usage is not None
        assert reply.usage.completion_tokens == max_tokens * len(PROMPTS)
        choices = [choice.model_dump() for choice in reply.choices]
    for prompt, choice in zip(PROMPTS, choices, strict=True):
        n, logprobs = len(ids(prompt)), choice["logprobs"]
        assert choice["text"].startswith(prompt)
        assert choice["text"] == prompt or max_tokens
        assert choice["finish_reason"] == "length"
        check_aligned(choice)
        assert len(logprobs["tokens"]) == n + max_tokens
        assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
        assert logprobs["token_logprobs"][1:n] == pytest.approx(likelihoods(ids(prompt), n - 1), abs=2e-4)
        for token, logprob, top in list(
            zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        )[1:]:
            assert top[token] == logprob <= max(top.values())
            assert len(top) == (1 if logprob == max(top.values()) else 2)


def test_the_token_that_ends_an_answer_is_listed_with_echo(server: Running) -> None:
    """Harnesses cut the lists at the prompt's tokens and at one generated token, the last."""
    body = ok(post(server, prompt="abc", echo=True, logprobs=1, max_tokens=1, logit_bias={257: 100}))
    (choice,) = body["choices"]
    assert choice["text"] == "abc"
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"] == ["a", "b", "c", "<|im_end|>"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]


def test_echo_alone_and_of_special_tokens(server: Running) -> None:
    assert ok(post(server, prompt="abc", echo=True, max_tokens=0))["choices"][0] == {
        "index": 0,
        "text": "abc",
        "logprobs": None,
        "finish_reason": "length",
    }
    prompt = [256, *ids("é"), 257, *ids("x")]
    (choice,) = ok(post(server, prompt=prompt, echo=True, max_tokens=0, logprobs=0))["choices"]
    assert choice["text"] == "<|im_start|>é<|im_end|>x"
    assert choice["logprobs"]["tokens"] == ["<|im_start|>", "bytes:\\xc3", "bytes:\\xa9", "<|im_end|>", "x"]
    assert choice["logprobs"]["text_offset"] == [0, 12, 12, 13, 23]
    assert choice["logprobs"]["top_logprobs"][-1] == {"x": choice["logprobs"]["token_logprobs"][-1]}
    text = "<|im_start|>é<|im_end|>x"
    assert ok(post(server, prompt=text, echo=True, max_tokens=0, logprobs=0))["choices"] == [choice]


def test_several_choices_echo_the_same_prompt(server: Running) -> None:
    body = ok(post(server, prompt="abc", echo=True, logprobs=2, n=2, temperature=1.5, seed=1, ignore_eos=True))
    one, other = body["choices"]
    assert one["text"] != other["text"]
    assert one["logprobs"]["token_logprobs"][:3] == other["logprobs"]["token_logprobs"][:3]
    check_aligned(one)
    check_aligned(other)


def test_a_stop_string_in_the_prompt_ends_nothing(server: Running) -> None:
    body = ok(post(server, prompt="a STOP b", stop="STOP", echo=True, max_tokens=3, ignore_eos=True))
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["text"].startswith("a STOP b")


def test_nothing_to_do_is_refused(server: Running) -> None:
    refused(post(server, prompt="abc", max_tokens=0), "max_tokens")


def test_a_prompt_that_fills_the_context_can_be_scored(server: Running) -> None:
    n = server.services.engine.capacity().context - 1
    body = ok(post(server, prompt="y" * n, echo=True, logprobs=0, max_tokens=0))
    assert len(body["choices"][0]["logprobs"]["tokens"]) == n
    assert body["usage"]["completion_tokens"] == 0
    error = refused(post(server, prompt=["y", "y" * (n + 1)], echo=True, max_tokens=0), "prompt.1")
    assert error["code"] == "context_length_exceeded"


def test_too_many_log_probabilities_are_refused_by_name(server: Running) -> None:
    of_each = 21 * 8
    n = MAX_SCORES // of_each // 2000 + 1
    prompts = [[1] * 2000] * n
    error = refused(post(server, prompt=prompts, echo=True, logprobs=20, n=8, max_tokens=1), f"prompt.{n - 1}")
    assert str(MAX_SCORES // of_each) in error["message"]


@settings(max_examples=50)
@given(st.text(alphabet="ab é🦊", max_size=12), st.booleans(), st.booleans())
def test_tokens_as_written_cover_the_text(text: str, with_begin: bool, with_space: bool) -> None:
    raw = text.encode()
    tokens = [TokenLogprob(i, "\ufffd", -1.0, raw[i : i + 1]) for i in range(len(raw))]
    if with_space and tokens:
        tokens[0] = TokenLogprob(0, "x", -1.0, b" " + tokens[0].bytes)
    if with_begin:
        tokens.insert(0, TokenLogprob(999, "<s>", None))
    written = list(as_written(tokens, raw))
    assert b"".join(token.bytes for token in written) == raw
    assert len(written) == len(tokens)


def test_a_text_that_the_tokenizer_changes_is_covered_too() -> None:
    raw = "cafe\u0301 au lait".encode()
    pieces = [b"caf", "é".encode(), b" au", b" lait"]
    written = list(as_written([TokenLogprob(i, "", -1.0, piece) for i, piece in enumerate(pieces)], raw))
    assert [token.bytes for token in written] == [b"caf", b"", "e\u0301 au".encode(), b" lait"]


# -- memories --------------------------------------------------------------------------------------------------


def test_memories_stand_before_the_prompt(server: Running, client: openai.OpenAI) -> None:
    dog = server.add("The walrus of the harbour is called Biscuit.")
    engine = server.services.engine
    found = []
    for memory in ({"ids": [dog["id"]], "mode": "text"}, *[{"ids": [dog["id"]], "fidelity": "exact"}] * 2):
        reply = client.completions.create(
            model="tiny",
            prompt="The walrus",
            max_tokens=6,
            temperature=0,
            echo=True,
            logprobs=2,
            extra_body={"memory": memory, "ignore_eos": True},
        )
        found.append(reply)
        receipt: Any = (reply.model_extra or {})["memory"]
        assert [one["id"] for one in receipt["memories"]] == [dog["id"]]
        assert receipt["mode"] == memory.get("mode", "kv")
    tokens = tuple(ids("The walrus"))
    block = (
        "Memories of the user, in their own words:\n- The walrus of the harbour is called Biscuit.\n"
        "Answer questions from these memories.\n\n"
    )
    all_tokens = (*ids(block), *tokens)
    expected = likelihoods(list(all_tokens), len(tokens))
    for reply in found:
        (choice,) = reply.choices
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == len(all_tokens)
        assert choice.text.startswith("The walrus")
        assert choice.text == found[0].choices[0].text
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.tokens) == len(tokens) + 6
        assert choice.logprobs.token_logprobs[: len(tokens)] == pytest.approx(expected, abs=2e-4)
        check_aligned(choice.model_dump())
    if "structured" not in engine.features:  # vLLM computes what is before scored tokens
        last: Any = (found[-1].model_extra or {})["memory"]
        assert last["memories"][0]["source"] == "resident"
        assert found[-1].usage is not None
        assert found[-1].usage.prompt_tokens_details is not None
        assert (found[-1].usage.prompt_tokens_details.cached_tokens or 0) > 0


def test_memories_are_found_for_each_prompt(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "zoo"}).json()["id"]
    otter = server.add("The otter eats oysters.", cube=cube)
    heron = server.add("The heron hunts herrings.", cube=cube)
    prompts = ["What does the otter eat?", "What does the heron hunt?"]
    memory = {"cube": cube, "top_k": 1}
    body = ok(post(server, prompt=prompts, memory=memory, n=2))
    assert [[one["id"] for one in receipt["memories"]] for receipt in body["memory"]] == [
        [otter["id"]],
        [heron["id"]],
    ]
    alone = [ok(post(server, prompt=prompt, memory=memory, n=2)) for prompt in prompts]
    assert [one["memory"]["memories"][0]["id"] for one in alone] == [otter["id"], heron["id"]]
    assert [choice["text"] for choice in body["choices"]] == [c["text"] for one in alone for c in one["choices"]]
    lines = post(server, prompt=prompts, memory=memory, n=2, stream=True, stream_options={"include_usage": True}).text
    chunks = [json.loads(line[6:]) for line in lines.split("\n\n") if line.startswith("data: {")]
    first = [(chunk["choices"][0]["index"] // 2, chunk["memory"]) for chunk in chunks[:-1] if "memory" in chunk]
    assert sorted((prompt, receipt["memories"][0]["id"]) for prompt, receipt in first) == [
        (0, otter["id"]),
        (1, heron["id"]),
    ]
    assert [receipt["memories"][0]["id"] for receipt in chunks[-1]["memory"]] == [otter["id"], heron["id"]]
    tokens = ok(post(server, prompt=[ids(prompt) for prompt in prompts], memory=memory, n=2))
    assert tokens["choices"] == body["choices"]


def test_without_memories_to_be_found_the_prompt_stands_alone(server: Running) -> None:
    cube = server.client.post("/v1/cubes", json={"name": "empty"}).json()["id"]
    plain = ok(post(server, prompt="abc", echo=True, logprobs=1))
    assert "memory" not in plain
    for memory in ({"cube": cube}, {"mode": "off"}):
        body = ok(post(server, prompt="abc", echo=True, logprobs=1, memory=memory))
        assert body["choices"] == plain["choices"]
        assert body["memory"]["memories"] == []


@pytest.mark.transformers
def test_a_beginning_token_stands_before_the_memories(tmp_path: Path) -> None:
    """A tokenizer that puts a token before every text: models expect it at the very beginning."""
    backend = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 256)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = tiny_tokenizer().chat_template
    with serving.running(prepare(tiny_network(), tokenizer), tmp_path) as server:
        dog = server.add("My dog is called Biscuit.")
        request: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 0}
        for prompt in ("abc", [256, *ids("abc")]):
            (plain,) = ok(post(server, prompt=prompt, **request))["choices"]
            assert plain["text"] == ("abc" if isinstance(prompt, str) else "<|im_start|>abc")
            assert plain["logprobs"]["tokens"] == ["<|im_start|>", "a", "b", "c"]
            assert plain["logprobs"]["token_logprobs"][0] is None
            alone = likelihoods([256, *ids("abc")], 3)
            assert plain["logprobs"]["token_logprobs"][1:] == pytest.approx(alone, abs=2e-4)
            check_aligned(plain)
            body = ok(post(server, prompt=prompt, memory={"ids": [dog["id"]]}, **request))
            (choice,) = body["choices"]
            assert choice["text"] == plain["text"]
            assert choice["logprobs"]["text_offset"] == plain["logprobs"]["text_offset"]
            block = (
                "Memories of the user, in their own words:\n- My dog is called Biscuit.\n"
                "Answer questions from these memories.\n\n"
            )
            expected = likelihoods([256, *ids(block), *ids("abc")], 3)
            assert choice["logprobs"]["token_logprobs"][0] is None
            assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=2e-4)
            assert body["usage"]["prompt_tokens"] == 1 + len(ids(block)) + 3


def test_what_cannot_be_done_with_a_prompt_is_refused_by_name(server: Running) -> None:
    refused(post(server, prompt="abc", memory={"remember": True}), "memory.remember")
    assert post(server, prompt="abc", memory={"ids": ["nobody"]}).status_code == 404
    assert post(server, prompt="abc", memory={"typo": 1}).status_code == 400
