"""The Triton kernels under Triton's interpreter, which computes on CPU tensors. Needs Triton:
``TRITON_INTERPRET=1 python -m pytest tests/engine/test_span_kernels.py`` where it is installed."""

from __future__ import annotations

import os

import pytest
import torch

from engine.transformers.attention import choose
from engine.transformers.attention.kernels.base import Kernels
from engine.transformers.attention.kernels.written_out import written_out, written_out_masked
from engine.transformers.attention.side_by_side import SideBySide

pytest.importorskip("triton", reason="Triton is installed with PyTorch for GPUs only")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is chosen before it is imported", allow_module_level=True)

from triton.runtime import interpreter

from engine.transformers import ModelRunner, SequenceKV, Work
from engine.transformers.attention.kernels import spans
from engine.transformers.attention.kernels.spans import SpanTable, fits
from tests.tiny import tiny_model, tiny_network

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(autouse=True)
def _indices_of_one_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6 makes numbers of one-element arrays as numpy 2.4 no longer allows; later ones do not."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: object, *scope: object) -> None:
        patch(tensor, *scope)
        if scope:
            scope[0].set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # type: ignore[attr-defined]
        else:
            tensor.__index__ = lambda self: int(self.handle.data.item())  # type: ignore[attr-defined]

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)


def sequences_of(lengths: list[list[int]], kv_heads: int, width: int, dtype: torch.dtype) -> list[Pairs]:
    """Spans of such lengths within larger buffers, the slot of the new token at the end of the last."""
    generator = torch.Generator().manual_seed(0)

    def pair(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        whole = torch.randn(2, 3, kv_heads, n + 7, width, generator=generator).to(dtype)
        return whole[0, :, :, 2 : n + 2], whole[1, :, :, 2 : n + 2]

    return [[pair(n) for n in spans] for spans in lengths]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "lengths", "dtype"),
    [
        (4, 2, 16, [[10, 1]], torch.float32),
        (8, 2, 32, [[150, 70], [1], [64, 128, 9]], torch.float32),
        (9, 3, 16, [[50, 65], [200]], torch.float32),
        (16, 1, 64, [[90, 3]], torch.float16),
        (32, 8, 128, [[300, 20], [300, 5]], torch.float16),
    ],
)
def test_tokens_over_their_spans_against_float64(
    heads: int, kv_heads: int, width: int, lengths: list[list[int]], dtype: torch.dtype
) -> None:
    sequences = sequences_of(lengths, kv_heads, width, dtype)
    n, layer = len(sequences), 1
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(n, heads, width, generator=generator).to(dtype).transpose(0, 1)[None]
    key, value = torch.randn(2, n, kv_heads, width, generator=generator).to(dtype).transpose(1, 2)
    before = [[(k.clone(), v.clone()) for k, v in pairs] for pairs in sequences]
    found = SpanTable(sequences).attend(layer, query, key, value, width**-0.5)
    for i, (pairs, old) in enumerate(zip(sequences, before, strict=True)):
        assert torch.equal(pairs[-1][0][layer, :, -1], key[:, i])
        assert torch.equal(pairs[-1][1][layer, :, -1], value[:, i])
        for (keys, values), (old_keys, old_values) in zip(pairs, old, strict=True):
            assert torch.equal(keys[[0, 2]], old_keys[[0, 2]])  # other layers are as they were
            assert torch.equal(values[:, :, :-1], old_values[:, :, :-1])
        whole = [torch.cat([pair[which][layer] for pair in pairs], 1)[None].double() for which in (0, 1)]
        expected, _ = written_out(query[:, :, i : i + 1].double(), whole[0], whole[1], width**-0.5, False)
        close = 1e-5 if dtype == torch.float32 else 5e-3
        torch.testing.assert_close(found[:, :, i : i + 1].double(), expected, atol=close, rtol=close)


def test_a_model_decodes_by_them() -> None:
    """Three sequences, two of which share a segment, beside a prompt, against full prefill."""
    model, tokens = tiny_model("qwen3", head_dim=16), tuple((i * 61 + 7) % 250 for i in range(30))
    network, cpu = tiny_network("qwen3", head_dim=16), torch.device("cpu")
    runner, trunk = ModelRunner(model.model), SequenceKV(model.fingerprint.layout, cpu, 8)
    runner.forward([Work(trunk, tokens[:11])])
    forks = [trunk.fork(4), trunk.fork(4), trunk]
    work = [Work(SequenceKV(model.fingerprint.layout, cpu, 8), tokens[:5])]
    work += [Work(fork, (token,)) for fork, token in zip(forks, (3, 4, 5), strict=True)]
    choose.use(model.model, SideBySide(Kernels(written_out, written_out_masked, SpanTable)))
    found = runner.forward(work)
    with torch.inference_mode():
        for row, ids in zip(found, (tokens[:5], *((*tokens[:11], token) for token in (3, 4, 5))), strict=True):
            torch.testing.assert_close(row, network(torch.tensor([ids])).logits[0, -1], atol=1e-4, rtol=1e-4)


def test_what_is_wrong_is_found_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert spans.problem(cpu, torch.float16, (8, 2, 16)) is None
    assert spans.problem(cpu, torch.float16, (8, 2, 24)) == "heads are 24 wide"
    monkeypatch.setattr(SpanTable, "attend", lambda self, layer, query, *_: query)
    assert spans.problem(cpu, torch.float16, (8, 2, 16)) == "a key is not where it was to be written"


def test_spans_whose_tokens_do_not_lie_behind_each_other_are_refused() -> None:
    keys, values = sequences_of([[4]], 2, 16, torch.float32)[0][0]
    with pytest.raises(ValueError, match="behind each other"):
        SpanTable([[(keys[:, :, ::2], values[:, :, ::2])]])


def test_widths() -> None:
    assert [width for width in (8, 16, 64, 80, 96, 128, 256) if fits(width)] == [16, 64, 128, 256]
