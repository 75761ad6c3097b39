"""Attention by named kernels, as on a GPU: the CPU's flash attention stands in for the GPU's, since both give the same
two outputs; what is counted is counted on the meta device."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.transformers import LoadedModel, ModelRunner, SequenceKV, Work
from engine.transformers.attention import choose
from engine.transformers.attention.kernels import gpu, written_out
from engine.transformers.attention.kernels.base import Attended, Kernels, Pairs, Plain
from engine.transformers.attention.ragged import Probe
from engine.transformers.attention.side_by_side import SideBySide, merge_into
from kvcache import Segment, root_key
from kvcache.repair import SIGNALS
from tests.engine.counting import RESIDENT, Launches, meta_pass, per_layer
from tests.tiny import tiny_model, tiny_network

CPU = torch.device("cpu")
KINDS = ["llama", "qwen2", "qwen3", "gemma"]
TOKENS = tuple((i * 61 + 7) % 250 for i in range(40))


def flash_for_cpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """The CPU's operator, causal from the lower right corner as the GPU's is."""
    new, keys = query.shape[2], key.shape[2]
    mask = None
    if causal:
        visible = torch.ones(new, keys, dtype=torch.bool).tril(keys - new)
        mask = torch.zeros(new, keys, dtype=query.dtype).masked_fill_(~visible, float("-inf"))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )
    return out, lse


def masked_for_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> Attended:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )
    return out, lse


STAND_IN = Kernels(flash_for_cpu, masked_for_cpu)


class PlainTable:
    """What a table of spans does, written out."""

    def __init__(self, sequences: Sequence[Pairs]) -> None:
        self._sequences = sequences

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        found = []
        for i, pairs in enumerate(self._sequences):
            pairs[-1][0][layer, :, -1], pairs[-1][1][layer, :, -1] = key[:, i], value[:, i]
            keys, values = (torch.cat([part[layer] for part in parts], 1)[None] for parts in zip(*pairs, strict=True))
            found.append(written_out.written_out(query[:, :, i : i + 1], keys, values, scale, False)[0])
        return torch.cat(found, 2)


KINDS_OF_KERNELS = {
    "flash": STAND_IN,
    "written out": written_out.WRITTEN_OUT,
    "table": replace(STAND_IN, table=PlainTable),
}


@pytest.fixture(params=list(KINDS_OF_KERNELS))
def named_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Attention on the CPU by the route that other devices take."""
    before = {kind: choose.attention_of(model_of(kind).model) for kind in KINDS}
    for kind in KINDS:
        choose.use(model_of(kind).model, SideBySide(KINDS_OF_KERNELS[request.param]))
    yield
    for kind, attention in before.items():
        choose.use(model_of(kind).model, attention)


@functools.cache
def model_of(kind: str) -> LoadedModel:
    return tiny_model(kind)


