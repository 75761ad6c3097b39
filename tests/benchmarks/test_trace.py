from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.suites.trace import BLOCK_TOKENS, Request, ideal, load, replay, replay_lfu, replay_lru, replay_oracle
from benchmarks.suites.trace import replay_predictor as predict
from benchmarks.support.reuse import Column, ReuseModel
from benchmarks.support.runs import RunCache, RunTree
from scheduler.prediction.learning import Matrix


def chained(prompts: Sequence[Sequence[int]], step: float = 2.0, partial: bool = False) -> list[Request]:
    """Prompts of letters become requests of blocks: an id for each prefix, as Mooncake's hashes are."""
    ids: dict[tuple[int, ...], int] = {}
    requests = []
    for i, prompt in enumerate(prompts):
        blocks = tuple(ids.setdefault(tuple(prompt[: k + 1]), len(ids)) for k in range(len(prompt)))
        requests.append(Request(i * step, len(blocks) * BLOCK_TOKENS - partial, 100, blocks))
    return requests


prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=25)


def by_scanning(requests: Sequence[Request], budget: int, keep: Callable[[int, int, int], Any]) -> int:
    """The plain way: after a request, the leaf that ``keep(request, last use, block)`` ranks lowest goes."""
    parents = {b: a for r in requests for a, b in zip((-1, *r.blocks), r.blocks, strict=False)}
    resident: set[int] = set()
    last: dict[int, int] = {}
    hits = 0
    for i, request in enumerate(requests):
        for block in request.blocks:
            if block not in resident:
                break
            hits += 1
        resident.update(request.blocks)
        last.update(dict.fromkeys(request.blocks, i))
        while len(resident) > budget:
            leaves = resident - {parents[block] for block in resident}
            resident.remove(min(leaves, key=lambda block: keep(i, last[block], block)))
    return hits


