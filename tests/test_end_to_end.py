"""The real thing: ``recallkv serve demo`` as a process, asked by the official client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import free_port
from tests.server.processes import serving

FACTS = [
    "My dog is called Biscuit.",
    "I live in Lisbon.",
    "My sister Anna works as a nurse.",
    "I am allergic to peanuts.",
    "My favourite colour is green.",
    "I drive a red Toyota.",
    "My birthday is on the third of May.",
    "I play the violin in an orchestra.",
    "My brother Jonas moved to Oslo last year.",
    "I learned to swim when I was nine.",
]
QUESTIONS = [
    "What is my dog called?",
    "Which city do I live in?",
    "What does my sister do for work?",
    "What am I allergic to?",
    "What is my favourite colour?",
    "Which car do I drive?",
    "When is my birthday?",
    "Which instrument do I play?",
    "Where did my brother move?",
    "When did I learn to swim?",
    "Tell me about my family.",
    "Where could I walk my dog?",
    "Plan a dinner for me.",
    "Write a short poem about Lisbon.",
    "What should I wear today?",
    "Explain what an orchestra is.",
    "Who is Anna?",
    "Who is Jonas?",
    "Give me a tip for my birthday party.",
    "How far is Oslo from Lisbon?",
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    return tmp_path_factory.mktemp("end-to-end") / "data"


def sources(reply: Any) -> list[str]:
    return [memory["source"] for memory in reply.model_extra["memory"]["memories"]]


def answer(reply: Any) -> str:
    return str(reply.choices[0].message.content)


@pytest.mark.slow
def test_a_day_in_the_life(data_dir: Path) -> None:
    """Memories are answered from; KV and text agree before and after a restart; nothing private is logged."""
    with serving(data_dir) as server:
        server.add(FACTS[0])
        first = server.ask(QUESTIONS[0])
        assert "Biscuit" in answer(first)
        assert sources(first) == ["computed"]
        second = server.ask(QUESTIONS[0])
        assert answer(second) == answer(first)
        assert sources(second) == ["resident"]
        chunks = list(
            server.openai.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": QUESTIONS[0]}], temperature=0, stream=True
            )
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer(first)

        for fact in FACTS[1:]:
            server.add(fact)
        by_text = {question: server.ask(question, mode="text") for question in QUESTIONS}
        by_kv = {question: server.ask(question, mode="kv") for question in QUESTIONS}
        assert {q: answer(reply) for q, reply in by_kv.items()} == {q: answer(reply) for q, reply in by_text.items()}
        assert all(set(sources(reply)) == {"computed"} for reply in by_text.values() if sources(reply))
        assert server.stop() == 0

    with serving(data_dir) as server:
        again = {question: server.ask(question, mode="kv") for question in QUESTIONS}
        assert {q: answer(reply) for q, reply in again.items()} == {q: answer(reply) for q, reply in by_text.items()}
        assert "disk" in {source for reply in again.values() for source in sources(reply)}
        assert "computed" not in sources(again[QUESTIONS[0]])
        assert server.stop() == 0
        log = server.log.read_text()
    for private in ("Biscuit", "Lisbon", "dog called", "orchestra"):
        assert private not in log


@pytest.mark.slow
def test_locks_signals_and_crashes(data_dir: Path) -> None:
    with serving(data_dir) as server:
        second = subprocess.run(
            [sys.executable, "-m", "server", "serve", "demo", "--port", str(free_port())],
            env={**os.environ, "RECALLKV_DATA_DIR": str(data_dir)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1
        assert f"process id {server.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr

        kept = server.add("The last thing before the power went.")
        server.ask("What was the last thing?")
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL

    with serving(data_dir) as server:
        memory = httpx.get(f"{server.url}/v1/memories/{kept}").raise_for_status().json()
        assert memory["text"].startswith("The last thing")
        server.ask("What was the last thing?")

        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": 60,
            "stream": True,
            "ignore_eos": True,
        }
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)  # drains: the stream is finished first
            events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(timeout=60) == 0

    environment = {**os.environ, "RECALLKV_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-m", "server", "cache", "verify", "--format", "json"]
    verified = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(verified.stdout)["bad"] == []
    assert json.loads(verified.stdout)["checked"] > 10
