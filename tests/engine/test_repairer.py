"""Passes of the vLLM connector's own, through a model runner that stands for vLLM's."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.vllm.paged import PagedCache
from engine.vllm.streams import Event, Streams
from tests.engine.vllm_stubs import vllm_or_stubs

with vllm_or_stubs():
    from engine.vllm import repair
    from engine.vllm.plan import Composition, RepairOrder

MAX_SEQS, BLOCK, LAYERS, HEADS, DIM = 4, 8, 2, 1, 8


@dataclass
class Recorder:
    """What vLLM is asked for, in order."""

    calls: list[str] = field(default_factory=list)
    batches: list[Any] = field(default_factory=list)


class RecordingStreams(Streams):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def mark(self) -> Event:
        raise AssertionError("passes need no events")

    def finish(self) -> None:
        self._recorder.calls.append("finish")


class Group:
    """A group of attention layers whose back end keeps buffers for ``MAX_SEQS`` sequences."""

    layer_names = ("first", "second")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def build_metadata(self, common: Any, ubatch: int) -> str:
        self._recorder.calls.append("build")
        self._recorder.batches.append(common)
        assert common.num_reqs <= MAX_SEQS, "FlashAttention 3 raises here"
        return "metadata"


class Model:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self._recorder.calls.append("model")
        return torch.zeros(len(input_ids), 4)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()

    class Context:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            """Keeps nothing."""

        def __enter__(self) -> None:
            """Enters nothing."""

        def __exit__(self, *args: object) -> None:
            """Leaves nothing."""

    monkeypatch.setattr(repair, "set_forward_context", Context)
    monkeypatch.setattr(repair, "CommonAttentionMetadata", SimpleNamespace)
    return recorder


def runner_of(recorder: Recorder, max_num_tokens: int = 512) -> Any:
    scheduler = SimpleNamespace(max_num_seqs=MAX_SEQS)
    compilation = SimpleNamespace(static_forward_context={"first": None, "second": None})
    config = SimpleNamespace(scheduler_config=scheduler, compilation_config=compilation)
    return SimpleNamespace(
        model=Model(recorder), vllm_config=config, attn_groups=[[Group(recorder)]], max_num_tokens=max_num_tokens
    )


def repairer_of(recorder: Recorder, **kwargs: Any) -> repair.Repairer:
    cache = PagedCache([torch.zeros(64, HEADS, BLOCK, 2 * DIM) for _ in range(LAYERS)], "joined")
    return repair.Repairer(runner_of(recorder, **kwargs), cache, ["first", "second"], RecordingStreams(recorder))


def order_of(n_parts: int, part: int, share: float) -> RepairOrder:
    """An order over parts each of which starts a run, so that the first tokens of each are chosen."""
    n_tokens = n_parts * part + 8
    parts = tuple((8 + i * part, 8 + (i + 1) * part, True) for i in range(n_parts))
    blocks = tuple(range(1, 2 + n_tokens // BLOCK))
    return RepairOrder("r", "plan", blocks, tuple(range(n_tokens)), Composition(parts, "first", share))


def run(steps: Generator[None, None, int]) -> tuple[int, int]:
    """All of an order's passes: tokens computed, and turns taken."""
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, turns
        turns += 1


