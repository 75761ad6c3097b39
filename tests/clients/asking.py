"""What each client is asked, and what must come of it."""

from __future__ import annotations

from typing import Any, Protocol

MODEL = "demo"
QUESTION = "What is my dog called?"
PROMPTS = ["Say hello.", "Name a colour.", "Count to three."]
TOO_LONG = "word " * 9000
TOKENS = 12
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Asking(Protocol):
    """One client, used as its own documentation says. ``memory`` is the request's object of that name."""

    @property
    def TOO_LONG(self) -> type[Exception]: ...

    @property
    def REFUSED(self) -> type[Exception]: ...

    SHOWS_RECEIPT: tuple[bool, bool]
    """Of whole and of streamed replies; a client that drops the fields it does not know shows none."""

    def chat(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[str, Any]:
        """The answer, and the receipt (or None)."""

    def stream(self, prompt: str, memory: dict[str, Any] | None = None) -> tuple[list[str], Any]:
        """The parts of the answer, and the receipt."""

    def batch(self, prompts: list[str]) -> list[str]:
        """The answers to several questions by the client's own way of asking them at once."""

    def structured(self, prompt: str) -> Any:
        """An answer in a structure."""

    def tools(self, prompt: str) -> Any:
        """An answer by a call of a function."""


def check_chat(client: Asking) -> None:
    answer, _ = client.chat(PROMPTS[0])
    assert answer.strip()


def check_stream(client: Asking) -> None:
    answer, _ = client.chat(PROMPTS[1])
    parts, _ = client.stream(PROMPTS[1])
    assert "".join(parts) == answer
    assert len(parts) > 1


def check_memory(client: Asking, cube: str) -> None:
    """The answer needs the memory; with mode off there is none."""
    memory = {"cube": cube, "mode": "kv"}
    answer, receipt = client.chat(QUESTION, memory)
    parts, streamed = client.stream(QUESTION, memory)
    assert "Biscuit" in answer
    assert "".join(parts) == answer
    assert "Biscuit" not in client.chat(QUESTION, {"cube": cube, "mode": "off"})[0]
    assert (receipt is not None, streamed is not None) == client.SHOWS_RECEIPT
    for found in (receipt, streamed):
        if found is not None:
            assert found["cube"].startswith("cube_")
            assert found["mode"] == "kv"
            assert [memory["tokens"] > 0 for memory in found["memories"]] == [True]


def check_batch(client: Asking) -> None:
    assert client.batch(PROMPTS) == [client.chat(prompt)[0] for prompt in PROMPTS]
