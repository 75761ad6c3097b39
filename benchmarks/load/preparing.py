"""The server before the run: its model, a cube of memories, and time to compute them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from benchmarks.load.generating import CHARS_PER_TOKEN, prose, question_about
from benchmarks.load.listening import body_of, error_code, fields_of
from benchmarks.load.settings import LoadError, Settings

_QUIET_S = 3.0


def connect(url: str, api_key: str | None, timeout_s: float) -> httpx.AsyncClient:
    """A client without a limit of its own on connections. Idle ones are dropped before servers drop them. ``url`` may
    end in ``/v1``, as OpenAI's clients have it. Raises ``LoadError``."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
    base = url.rstrip("/").removesuffix("/v1")
    try:
        return httpx.AsyncClient(base_url=base, headers=headers, limits=limits, timeout=timeout_s)
    except httpx.InvalidURL as error:
        raise LoadError(f"'{url}' is no URL: {error}") from error


async def served_model(client: httpx.AsyncClient) -> str:
    """The first model that the server has. Raises ``LoadError`` where there is no server, or it has none."""
    try:
        reply = await client.get("/v1/models")
        reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise LoadError(f"{client.base_url}/v1/models gives no model: {type(error).__name__}: {error}") from error


async def chars_per_token(client: httpx.AsyncClient, model: str, seed: int) -> tuple[float, str]:
    """Characters a token of our prose, from the server's ``/tokenize`` where it has one; and where that is from."""
    text = prose(random.Random(seed), 4000)
    reply = await client.post("/tokenize", json={"model": model, "prompt": text})
    count = body_of(reply.content).get("count") if reply.status_code == 200 else None
    return (len(text) / count, "/tokenize") if count else (CHARS_PER_TOKEN, "4 characters a token")


async def has_memories(client: httpx.AsyncClient) -> bool:
    """Say whether the server has cubes of memories, as ours has."""
    reply = await client.get("/v1/cubes")
    return reply.status_code == 200 and "data" in body_of(reply.content)


@asynccontextmanager
async def cube(
    client: httpx.AsyncClient, settings: Settings, ratio: float
) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A cube of seeded memories, ``ratio`` characters a token, and those that questions are about: text by id. It is
    deleted in the end. Raises ``LoadError``."""
    rng = random.Random(settings.seed)
    n_chars = max(1, int(settings.memory_tokens * ratio))
    name = f"bench-load-{random.SystemRandom().randrange(1 << 32):08x}"
    made = (await _called(client, "/v1/cubes", {"name": name}))["id"]
    try:
        facts = {}
        for i in range(settings.pinned + settings.memories):
            text = prose(rng, n_chars)
            fields = {"text": text, "cube": made, "pinned": i < settings.pinned}
            memory = await _called(client, "/v1/memories", fields)
            if i >= settings.pinned:
                facts[memory["id"]] = text
        yield made, facts
    finally:
        with suppress(httpx.HTTPError):
            await client.delete(f"/v1/cubes/{made}")


async def _called(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    reply = await client.post(path, json=body)
    if not reply.is_success:
        raise LoadError(f"{path}: {reply.status_code} {error_code(body_of(reply.content))}")
    found: dict[str, Any] = reply.json()
    return found


async def prepare(
    client: httpx.AsyncClient, settings: Settings, cube_id: str, facts: Mapping[str, str], report: Callable[[str], None]
) -> dict[str, Any]:
    """Ask for every memory once, as days of use would, and give the server time to compute what it keeps of them.
    Ends when it has nothing more to build, or after ``prepare_s`` seconds."""
    begin = time.perf_counter()
    before = await _upkeep(client)
    ids, step = list(facts), max(1, settings.top_k)
    for i in range(0, len(ids), step):
        if time.perf_counter() - begin > settings.prepare_s:
            break
        report(f"preparing: memory {i} of {len(ids)}")
        body = {
            "model": settings.model,
            "messages": [{"role": "user", "content": question_about(facts[ids[i]])}],
            "max_tokens": 1,
            "memory": {"mode": "kv", "cube": cube_id, "ids": ids[i : i + step]},
        }
        await _called(client, "/v1/chat/completions", body)
    settled = await _settled(client, begin + settings.prepare_s, before, report)
    return {"seconds": round(time.perf_counter() - begin, 1), "settled": settled, "upkeep": await _upkeep(client)}


async def _upkeep(client: httpx.AsyncClient) -> dict[str, Any]:
    reply = await client.get("/v1/cache", params={"limit": 0})
    return fields_of(body_of(reply.content).get("upkeep"))


async def _settled(
    client: httpx.AsyncClient, until: float, before: Mapping[str, Any], report: Callable[[str], None]
) -> bool:
    """Wait for the server's work in idle time: it is done when some was, none waits, and nothing has changed for twice
    as long as the longest piece of it took. False when that is not so at ``until``."""
    last, changed, longest = before, time.perf_counter(), _QUIET_S / 2
    while (now := time.perf_counter()) < until:
        found = await _upkeep(client)
        if found != last:
            longest = max(longest, now - changed)
            last, changed = found, now
        elif found != before and not found.get("waiting") and now - changed > 2 * longest:
            return True
        report(f"preparing: {found.get('pages_built', 0)} pages built, {found.get('waiting', 0)} waiting")
        await asyncio.sleep(0.5)
    return False