@pytest.mark.parametrize(("n_parts", "part"), [(12, 5), (3, 40), (40, 8)])
def test_no_pass_has_more_sequences_than_vllm_has_room_for(recorder: Recorder, n_parts: int, part: int) -> None:
    """One sequence a run, without a bound, is what FlashAttention 3 and FlashInfer raise at."""
    order = order_of(n_parts, part, 0.3)
    reported, _ = run(repairer_of(recorder).steps(order))
    assert recorder.batches
    assert all(batch.num_reqs <= MAX_SEQS for batch in recorder.batches)
    chosen = {p for begin, stop, _ in order.composition.parts for p in range(begin, stop)}  # type: ignore[union-attr]
    computed = torch.cat([batch.positions for batch in recorder.batches]).tolist()
    assert len(computed) == len(set(computed)) == reported >= int(0.3 * len(chosen))
    assert set(computed) <= chosen
    for batch in recorder.batches:  # every run sees all that is before it, and its slots are those of the table
        ends = batch.seq_lens.tolist()
        starts = batch.query_start_loc.tolist()
        for i, stop in enumerate(ends):
            assert batch.positions[starts[i] : starts[i + 1]].tolist()[-1] == stop - 1
        slots = [order.block_ids[p // BLOCK] * BLOCK + p % BLOCK for p in batch.positions.tolist()]
        assert batch.slot_mapping.tolist() == slots


def test_small_passes_share_a_turn_and_large_ones_do_not(recorder: Recorder) -> None:
    """Between turns vLLM's own steps are done; requests that are answered wait no longer than for a large pass."""
    few = order_of(12, 60, 0.02)  # twelve runs of a token or two, far from one another
    _, turns = run(repairer_of(recorder).steps(few))
    assert (turns, len(recorder.batches)) == (1, 3)
    recorder.batches.clear()
    _, turns = run(repairer_of(recorder, max_num_tokens=16).steps(order_of(3, 40, 0.5)))
    assert turns == len(recorder.batches) > 3
    assert all(batch.num_actual_tokens <= 8 for batch in recorder.batches)


def test_a_batch_is_described_only_when_the_device_has_read_the_last_description(recorder: Recorder) -> None:
    """Builders reuse their host buffers, and vLLM schedules ahead of the device."""
    list(repairer_of(recorder).steps(order_of(2, 8, 0.3)))
    assert recorder.calls == ["finish", "build", "finish", "model"] * recorder.calls.count("model")
    assert recorder.calls.count("model") >= 1


def runner_like(module: str, **attributes: Any) -> Any:
    """An object of a class with the name of one of vLLM's runners."""
    parallel = {
        "decode_context_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        "data_parallel_size": 1,
        "is_moe_model": None,
    }
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(**(parallel | attributes.pop("parallel", {}))),
        compilation_config=SimpleNamespace(mode=attributes.pop("mode", 3)),
        lora_config=attributes.pop("lora", None),
    )
    base = type("GPUModelRunner", (), {"__module__": module})
    runner = type("CPUModelRunner", (base,), {"__module__": "vllm.elsewhere"})()
    runner.__dict__.update(attributes, vllm_config=config)
    return runner


class DefaultModelState(SimpleNamespace):
    """Named like the second runner's."""


FIRST, SECOND = "vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.model_runner"


@pytest.mark.parametrize(
    "runner",
    [
        runner_like(FIRST, uses_mrope=False),
        runner_like(SECOND, model_state=DefaultModelState(rope_state=None)),
        runner_like(
            SECOND,
            model_state=DefaultModelState(rope_state=None),
            parallel={"data_parallel_size": 2} | {"is_moe_model": False},
        ),
    ],
)
def test_both_of_vllms_model_runners_are_taken(runner: Any) -> None:
    assert repair.refusal(runner) is None


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        (runner_like("elsewhere"), "not written for"),
        (runner_like(FIRST, uses_mrope=True), "several dimensions"),
        (runner_like(SECOND, model_state=DefaultModelState(rope_state=object())), "several dimensions"),
        (runner_like(SECOND, model_state=SimpleNamespace(rope_state=None)), "of its own"),
        (runner_like(FIRST, parallel={"decode_context_parallel_size": 2}), "divided among devices"),
        (runner_like(FIRST, parallel={"data_parallel_size": 2}), "in step"),
        (runner_like(FIRST, lora=object()), "LoRA"),
        (runner_like(FIRST, mode=1), "compiled"),
    ],
)
def test_what_passes_are_not_written_for_is_refused_by_name(runner: Any, reason: str) -> None:
    assert reason in str(repair.refusal(runner))
