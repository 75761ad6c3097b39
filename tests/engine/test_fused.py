"""A fused layer is the layer that it stands in for, or does not stand in for it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, GraniteConfig, SmolLM3Config

from engine.transformers import ModelRunner, SequenceKV, Work, prepare
from engine.transformers.layers.fused import FusedLayer, fuse_layers
from engine.transformers.layers.packing import can_pack, packed, product
from tests.tiny import tiny_network, tiny_tokenizer

pytestmark = pytest.mark.skipif(not can_pack(nn.Linear(2, 2)), reason="needs oneDNN")
TOKENS = torch.tensor([[(i * 61 + 7) % 250 for i in range(50)]])
SIZES = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(("kind", "fused"), [("llama", 2), ("mistral", 2), ("qwen2", 2), ("qwen3", 2), ("gemma", 0)])
@torch.inference_mode()
def test_a_fused_network_gives_the_same_logits(kind: str, fused: int) -> None:
    network = tiny_network(kind)
    expected = network(TOKENS).logits
    assert fuse_layers(network) == fused
    torch.testing.assert_close(network(TOKENS).logits, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_biases_everywhere() -> None:
    network = tiny_network("llama", attention_bias=True, mlp_bias=True)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias)
    expected = network(TOKENS).logits
    assert fuse_layers(network) == 2
    torch.testing.assert_close(network(TOKENS).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@torch.inference_mode()
def test_rows_without_logits_end_early_and_change_nothing(kind: str) -> None:
    """The last layer gives their keys and values, and what comes next is as if it had given all."""
    network = tiny_network(kind)
    model = prepare(network, tiny_tokenizer())
    assert isinstance(network.model.layers[-1], FusedLayer)
    tokens = TOKENS[0].tolist()
    found = []
    for n_logits in ((50, 7), (0, 1), (1, 7), (3, 1)):
        runner, kv = ModelRunner(network), SequenceKV(model.fingerprint.layout, model.device, 64)
        first = runner.forward([Work(kv, tokens, n_logits[0])])
        second = runner.forward([Work(kv, tokens[:7], n_logits[1])])
        assert (len(first), len(second)) == n_logits
        found.append((first[-1:], second[-1:]))
    for first, second in found[1:]:
        torch.testing.assert_close(second, found[0][1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(first, found[0][0][: len(first)], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_norms_have_weights_of_their_own() -> None:
    network = tiny_network("qwen3")
    for name, weight in network.named_parameters():
        if "norm" in name:
            nn.init.normal_(weight, mean=1.0, std=0.5)
    expected = network(TOKENS).logits
    assert fuse_layers(network) == 2
    torch.testing.assert_close(network(TOKENS).logits, expected, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_layers_that_only_look_like_it_are_left_as_they_are() -> None:
    granite = AutoModelForCausalLM.from_config(GraniteConfig(**SIZES, residual_multiplier=0.3)).eval()
    assert fuse_layers(granite) == 0
    some_without_rope = SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1])
    smol = AutoModelForCausalLM.from_config(some_without_rope).eval()
    expected = smol(TOKENS).logits
    fuse_layers(smol)
    assert not isinstance(smol.model.layers[1], FusedLayer)
    torch.testing.assert_close(smol(TOKENS).logits, expected, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 90), n_in=st.integers(1, 64), outs=st.lists(st.integers(1, 48), min_size=1, max_size=3))
@torch.inference_mode()
def test_products_with_their_endings(rows: int, n_in: int, outs: list[int]) -> None:
    torch.manual_seed(rows)
    linears = [nn.Linear(n_in, n_out, bias=i != 1) for i, n_out in enumerate(outs)]
    inputs, scale, other = torch.randn(1, rows, n_in), torch.randn(n_in), torch.randn(1, rows, sum(outs))
    layer = packed(linears, scale)
    expected = torch.cat([linear(inputs * scale) for linear in linears], dim=-1)
    torch.testing.assert_close(product(inputs, layer), expected, atol=1e-4, rtol=1e-4)
    swished = product(inputs, layer, activation="swish")
    torch.testing.assert_close(swished, torch.nn.functional.silu(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(product(inputs, layer, times=other), expected * other, atol=1e-4, rtol=1e-4)
    kept = other.clone()
    torch.testing.assert_close(product(inputs, layer, plus=other), expected + other, atol=1e-4, rtol=1e-4)
    assert torch.equal(other, kept)
