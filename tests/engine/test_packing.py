from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.transformers.layers.packing import PackedLinear, can_pack, pack_linears
from tests.tiny import tiny_network

needs_onednn = pytest.mark.skipif(not can_pack(nn.Linear(2, 2)), reason="needs oneDNN")


@needs_onednn
@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 200), n_in=st.integers(1, 96), n_out=st.integers(1, 96), bias=st.booleans())
def test_a_packed_layer_is_the_layer(rows: int, n_in: int, n_out: int, bias: bool) -> None:
    torch.manual_seed(rows)
    linear, inputs = nn.Linear(n_in, n_out, bias=bias), torch.randn(1, rows, n_in)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs), atol=1e-5, rtol=1e-5)


@needs_onednn
@torch.inference_mode()
def test_a_packed_network_gives_the_same_logits() -> None:
    tokens = torch.arange(60)[None]
    network = tiny_network("qwen2")  # has biases
    expected = network(tokens).logits
    assert pack_linears(network) == 2 * 7 + 1
    assert not any(type(module) is nn.Linear for module in network.modules())
    torch.testing.assert_close(network(tokens).logits, expected, atol=1e-4, rtol=1e-4)
    assert network.get_input_embeddings().weight.dtype == torch.float32


def test_other_dtypes_are_left_alone() -> None:
    assert not can_pack(tiny_network().to(torch.bfloat16))
