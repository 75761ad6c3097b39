"""mem0's own client against this server: ``pip install mem0ai``, then ``python examples/mem0_client.py [URL]``."""

from __future__ import annotations

import sys
import time
from typing import Any

from mem0 import MemoryClient


def memories_of(client: Any, user: str) -> list[str]:
    """Return a user's memories, waiting up to 10 s for the first: mem0's additions are jobs."""
    for _ in range(100):
        found = client.get_all(filters={"user_id": user})["results"]
        if found:
            break
        time.sleep(0.1)
    return [item["memory"] for item in found]


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Add a conversation, list what was found in it, and search."""
    client = MemoryClient(api_key="none", host=url)
    client.add([{"role": "user", "content": "I moved to Lisbon last year. My cat is called Olive."}], user_id="ann")
    print(memories_of(client, "ann"))
    found = client.search("What is my cat called?", filters={"user_id": "ann"}, top_k=1)
    print(found["results"][0]["memory"])


if __name__ == "__main__":
    main(*sys.argv[1:])
