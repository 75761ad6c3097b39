"""Replay of a request trace on an index alone: which blocks a prefix cache of some size would have had.

The trace is Mooncake's (Qin et al., FAST 2025): a request a line, its prompt as ids of 512-token blocks, each of which
stands for itself and all before it. A *hit* is a block of the contiguous resident prefix of a request; the rate is hits
by blocks asked for. No keys or values are computed, so there are no times to a first token.

Policies: ``none`` keeps nothing; ``lru`` and ``lfu`` evict what was least recently, or least often since it came,
used; ``predictor`` what :class:`benchmarks.support.reuse.ReuseModel` ranks lowest; ``oracle`` what is next used last
(Belady 1966), and it keeps nothing that is not used again. Of one request, each evicts the deepest block first, so that
what is resident is a prefix always.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.reuse import ReuseModel
from benchmarks.support.runs import RunCache, RunTree

BLOCK_TOKENS = 512
BUDGETS = (2_000, 5_000, 20_000)
_NEVER = 1 << 60
# At most how often the model ranks again, how many samples it learns from each time, and how lately they were used.
_TICK_S = 1.0
_SAMPLES = 300
_SAMPLED_S = 1500.0


@dataclass(frozen=True)
class Request:
    """``at`` seconds; lengths in tokens; ``blocks``: an id each 512 tokens, of the block behind those before it."""

    at: float
    input_length: int
    output_length: int
    blocks: tuple[int, ...]


def load(path: Path) -> list[Request]:
    """A trace in Mooncake's format, in order of time. ValueError names the line that is not."""
    requests: list[Request] = []
    before: dict[int, int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                request = _request(line)
                if requests and request.at < requests[-1].at:
                    raise ValueError("earlier than the line before")
                for parent, block in zip((-1, *request.blocks), request.blocks, strict=False):
                    if before.setdefault(block, parent) != parent:
                        raise ValueError(f"block {block} stands behind another block than before")
            except ValueError as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from error
            requests.append(request)
    if not requests:
        raise ValueError(f"{path.name}: no requests")
    return requests


def _request(line: str) -> Request:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("not an object")
    blocks = row.get("hash_ids")
    if not isinstance(blocks, list) or not blocks or not all(_is_count(block) for block in blocks):
        raise ValueError("hash_ids must be ids, one or more")
    for key in ("timestamp", "input_length", "output_length"):
        if not _is_count(row.get(key)):
            raise ValueError(f"{key} must be a whole number, 0 or more")
    if len(blocks) != -(-row["input_length"] // BLOCK_TOKENS):
        raise ValueError(f"{len(blocks)} blocks of {BLOCK_TOKENS} do not make {row['input_length']} tokens")
    return Request(row["timestamp"] / 1000, row["input_length"], row["output_length"], tuple(blocks))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def ideal(requests: Sequence[Request]) -> float:
    """Hit rate of a cache that holds everything: all but the first use of each block."""
    blocks = [block for request in requests for block in request.blocks]
    return 1 - len(set(blocks)) / len(blocks)


Priority = tuple[int, int]


class _BlockCache:
    """Blocks by priority; the lowest goes first. Of one request, deeper blocks must have lower priorities."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.held: dict[int, Priority] = {}
        self._heap: list[tuple[Priority, int]] = []

    def prefix(self, blocks: Sequence[int]) -> int:
        """Blocks that are resident without a gap from the first on."""
        return next((i for i, block in enumerate(blocks) if block not in self.held), len(blocks))

    def put(self, block: int, priority: Priority) -> None:
        self.held[block] = priority
        heapq.heappush(self._heap, (priority, block))

    def evict(self) -> None:
        while len(self.held) > self._budget:
            priority, block = heapq.heappop(self._heap)
            if self.held.get(block) == priority:
                del self.held[block]


def replay_lru(requests: Sequence[Request], budget: int) -> int:
    """Hits of least recently used, in a cache of ``budget`` blocks."""
    cache, hits = _BlockCache(budget), 0
    for i, request in enumerate(requests):
        hits += cache.prefix(request.blocks)
        for depth, block in enumerate(request.blocks):
            cache.put(block, (i, -depth))
        cache.evict()
    return hits


def replay_lfu(requests: Sequence[Request], budget: int) -> int:
    """Hits of least frequently used, counted while a block is resident, in a cache of ``budget`` blocks."""
    cache, hits, turn = _BlockCache(budget), 0, 0
    for request in requests:
        hits += cache.prefix(request.blocks)
        turn += len(request.blocks)
        for depth, block in enumerate(request.blocks):
            cache.put(block, (cache.held.get(block, (0, 0))[0] + 1, turn - depth))
        cache.evict()
    return hits


def replay_oracle(requests: Sequence[Request], budget: int) -> int:
    """Hits of what is next used last going first, in a cache of ``budget`` blocks: no policy has more."""
    cache, hits = _BlockCache(budget), 0
    for request, following in zip(requests, _next_uses(requests), strict=True):
        hits += cache.prefix(request.blocks)
        for depth, (block, use) in enumerate(zip(request.blocks, following, strict=True)):
            if use < _NEVER:
                cache.put(block, (-use, -depth))
            else:
                cache.held.pop(block, None)
        cache.evict()
    return hits


def _next_uses(requests: Sequence[Request]) -> list[list[int]]:
    """The number of the request that uses a block next, for each block of each request."""
    following: dict[int, int] = {}
    uses = []
    for i in range(len(requests) - 1, -1, -1):
        uses.append([following.get(block, _NEVER) for block in requests[i].blocks])
        following.update(dict.fromkeys(requests[i].blocks, i))
    return uses[::-1]


def replay_predictor(requests: Sequence[Request], budgets: Sequence[int], model: ReuseModel) -> list[int]:
    """Hits by budget (blocks). One model serves all: what it learns from does not depend on what is resident."""
    tree = RunTree(BLOCK_TOKENS)
    caches = [RunCache(tree, budget) for budget in budgets]
    hits = [0] * len(budgets)
    rng = np.random.default_rng(0)
    due = requests[0].at + _TICK_S
    for request in requests:
        now = request.at
        if now >= due:
            _tick(model, tree, caches, rng, now)
            due = now + _TICK_S
        use = tree.use(request.blocks, now, request.input_length % BLOCK_TOKENS > 0, request.output_length)
        model.used(use.path[: use.known], now)
        scores = model.rank(tree.histories(use.path, now)).tolist()
        for i, cache in enumerate(caches):
            hits[i] += cache.use(use, scores)
    return hits


def _tick(model: ReuseModel, tree: RunTree, caches: list[RunCache], rng: np.random.Generator, now: float) -> None:
    model.learn(now)
    recent = tree.recent(now - _SAMPLED_S)
    sample = rng.choice(recent, min(_SAMPLES, len(recent)), replace=False)
    model.watch(sample.tolist(), tree.histories(sample, now), now)
    for cache in caches:
        cache.rescore(model.rank, now)


BASELINES: dict[str, Callable[[Sequence[Request], int], int]] = {
    "none": lambda requests, budget: 0,
    "lru": replay_lru,
    "lfu": replay_lfu,
    "oracle": replay_oracle,
}


def replay(path: Path, budgets_blocks: Sequence[int] = BUDGETS, bytes_per_block: int = 0) -> dict[str, Any]:
    """Every policy at every budget.

    Times to the first token and shares wasted are None, because nothing is run or preloaded. The calibration error is
    by horizon of the model, in seconds.
    """
    started = time.perf_counter()
    requests = load(path)
    model = ReuseModel()
    predicted = dict(zip(budgets_blocks, replay_predictor(requests, budgets_blocks, model), strict=True))
    asked = sum(len(request.blocks) for request in requests)
    rows = []
    for budget in budgets_blocks:
        hits = {name: run(requests, budget) for name, run in BASELINES.items()} | {"predictor": predicted[budget]}
        rows += list(_rows(hits, asked, budget * bytes_per_block))
    return {
        "trace": path.name,
        "requests": len(requests),
        "blocks": asked,
        "ideal_hit_rate": round(ideal(requests), 4),
        "rows": rows,
        "calibration_error": {
            f"{horizon:g}": round(calibration.error(), 4) for horizon, calibration in model.calibrations().items()
        },
        "seconds": round(time.perf_counter() - started, 1),
    }


def _rows(hits: dict[str, int], asked: int, budget_bytes: int) -> Iterator[dict[str, Any]]:
    for policy in ("none", "lru", "lfu", "predictor", "oracle"):
        yield {
            "policy": policy,
            "budget_bytes": budget_bytes,
            "hit_rate": round(hits[policy] / asked, 4),
            "share_of_oracle": round(hits[policy] / hits["oracle"], 4) if hits["oracle"] else None,
            "ttft_p50_s": None,
            "ttft_p99_s": None,
            "wasted_share": None,
        }
