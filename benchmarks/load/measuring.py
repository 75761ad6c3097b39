"""A run from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx

from benchmarks.load.arrivals import Arrival
from benchmarks.load.figures import metrics, ratios
from benchmarks.load.generating import Generator, Workload
from benchmarks.load.preparing import chars_per_token, cube, has_memories, prepare
from benchmarks.load.settings import LoadError, Mode, Settings


async def measure(
    client: httpx.AsyncClient, settings: Settings, planned: Sequence[Arrival], report: Callable[[str], None]
) -> dict[str, Any]:
    """Offer the load and give the result: ``rows``, one a mode, ``all`` of them, ``ratios`` and ``client``.
    Raises ``LoadError``."""
    try:
        ratio, counted_by = await chars_per_token(client, settings.model, settings.seed)
        remembers = await has_memories(client)
        if not remembers and settings.modes != ("off",):
            raise LoadError("this server has no memories: use --memory off")
        if settings.modes == ("off",):
            options: dict[Mode, dict[str, Any] | None] = {"off": {"mode": "off"} if remembers else None}
            return await _run(client, Workload(settings, planned, options, [], ratio), report, counted_by, None)
        async with cube(client, settings, ratio) as (made, facts):
            more = {"fidelity": settings.fidelity} if settings.fidelity else {}
            options = {
                mode: {"mode": "off"} if mode == "off" else {"mode": mode, "cube": made, "top_k": settings.top_k} | more
                for mode in settings.modes
            }
            prepared = None
            if "kv" in settings.modes and settings.prepare_s > 0:
                prepared = await prepare(client, settings, made, facts, report)
            workload = Workload(settings, planned, options, list(facts.values()), ratio)
            return await _run(client, workload, report, counted_by, prepared)
    except httpx.HTTPError as error:
        raise LoadError(f"the server does not answer: {type(error).__name__}") from error


async def _run(
    client: httpx.AsyncClient,
    workload: Workload,
    report: Callable[[str], None],
    counted_by: str,
    prepared: dict[str, Any] | None,
) -> dict[str, Any]:
    generator = Generator(client, workload, report)
    await generator.warm_up()
    outcomes, duration_s, kept_up = await generator.run()
    settings = workload.settings
    rows = [
        {"mode": mode, **metrics([o for o in outcomes if o.mode == mode], duration_s, settings.goodput)}
        for mode in settings.modes
    ]
    offered_s = workload.arrivals[-1].at
    return {
        "duration_s": round(duration_s, 3),
        "offered_rate": round((len(outcomes) - 1) / offered_s, 4) if offered_s else None,
        "prompts_sized_by": counted_by,
        "prepared": prepared,
        "client": kept_up,
        "rows": rows,
        "all": metrics(outcomes, duration_s, settings.goodput),
        "ratios": list(ratios(rows)),
    }