@functools.cache
def oracle(kind: str, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        return tiny_network(kind)(torch.tensor([tokens])).logits[0, -1]


def fresh(model: LoadedModel) -> SequenceKV:
    return SequenceKV(model.fingerprint.layout, model.device, 8)


def injected(model: LoadedModel, bounds: list[int], min_span: int = 1) -> SequenceKV:
    """A sequence whose tokens up to the last of ``bounds`` come from segments that end at those."""
    source, kv, parent = fresh(model), fresh(model), root_key(model.fingerprint)
    ModelRunner(model.model).forward([Work(source, TOKENS[: bounds[-1]], 0)])
    for begin, end in zip(bounds, bounds[1:], strict=False):  # noqa: RUF007
        keys, values = source.copy_range(begin, end)
        segment = Segment.chained(parent, model.fingerprint, begin, TOKENS[begin:end], keys, values)
        kv.inject(segment, min_span)
        parent = segment.key
    return kv


@pytest.mark.usefixtures("named_kernels")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(cuts=st.sets(st.integers(1, 38), min_size=1, max_size=4), min_span=st.sampled_from([1, 6]))
def test_any_split_equals_full_prefill(kind: str, cuts: set[int], min_span: int) -> None:
    model = model_of(kind)
    kv = injected(model, [0, *sorted(cuts)], min_span)
    runner, done = ModelRunner(model.model), kv.n_tokens
    runner.forward([Work(kv, TOKENS[done : done + 1])])
    logits = runner.forward([Work(kv, TOKENS[done + 1 :])])
    torch.testing.assert_close(logits[0], oracle(kind, TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("named_kernels")
def test_sequences_that_share_spans_in_a_batch_get_their_own_logits() -> None:
    """Two forks of one sequence, one with other spans between them, and one with none: rows that are no neighbours."""
    model = model_of("llama")
    runner, trunk = ModelRunner(model.model), injected(model, [0, 9, 20])
    forks = [trunk.fork(4) for _ in range(2)]
    batch = [
        Work(forks[0], TOKENS[20:31]),
        Work(injected(model, [0, 13]), TOKENS[13:14]),
        Work(fresh(model), TOKENS[:7]),
        Work(forks[1], TOKENS[20:21]),
        Work(injected(model, [0, 5, 17]), TOKENS[17:18]),
    ]
    logits = runner.forward(batch)
    expected = [oracle("llama", TOKENS[:n]) for n in (31, 14, 7, 21, 18)]
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_a_segment_of_several_sequences_is_read_once() -> None:
    """Each injects it by itself."""
    model = model_of("llama")
    source = injected(model, [0, 39])
    keys, values = source.spans[0].keys[:, :, :20], source.spans[0].values[:, :, :20]
    segment = Segment.chained(root_key(model.fingerprint), model.fingerprint, 0, TOKENS[:20], keys, values)
    calls: list[int] = []

    def noting(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool) -> Attended:
        calls.append(k.shape[2])
        return flash_for_cpu(q, k, v, scale, causal)

    batch = []
    for limit in (20, 20, 12, 20):
        kv = fresh(model)
        kv.inject(segment, 1, limit)
        batch.append(Work(kv, TOKENS[limit : limit + 1]))
    before = choose.attention_of(model.model)
    choose.use(model.model, SideBySide(Kernels(noting, masked_for_cpu)))
    try:
        logits = ModelRunner(model.model).forward(batch)
    finally:
        choose.use(model.model, before)
    assert sorted(calls[: len(calls) // 2]) == [1, 1, 1, 1, 12, 20]
    expected = [oracle("llama", TOKENS[: n + 1]) for n in (20, 20, 12, 20)]
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("named_kernels")
@pytest.mark.parametrize("positions", [range(10, 30), [10, 11, 15, 16, 22, 29], [12]])
@pytest.mark.parametrize("kind", [None, "attention", "deviation"])
def test_tokens_in_slots_are_computed_as_on_the_cpu(positions: list[int], kind: str | None) -> None:
    """Repair passes and both probes, over spans and an opened region, against the CPU's own way."""
    model = model_of("qwen3")
    runner = ModelRunner(model.model)
    region = injected(model, [0, 40], 100)
    found = []
    for named in (True, False):
        if not named:
            choose.use(model.model, choose.for_cpu())
        kv = injected(model, [0, 6, 10])
        kv.open_region(20)
        for layer in range(2):
            kv.write(layer, slice(0, 20), *(part[:, 10:30] for part in region.layer(layer)))
        tokens = [99 + position for position in positions]
        probe = None if kind is None else Probe(SIGNALS[kind])  # type: ignore[index]
        if kind == "deviation":
            found.append(runner.compared(kv, tokens, positions, SIGNALS["deviation"]))  # type: ignore[arg-type]
            continue
        logits = runner.forward([Work(kv, tokens, len(tokens), positions, probe)])
        found.append(torch.cat([logits.flatten(), kv._keys[:, :, :20].flatten(), kv._values[:, :, :20].flatten()]))
        if probe is not None:
            assert probe.signal is not None
            found[-1] = torch.cat([found[-1], probe.signal])
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("new", "sizes"), [(1, (70,)), (1, (33, 64, 5)), (17, (40, 17)), (9, (300, 50))])
def test_merged_parts_equal_the_whole_in_float64(dtype: torch.dtype, new: int, sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, new, 16, generator=generator).to(dtype)
    key, value = torch.randn(2, 1, 2, sum(sizes), 16, generator=generator).to(dtype)
    *spans, tail = zip(key.split(sizes, 2), value.split(sizes, 2), strict=True)
    out, lse = flash_for_cpu(query, *tail, 0.25, new > 1)
    merged = out.float()
    for part in spans:
        merge_into(merged, lse, slice(0, new), flash_for_cpu(query, *part, 0.25, False))
    expected, expected_lse = written_out.written_out(query.double(), key.double(), value.double(), 0.25, new > 1)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(merged.double(), expected, atol=close, rtol=close)
    torch.testing.assert_close(lse.double(), expected_lse, atol=close, rtol=close)


def test_what_is_written_out_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 21, 8), torch.randn(1, 2, 21, 8)
    whole = written_out.written_out(query, key, value, 0.3, True)
    monkeypatch.setattr(written_out, "_SCORES", 4 * 21 * 2)
    torch.testing.assert_close(written_out.written_out(query, key, value, 0.3, True), whole)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "plain"),
    [
        (torch.bfloat16, 128, gpu.flash),
        (torch.float16, 64, gpu.flash),
        (torch.float32, 128, gpu.efficient),
        (torch.bfloat16, 12, gpu.efficient),
        (torch.bfloat16, 512, gpu.efficient),
    ],
)
def test_kernels_by_dtype_and_width(dtype: torch.dtype, head_dim: int, plain: object) -> None:
    found = choose.kernels_for(torch.device("cuda", 0), dtype, head_dim)
    assert found == Kernels(plain, gpu.efficient_masked)  # type: ignore[arg-type]
    assert not isinstance(choose.by_kind(CPU, dtype, head_dim), SideBySide)


def test_kernels_that_are_right_are_kept() -> None:
    assert choose.tested(STAND_IN, CPU, torch.float32, (4, 2, 16)) == STAND_IN
    assert choose.tested(STAND_IN, CPU, torch.bfloat16, (6, 2, 16)) == STAND_IN


def _upper_left(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    """Causal from the other corner: right wherever there are as many keys as new tokens."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=causal, scale=scale
    )
    return out, lse


def _fails(*_: object) -> Attended:
    raise RuntimeError("no kernel for this device")


def _no_lse(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Attended:
    out, lse = flash_for_cpu(query, key, value, scale, causal)
    return out, torch.zeros_like(lse)


@pytest.mark.parametrize("wrong", [_upper_left, _fails, _no_lse])
def test_kernels_that_are_wrong_are_replaced(wrong: Plain, caplog: pytest.LogCaptureFixture) -> None:
    found = choose.tested(Kernels(wrong, masked_for_cpu), CPU, torch.float32, (4, 2, 16))
    assert found == Kernels(written_out.written_out, masked_for_cpu)
    assert "plain products" in caplog.text
    found = choose.tested(Kernels(flash_for_cpu, _fails), CPU, torch.float32, (4, 2, 16))
    assert found == Kernels(flash_for_cpu, written_out.written_out_masked)


@pytest.mark.parametrize("kind", ["qwen3-8b", "qwen2.5-72b"])
@pytest.mark.parametrize(("new", "sequences"), [(1, 1), (1, 16), (167, 1)])
def test_attention_is_called_by_name_and_joins_nothing(kind: str, new: int, sequences: int) -> None:
    """On a device that is no CPU, in bfloat16."""
    found = meta_pass(kind, new, sequences)
    assert found.names["_scaled_dot_product_flash_attention"] == 2 * 2 * sequences
    assert "scaled_dot_product_attention" not in found.names
    assert found.joined_bytes == 0
    assert not found.waits


def test_masks_are_not_built_for_neighbours_and_not_on_the_host() -> None:
    run = meta_pass("qwen3-8b", 64, 1, positions=range(6100, 6164))
    assert run.names["_scaled_dot_product_flash_attention"] == 2 * 2
    assert "masked_fill" not in run.names
    scattered = meta_pass("qwen3-8b", 64, 1, positions=range(6100, 6228, 2))
    assert scattered.names["_efficient_attention_forward"] == 2
    assert not scattered.waits
    assert not run.waits


def test_launches_counts_what_it_should() -> None:
    """The counter itself: copies to the host, reads of single numbers, and joins of large tensors are seen."""
    with Launches("cpu") as found:
        x = torch.ones(RESIDENT, 4)
        torch.cat([x[:5], x[:5]])
        torch.cat([x, x[:1]])
        float(x.sum())
        x.nonzero()
        x[:5].to("meta")
    assert found.joined_bytes == (RESIDENT + 1) * 16
    assert found.waits == ["_local_scalar_dense", "nonzero"]
    assert found.kernels > 0


def test_pytorchs_chooser_has_no_cudnn_after_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "tested", lambda found, *_: found)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        choose.for_cpu()
        assert torch.backends.cuda.cudnn_sdp_enabled()
        found = choose.for_device(torch.device("cuda", 0), torch.bfloat16, (4, 2, 64), compiled=False)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert found.kernels == Kernels(gpu.flash, gpu.efficient_masked)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(("kind", "launches"), [("qwen3-8b", 13), ("qwen2.5-72b", 11)])
def test_with_a_table_launches_do_not_grow_with_sequences(kind: str, launches: int) -> None:
    """Operators beside the table's own launches, which the meta device does not see."""

    class Nothing(PlainTable):
        def attend(
            self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
        ) -> torch.Tensor:
            return torch.empty_like(query)

    with_table = SideBySide(Kernels(gpu.flash, gpu.efficient_masked, Nothing))
    assert per_layer(kind, 1, 1, attention=with_table) == per_layer(kind, 1, 16, attention=with_table)
    assert per_layer(kind, 1, 16, attention=with_table).total() == launches


def test_without_triton_sequences_are_attended_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "engine.transformers.attention.kernels.spans", None)
    monkeypatch.delattr("engine.transformers.attention.kernels.spans", raising=False)
    assert choose._tested_table(CPU, torch.bfloat16, (4, 2, 64)) is None
    assert "one by one" in caplog.text
