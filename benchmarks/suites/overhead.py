"""What HTTP adds: the client's time to first token against the engine's own, request by request.

A real server process on loopback is asked for the same long prompt again and again, streamed; the engine's share
(queue, load, prefill) is in each reply's ``Server-Timing``. What is left is retrieval, rendering, the wire and the
client.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.support.serving import started
from benchmarks.support.stats import Summary, summary


@dataclass(frozen=True)
class Overhead:
    """Seconds. ``overhead_s`` is the client's time to first token less the engine's, per request."""

    client_ttft_s: Summary
    engine_ttft_s: Summary
    overhead_s: Summary
    start_s: float


def measure(model: str, context_chars: int, repeat: int, folder: Path) -> dict[str, Any]:
    """Start a server in ``folder``, ask ``repeat`` times, stop it."""
    begin = time.perf_counter()
    with started(model, folder) as url, httpx.Client(base_url=url, timeout=600) as client:
        return asdict(_ask(client, context_chars, repeat, time.perf_counter() - begin))


def _ask(client: httpx.Client, context_chars: int, repeat: int, start_s: float) -> Overhead:
    model = client.get("/v1/models").json()["data"][0]["id"]
    client.post("/v1/memories", json={"text": "all work and no play " * (context_chars // 21), "pinned": True})
    rows = [_first_token(client, model, i) for i in range(-2, repeat)][2:]  # two to warm up
    return Overhead(
        client_ttft_s=summary([row[0] for row in rows]),
        engine_ttft_s=summary([row[1] for row in rows]),
        overhead_s=summary([row[0] - row[1] for row in rows]),
        start_s=round(start_s, 3),
    )


def _first_token(client: httpx.Client, model: str, i: int) -> tuple[float, float]:
    """The client's and the engine's seconds to the first token."""
    messages = [{"role": "user", "content": f"Question {i}: what did I say about work and play?"}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "stream": True, "temperature": 0}
    begin = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        client_s = 0.0
        for line in reply.iter_lines():
            if line.startswith("data: {") and not client_s:
                client_s = time.perf_counter() - begin
        parts = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
    return client_s, sum(float(parts[name]) for name in ("queue", "load", "prefill")) / 1e3