@given(prompts, st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_lru_is_what_scanning_finds(letters: list[list[int]], budget: int) -> None:
    requests = chained(letters)
    assert replay_lru(requests, budget) == by_scanning(requests, budget, lambda now, last, block: last)


@given(prompts, st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_oracle_is_what_scanning_finds(letters: list[list[int]], budget: int) -> None:
    requests = chained(letters)

    def keep(now: int, last: int, block: int) -> int:
        return -next((i for i in range(now + 1, len(requests)) if block in requests[i].blocks), 1 << 30)

    assert replay_oracle(requests, budget) == by_scanning(requests, budget, keep)


@given(prompts, st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_nothing_is_better_than_the_oracle(letters: list[list[int]], budget: int) -> None:
    requests = chained(letters, step=20.0)
    best = replay_oracle(requests, budget)
    assert best >= max(replay_lru(requests, budget), replay_lfu(requests, budget))
    assert best >= predict(requests, [budget], ReuseModel())[0]
    asked = sum(len(request.blocks) for request in requests)
    assert replay_lru(requests, 10_000) == round(ideal(requests) * asked)
    assert predict(requests, [10_000], ReuseModel())[0] == round(ideal(requests) * asked)


@given(prompts, st.integers(1, 20), st.booleans(), st.integers(0, 4))
@settings(deadline=None, max_examples=100)
def test_runs_ranked_by_age_are_lru(letters: list[list[int]], budget: int, partial: bool, every: int) -> None:
    """A cache of runs has the hits of one of blocks, whenever it is ranked anew."""
    requests = chained(letters, partial=partial)

    def rank(histories: Matrix) -> Matrix:
        return -histories[:, Column.AGE]

    tree = RunTree(BLOCK_TOKENS)
    cache, hits = RunCache(tree, budget), 0
    for i, request in enumerate(requests):
        if every and i % every == 0:
            cache.rescore(rank, 0.0)  # of the same clock as below: higher is later
        use = tree.use(request.blocks, request.at, partial, 0)
        hits += cache.use(use, rank(tree.histories(use.path, 0.0)).tolist())
    assert hits == replay_lru(requests, budget)


@given(prompts, st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_an_untrained_predictor_is_lru(letters: list[list[int]], budget: int) -> None:
    requests = chained(letters)
    assert predict(requests, [budget], ReuseModel())[0] == replay_lru(requests, budget)


@given(prompts, st.booleans())
@settings(deadline=None)
def test_the_tree_holds_each_prompt(letters: list[list[int]], partial: bool) -> None:
    tree = RunTree(BLOCK_TOKENS)
    seen: set[int] = set()
    for request in chained(letters):
        use = tree.use(request.blocks, request.at, partial, 7)
        assert [block for node in use.path for block in tree.runs[node]] == list(request.blocks)
        assert {block for node in use.path[: use.known] for block in tree.runs[node]} == seen & set(request.blocks)
        seen.update(request.blocks)
        rows = tree.histories(use.path, request.at + 3)
        assert (rows[:, Column.AGE] == 3).all()
        assert (rows[:, Column.LENGTH] == [len(tree.runs[node]) * BLOCK_TOKENS for node in use.path]).all()
        starts = np.cumsum(rows[:, Column.LENGTH]) - rows[:, Column.LENGTH]
        assert (rows[:, Column.START] == starts).all()
        assert (rows[:, Column.DEPTH] == np.arange(len(use.path)) + 1).all()
    assert sum(len(run) for run in tree.runs) == len(seen)


def test_a_split_run_keeps_its_past() -> None:
    tree = RunTree(BLOCK_TOKENS)
    for at, blocks in ((0.0, (1, 2, 3, 4)), (10.0, (1, 2, 3, 4)), (30.0, (1, 2, 9))):
        use = tree.use(blocks, at, False, 50)
    upper, new = use.path
    lower = 3 - 1 if new == 3 else 3
    rows = tree.histories([upper, lower, new], 40.0)
    assert rows[:, Column.AGE].tolist() == [10, 30, 10]
    assert rows[:, Column.USES].tolist() == [3, 2, 1]
    assert rows[:, Column.GAP].tolist() == [20, 10, 0]
    assert rows[:, Column.CHILDREN].tolist() == [2, 0, 0]
    assert rows[:, Column.PARENT_AGE].tolist() == [10, 10, 10]


def chats(rounds: int) -> list[Request]:
    """Twelve chats go on every 24 s; between their turns come prompts that are long, and never come again."""
    rng = random.Random(0)
    letters: list[list[int]] = []
    turns = {chat: [chat] for chat in range(12)}
    once = 100
    for i in range(rounds):
        chat = i % 12
        turns[chat] = [*turns[chat], 1000 + rng.randrange(10**6)][-1:] if len(turns[chat]) > 8 else turns[chat]
        turns[chat] = [*turns[chat], 1000 + rng.randrange(10**6)]
        letters += [turns[chat], [once, *range(10)]]
        once += 1
    return chained(letters, step=1.0)


def test_the_predictor_keeps_what_comes_back() -> None:
    requests = chats(220)
    budget = 100
    predicted = predict(requests, [budget], ReuseModel(horizons=(10.0, 40.0)))[0]
    assert predicted > 1.2 * max(replay_lru(requests, budget), replay_lfu(requests, budget))
    assert predicted <= replay_oracle(requests, budget)


def line(**changes: Any) -> str:
    row = {"timestamp": 3000, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]}
    return json.dumps({key: value for key, value in (row | changes).items() if value is not None})


def test_rows_of_a_replay(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join([line(), line(timestamp=6000), line(timestamp=9000, hash_ids=[0, 7])]) + "\n")
    got = replay(path, [1, 100], bytes_per_block=1000)
    assert got["ideal_hit_rate"] == 0.5
    assert [row["policy"] for row in got["rows"]] == ["none", "lru", "lfu", "predictor", "oracle"] * 2
    assert [row["budget_bytes"] for row in got["rows"]] == [1000] * 5 + [100_000] * 5
    assert [row["hit_rate"] for row in got["rows"]] == [0, 0.3333, 0.3333, 0.3333, 0.3333, 0, 0.5, 0.5, 0.5, 0.5]
    assert [row["share_of_oracle"] for row in got["rows"]] == [0, 1, 1, 1, 1] * 2
    assert all(row["ttft_p50_s"] is row["ttft_p99_s"] is row["wasted_share"] is None for row in got["rows"])
    assert got["seconds"] >= 0


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "Expecting"),
        ("[]", "not an object"),
        (line(hash_ids=None), "hash_ids"),
        (line(hash_ids=[]), "hash_ids"),
        (line(hash_ids=[0, "1"]), "hash_ids"),
        (line(hash_ids=[True, 1]), "hash_ids"),
        (line(timestamp=-1), "timestamp"),
        (line(timestamp=0), "earlier"),
        (line(input_length=1.5), "input_length"),
        (line(output_length=None), "output_length"),
        (line(input_length=512), "do not make 512 tokens"),
        (line(hash_ids=[1, 0]), "behind another block"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, bad: str, says: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{line()}\n{bad}\n")
    with pytest.raises(ValueError, match=rf"trace\.jsonl, line 2: .*{says}"):
        load(path)


def test_an_empty_trace_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("")
    with pytest.raises(ValueError, match="no requests"):
        load(path)
