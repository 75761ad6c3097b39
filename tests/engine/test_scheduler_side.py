"""The vLLM connector's scheduler side, without vLLM: what follows from what workers report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvcache import Fingerprint, Layout
from tests.engine.vllm_stubs import vllm_or_stubs

with vllm_or_stubs():
    from engine.vllm.plan import Composition, RepairOrder, RequestPlan, SaveOrder, StoredRun, WorkerReport
    from engine.vllm.schedule import SchedulerSide, entry_of
    from engine.vllm.settings import ConnectorSettings
    from tests.engine.test_worker_side import keep_of

FINGERPRINT = Fingerprint("w", "c", "t", "chat", "full-causal", Layout(2, 2, 8, "float32"))
CHAIN, MOVED = StoredRun("a" * 64, 0, 32), StoredRun("b" * 64, 32, 48, shift=7)


def request_of(plan: RequestPlan, n_tokens: int = 100) -> Any:
    tokens = list(range(n_tokens))
    return SimpleNamespace(
        request_id="r", prompt_token_ids=tokens, num_tokens=n_tokens, kv_transfer_params=plan.as_params()
    )


@pytest.fixture
def side() -> SchedulerSide:
    return SchedulerSide(ConnectorSettings.model_validate({"managed": True}), FINGERPRINT, ranks=2)


def test_a_request_whose_repair_failed_is_not_composed_when_vllm_asks_anew(side: SchedulerSide) -> None:
    """It would fail again, without end. The exact chain is loaded still, and both ranks' reports are one failure."""
    composition = Composition(((32, 80, True),), "first", 0.2)
    request = request_of(RequestPlan((CHAIN, MOVED), (), composition, "plan"))
    assert side.matched(request, 0) == (80, True)
    side.take_in(WorkerReport(unrepaired=[("r", "plan", 32), ("r", "plan", 32)]), lambda request_id: [1])
    assert side.matched(request, 0) == (32, True)
    events = side.events()
    assert events is not None
    assert events.failed_repairs == 1
    assert set(events.failed) == {("plan", 32)}


def test_a_prompt_whose_passes_failed_is_not_scored(side: SchedulerSide) -> None:
    request = request_of(RequestPlan((), (), None, "plan", score=5))
    assert side.matched(request, 0) == (100, True)
    side.take_in(WorkerReport(unrepaired=[("r", "plan", 0)]), lambda request_id: [1])
    assert side.matched(request, 0) == (0, False)


def test_a_failure_of_a_request_that_is_gone_is_counted(side: SchedulerSide) -> None:
    side.take_in(WorkerReport(unrepaired=[("gone", "plan", 0)]), lambda request_id: [1])
    events = side.events()
    assert events is not None
    assert events.failed_repairs == 1


@pytest.mark.parametrize(
    ("order", "first"),
    [
        (RepairOrder("r", composition=Composition(((16, 40, True), (40, 60, False)), "first", 0.5)), 16),
        (RepairOrder("r", composition=Composition(((16, 40, True),), "first", 0.5), begin=32), 32),
        (RepairOrder("r", composition=Composition(((16, 40, True),), "first", 0.5), before=((5, 9),)), 5),
        (RepairOrder("r", token_ids=tuple(range(30)), after=((20, 30),)), 20),
    ],
)
def test_what_passes_write_to_begins_where_the_first_of_them_does(order: RepairOrder, first: int) -> None:
    assert order.first_written == first


def test_an_order_knows_the_key_of_what_it_saves() -> None:
    keep, tokens = keep_of(10), tuple(range(10))
    assert SaveOrder(keep, tokens, (), ()).key == entry_of(keep, tokens, FINGERPRINT).key
