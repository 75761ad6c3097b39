"""Remember, then ask: ``python examples/remember_and_ask.py [URL]`` with a running server."""

from __future__ import annotations

import sys

import httpx
from openai import OpenAI


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Add a memory, ask a question that needs it twice, and print the answers with where the memory came from."""
    httpx.post(f"{url}/v1/memories", json={"text": "My dog is called Biscuit."}).raise_for_status()
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        for _ in range(2):
            reply = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "What is my dog called?"}],
                temperature=0,
                max_tokens=16,
            )
            receipt = (reply.model_extra or {})["memory"]
            print(reply.choices[0].message.content, [memory["source"] for memory in receipt["memories"]])


if __name__ == "__main__":
    main(*sys.argv[1:])
