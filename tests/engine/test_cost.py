from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.base import PieceReport
from engine.transformers import LoadedModel, TransformersEngine
from engine.transformers.cost import CostModel, Sizes, calibrated, fitted
from kvcache import TieredStore, TierName
from kvcache.entry import Entry
from tests.engine.test_engine import collect, prompt_of
from tests.kvcache.conftest import make_segment


def chain(*lengths: int) -> list[Entry]:
    entries, segment = [], None
    for i, n in enumerate(lengths):
        segment = make_segment([i] * n, after=segment)
        entry = Entry.of(segment)
        entry.disk_bytes = entry.nbytes
        entries.append(entry)
    return entries


@pytest.mark.parametrize(("bandwidth", "expected"), [(1e12, 3), (1.0, 0)])
def test_a_drive_is_used_where_it_is_faster(bandwidth: float, expected: int) -> None:
    cost = CostModel(1e-4, 1e-7)
    cost.bandwidth["disk"] = bandwidth
    assert cost.worth_loading(chain(10, 20, 30), 100, lambda key: "disk") == expected


def test_what_lies_in_memory_is_used_and_a_slow_end_is_computed() -> None:
    entries = chain(10, 20, 30)
    tiers: dict[str, TierName] = {entries[0].key: "device", entries[1].key: "device", entries[2].key: "disk"}
    cost = CostModel(1e-4, 0.0)
    cost.bandwidth["disk"] = 1.0
    assert cost.worth_loading(entries, 100, tiers.get) == 2


def test_a_slow_beginning_is_loaded_for_what_stands_behind_it() -> None:
    """A chain has no middle without its beginning."""
    entries = chain(1, 1000)
    tiers: dict[str, TierName] = {entries[0].key: "disk", entries[1].key: "device"}
    cost = CostModel(1e-3, 0.0)
    cost.bandwidth["disk"] = entries[0].nbytes / 0.5
    assert cost.worth_loading(entries, 1100, tiers.get) == 2


def test_estimates_follow_the_loads() -> None:
    cost = CostModel(1e-4, 0.0)
    for _ in range(30):
        cost.observe_load("disk", 10**6, 0.1)
    assert cost.bandwidth["disk"] == pytest.approx(1e7, rel=0.01)
    cost.observe_load("device", 10**6, 5.0)
    assert cost.bandwidth["device"] == float("inf")


def launch_bound(n_tokens: int, behind: int) -> float:
    """Seconds of a pass where launching its kernels takes 18 ms, however little they do meanwhile."""
    return max(18e-3, n_tokens * (25e-6 + 2e-10 * (behind + n_tokens / 2)))


@pytest.mark.parametrize("n_tokens", [167, 953, 6064])
def test_a_device_that_waits_for_launches_is_not_taken_to_be_slow(n_tokens: int) -> None:
    cost = fitted(launch_bound, Sizes(128, 4096, 4096), chunk=8192)
    assert cost.compute_s(n_tokens, 0) == pytest.approx(launch_bound(n_tokens, 0), rel=0.5)
    short_alone = launch_bound(128, 0) / 128 * n_tokens  # what a short pass alone would tell
    assert n_tokens < 900 or short_alone > 3 * launch_bound(n_tokens, 0)


def test_what_the_passes_took_is_found_again() -> None:
    def seconds(n_tokens: int, behind: int) -> float:
        return 5e-3 + n_tokens * (1e-4 + 1e-8 * (behind + n_tokens / 2))

    cost = fitted(seconds, Sizes(32, 128, 1024), chunk=128)
    assert (cost.pass_s, cost.token_s, cost.pair_s) == pytest.approx((5e-3, 1e-4, 1e-8))
    assert cost.compute_s(200, 50) == pytest.approx(seconds(128, 50) + seconds(72, 178))
    assert cost.saved_s(100, 0) == pytest.approx(seconds(100, 0) - 5e-3), "its pass is made for others"
    assert cost.saved_s(128, 0) == pytest.approx(seconds(128, 0))


def test_noise_makes_nothing_cheaper_than_free() -> None:
    cost = fitted(lambda n_tokens, behind: 1e-3 if n_tokens == 32 else 1e-4, Sizes(32, 128, 1024), chunk=512)
    assert min(cost.pass_s, cost.token_s, cost.pair_s) >= 0.0
    assert cost.compute_s(0, 100) == 0.0


def test_a_model_is_measured(model: LoadedModel) -> None:
    cost = calibrated(model)
    assert cost.token_s > 0.0
    assert cost.pair_s >= 0.0
    assert cost.compute_s(100, 1000) >= cost.compute_s(100, 0) > 0.0


def test_the_engine_computes_where_that_is_quicker(model: LoadedModel, tmp_path: Path) -> None:
    async def sources(cost: CostModel) -> list[PieceReport]:
        engine = TransformersEngine(model, TieredStore(tmp_path), model_id="tiny", cost=cost)
        await collect(engine, prompt_of(20, 9, 11))
        engine.store.demote("disk")
        started, _ = await collect(engine, prompt_of(20, 9, 11))
        await engine.close()
        return list(started.pieces)

    quick_drive, slow_drive = CostModel(1.0, 0.0), CostModel(1e-9, 0.0)
    assert [report.source for report in asyncio.run(sources(quick_drive))] == ["disk", "disk", "computed"]
    assert [report.source for report in asyncio.run(sources(slow_drive))] == ["computed"] * 3
