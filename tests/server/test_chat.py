"""Chat and completions over real HTTP, on a tiny model."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest

from engine.transformers import LoadedModel
from tests.server.running import Running, running


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def receipt_of(reply: Any) -> dict[str, Any]:
    receipt: dict[str, Any] = reply.model_extra["memory"]
    return receipt


def test_a_whole_reply(server: Running, client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=5,
        temperature=0,
        logit_bias={"40": 50},  # a letter: bytes at random are no text
        extra_body={"ignore_eos": True, "memory": {"mode": "off"}},
    )
    (choice,) = reply.choices
    assert choice.finish_reason == "length"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 5
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 0
    assert receipt_of(reply)["mode"] == "off"
    assert receipt_of(reply)["memories"] == []


def test_streamed_and_whole_replies_agree(server: Running, client: openai.OpenAI) -> None:
    server.add("Streams agree with wholes.")
    request: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Do streams agree with wholes?"}],
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12
    assert receipt_of(chunks[0])["memories"][0]["source"] == "resident"
    assert receipt_of(chunks[-1]) == receipt_of(chunks[0])


def test_usage_is_streamed_only_when_asked_for(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=3, stream=True
    )
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.transformers
def test_the_receipt_says_where_each_memory_came_from(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        pinned = server.add("Always be kind.", pinned=True)
        dog = server.add("My dog is called Biscuit.")
        server.add("Unrelated: the moon is far.")
        question = "What is my dog called?"
        text = server.chat(question, memory={"mode": "text"}).json()
        assert text["memory"]["mode"] == "text"
        assert {m["source"] for m in text["memory"]["memories"]} == {"computed"}
        first = server.chat(question).json()
        assert [m["id"] for m in first["memory"]["memories"]] == [pinned["id"], dog["id"]]
        assert [m["why"] for m in first["memory"]["memories"]] == ["pinned", "text #1, vector #1"]
        assert {m["source"] for m in first["memory"]["memories"]} == {"computed"}
        second = server.chat(question).json()
        assert {m["source"] for m in second["memory"]["memories"]} == {"resident"}
        assert second["memory"]["cached_tokens"] == second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        contents = {reply["choices"][0]["message"]["content"] for reply in (text, first, second)}
        assert len(contents) == 1
        cube = first["memory"]["cube"]
    with running(model, tmp_path) as server:  # a restart
        third = server.chat(question).json()
        assert third["memory"]["cube"] == cube
        assert {m["source"] for m in third["memory"]["memories"]} == {"disk"}
        assert third["choices"][0]["message"]["content"] in contents
        # the header, both memories and, because the question is the same, the turns
        assert 'recallkv_segment_hits_total{tier="disk"} 4.0' in server.client.get("/metrics").text


def test_memories_by_id_and_by_cube(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        cube = server.client.post("/v1/cubes", json={"name": "work"}).json()
        home = server.add("The cat sleeps.")
        work = server.add("The printer is on floor two.", cube=cube["id"])

        def memories(**options: Any) -> list[str]:
            reply = server.chat("Tell me about the cat and the printer", memory=options)
            assert reply.status_code == 200, reply.text
            return [memory["id"] for memory in reply.json()["memory"]["memories"]]

        assert memories() == [home["id"]]
        assert memories(cube="work") == [work["id"]]
        assert sorted(memories(cube=["default", cube["id"]])) == sorted([home["id"], work["id"]])
        assert memories(ids=[work["id"], home["id"]]) == [work["id"], home["id"]]
        assert memories(top_k=0) == []


@pytest.mark.transformers
def test_changing_or_deleting_a_memory_removes_its_segments(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        dog = server.add("My dog is called Biscuit.")
        server.chat("my dog Biscuit", memory={"fidelity": "exact"})
        assert server.services.catalogue.stats().segments["device"] == 4  # header and memory, turns and answer
        changed = server.client.patch(f"/v1/memories/{dog['id']}", json={"text": "My dog is called Rex."}).json()
        assert (changed["version"], changed["text"]) == (2, "My dog is called Rex.")
        assert server.services.catalogue.stats().segments["device"] == 1
        rex = server.chat("my dog Rex", memory={"fidelity": "exact"}).json()
        assert rex["memory"]["memories"][0]["source"] == "computed"
        gone = server.client.delete(f"/v1/memories/{dog['id']}").json()
        assert (gone["deleted"], gone["segments_removed"]) == (True, 3)
        assert server.chat("my dog Rex").json()["memory"]["memories"] == []
        server.flush()
        assert server.services.catalogue.stats().segments["disk"] == 3  # the header; turns and answer without a memory
        cube = server.client.post("/v1/cubes", json={"name": "work"}).json()["id"]
        server.add("The printer is on floor two.", cube=cube)
        server.chat("printer", memory={"cube": cube, "fidelity": "exact"})  # no page is built
        removed = server.client.delete(f"/v1/cubes/{cube}").json()
        # Its own three, and the tenant's other conversation: anything may have been said in that.
        assert (removed["memories_removed"], removed["segments_removed"]) == (1, 6)


@pytest.mark.transformers
def test_a_conversation_computes_only_what_is_new(model: LoadedModel, tmp_path: Path) -> None:
    letters = {str(token): 100 for token in range(40, 50)}  # bytes at random are no text
    with running(model, tmp_path) as server:
        dog, cat = server.add("The dog barks."), server.add("The cat purrs.")

        def talk(*questions: str) -> list[dict[str, Any]]:
            said: list[dict[str, str]] = []
            replies = []
            for question in questions:
                said.append({"role": "user", "content": question})
                memory = {"fidelity": "exact", "top_k": 1}
                replies.append(server.chat(messages=said, logit_bias=letters, memory=memory).json())
                said.append({"role": "assistant", "content": replies[-1]["choices"][0]["message"]["content"]})
            return replies

        replies = talk("What does the dog do?", "And the cat?", "And the dog?")
        memories = [[memory["id"] for memory in reply["memory"]["memories"]] for reply in replies]
        assert memories == [[dog["id"]], [dog["id"], cat["id"]], [dog["id"], cat["id"]]]
        for before, reply in pairwise(replies):
            assert reply["memory"]["cached_tokens"] >= before["usage"]["total_tokens"] - 1
        assert {memory["source"] for memory in replies[-1]["memory"]["memories"]} == {"resident"}


def test_server_timing(server: Running) -> None:
    timing = server.chat().headers["server-timing"]
    names = re.findall(r"(\w+);dur=[\d.]+", timing)
    assert names == ["queue", "retrieve", "load", "prefill", "total"]
    with server.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as reply:
        assert "total;dur=" in reply.headers["server-timing"]
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert list(reply.iter_lines())[-2:] == ["data: [DONE]", ""]


def body(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 4, "ignore_eos": True, **more}


@pytest.mark.transformers
def test_pings_while_the_first_token_is_far(model: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path, sse_ping_s=0.05) as server:
        hook = model.model.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.2))
        try:
            with server.client.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=2)) as reply:
                lines = [line for line in reply.iter_lines() if line]
        finally:
            hook.remove()
        assert lines[0] == ": ping"
        assert lines[-1] == "data: [DONE]"
        assert any('"finish_reason":"length"' in line for line in lines)


def test_n_logprobs_stop_and_seed(server: Running, client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 6,
        "n": 3,
        "seed": 5,
        "temperature": 1.5,
        "logprobs": True,
        "top_logprobs": 2,
        "extra_body": {"ignore_eos": True},
    }
    first = client.chat.completions.create(**request)
    again = client.chat.completions.create(**request)
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert [c.message.content for c in first.choices] == [c.message.content for c in again.choices]
    logprobs = first.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 6
    assert all(len(item.top_logprobs) == 2 and item.logprob <= 0 for item in logprobs.content)
    text = (
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=20,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        .choices[0]
        .message.content
    )
    assert text
    stopped = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=20,
        temperature=0,
        stop=text[3],
        extra_body={"ignore_eos": True},
    ).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == text.partition(text[3])[0]


def test_completions_of_text_and_of_tokens(server: Running, client: openai.OpenAI) -> None:
    text = client.completions.create(model="tiny", prompt="once upon", max_tokens=5, temperature=0)
    tokens = server.client.post("/tokenize", json={"prompt": "once upon"}).json()["tokens"]
    same = client.completions.create(model="tiny", prompt=tokens, max_tokens=5, temperature=0)
    assert text.choices[0].text == same.choices[0].text
    chunks = client.completions.create(model="tiny", prompt="once upon", max_tokens=5, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text.choices[0].text
    with_logprobs = client.completions.create(
        model="tiny", prompt="x", max_tokens=2, logprobs=3, temperature=0, extra_body={"ignore_eos": True}
    )
    assert with_logprobs.choices[0].logprobs is not None
    assert len(with_logprobs.choices[0].logprobs.tokens or []) == 2


def test_content_parts_and_other_roles(server: Running) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    reply = server.client.post("/v1/chat/completions", json=body(messages=messages))
    assert reply.status_code == 200, reply.text
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\nc"
    tokens = server.client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    text = server.client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text.startswith(expected)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_generation(server: Running, stream: bool) -> None:
    raw = json.dumps(body(max_tokens=1900, stream=stream)).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        while not server.services.engine.capacity().running:
            time.sleep(0.005)
        if stream:
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
    while server.services.engine.capacity().running:
        time.sleep(0.005)
    assert server.chat().status_code == 200


def test_concurrent_clients(server: Running) -> None:
    def ask(i: int) -> str:
        reply = server.chat(f"question {i % 4}", memory={"mode": "off"})
        return str(reply.json()["choices"][0]["message"]["content"])

    alone = [ask(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, range(16)))
    assert together == alone * 4


def test_forgetting_covers_what_was_said_in_a_conversation(server: Running) -> None:
    """Turns hold the words that a memory was found in, and no label that would find them."""
    id = server.client.post("/v1/memories", json={"text": "The walrus password is seventeen"}).json()["id"]
    asked = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "The password is seventeen"}]}
    server.client.post("/v1/chat/completions", json=asked).raise_for_status()
    catalogue = server.services.catalogue

    def chained() -> int:
        return sum(entry.kind == "chained" for entry in catalogue.entries())

    if server.services.engine.features:  # vLLM keeps turns in its own cache
        pytest.skip("turns are not stored under vLLM")
    deadline = time.monotonic() + 10
    while chained() < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert chained() >= 3  # header, memory, turns
    done = server.client.delete(f"/v1/memories/{id}", params={"forget": "true"})
    assert done.status_code == 200
    assert chained() == 0
