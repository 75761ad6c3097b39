"""A joined layer is the layer that it stands in for, in half the launches; where it is not, it does not stand in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GraniteConfig, SmolLM3Config

from engine.transformers import ModelRunner, SequenceKV, Work
from engine.transformers.attention import interface
from engine.transformers.layers.joined import JoinedLayer, join_layers
from kvcache import layout_of
from tests.engine.counting import meta_network, meta_pass, per_layer
from tests.engine.test_fused import SIZES, TOKENS
from tests.tiny import tiny_network

# Launches of a layer before there was any of this, by kind, for one token of one sequence (and of 16).
BEFORE = {"qwen3-8b": 58, "qwen2.5-72b": 42}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "joined"), [("llama", 2), ("mistral", 2), ("qwen2", 2), ("qwen3", 2), ("gemma", 0)])
@torch.inference_mode()
def test_a_joined_network_gives_the_same_logits(kind: str, joined: int, dtype: torch.dtype) -> None:
    network = tiny_network(kind).to(dtype)
    expected = network(TOKENS).logits.float()
    assert join_layers(network) == joined
    found = network(TOKENS).logits.float()
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    else:
        exact = tiny_network(kind).to(dtype).float()(TOKENS).logits  # the same weights: both are as far from it
        assert (found - exact).square().mean() < 1.2 * (expected - exact).square().mean() + 1e-12


@torch.inference_mode()
def test_biases_everywhere_and_norms_with_weights() -> None:
    for kind, settings in (("llama", {"attention_bias": True, "mlp_bias": True}), ("qwen3", {})):
        network = tiny_network(kind, **settings)
        for name, weight in network.named_parameters():
            if "norm" in name or name.endswith("bias"):
                nn.init.normal_(weight, mean=float("norm" in name), std=0.5)
        expected = network(TOKENS).logits
        assert join_layers(network) == 2
        torch.testing.assert_close(network(TOKENS).logits, expected, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_layers_that_only_look_like_it_are_left_as_they_are() -> None:
    granite = AutoModelForCausalLM.from_config(GraniteConfig(**SIZES, residual_multiplier=0.3)).eval()
    assert join_layers(granite) == 0
    smol = AutoModelForCausalLM.from_config(SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1])).eval()
    expected = smol(TOKENS).logits
    assert join_layers(smol) == 2
    assert not isinstance(smol.model.layers[1], JoinedLayer)
    torch.testing.assert_close(smol(TOKENS).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@torch.inference_mode()
def test_rows_without_logits_end_early_and_change_nothing(kind: str) -> None:
    """The last layer gives their keys and values, and what comes next is as if it had given all."""
    network = tiny_network(kind)
    assert join_layers(network) == 2
    interface.register()
    network.set_attn_implementation(interface.NAME)
    layout, tokens = layout_of(network.config, torch.float32), TOKENS[0].tolist()
    found = []
    for n_logits in ((50, 7), (0, 1), (1, 7), (3, 1)):
        runner, kv = ModelRunner(network), SequenceKV(layout, torch.device("cpu"), 64)
        first = runner.forward([Work(kv, tokens, n_logits[0])])
        second = runner.forward([Work(kv, tokens[:7], n_logits[1])])
        assert (len(first), len(second)) == n_logits
        found.append((first[-1:], second[-1:]))
    for first, second in found[1:]:
        torch.testing.assert_close(second, found[0][1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(first, found[0][0][: len(first)], atol=1e-5, rtol=1e-5)


def test_several_rows_of_sequences_are_refused() -> None:
    network = tiny_network()
    join_layers(network)
    with pytest.raises(ValueError, match="one row"):
        network(torch.cat([TOKENS, TOKENS]))


@pytest.mark.parametrize("kind", ["qwen3-8b", "qwen2.5-72b"])
@pytest.mark.parametrize("new", [1, 167])
def test_half_the_launches_a_layer(kind: str, new: int) -> None:
    """Counted on the meta device for a sequence behind a resident span."""
    found = per_layer(kind, new, 1)
    assert 2 * found.total() <= BEFORE[kind], found


@pytest.mark.parametrize("kind", ["qwen3-8b", "qwen2.5-72b"])
def test_linear_layers_take_all_sequences_at_once(kind: str) -> None:
    one, sixteen = per_layer(kind, 1, 1), per_layer(kind, 1, 16)
    for name in ("linear", "addmm_", "rms_norm", "silu", "addcmul_", "mul", "mul_"):
        assert one[name] == sixteen[name]
    assert one["linear"] + one["addmm_"] == 4


def test_a_pass_waits_for_nothing() -> None:
    for kind in ("qwen3-8b", "qwen2.5-72b"):
        found = meta_pass(kind, 5, 3, network=meta_network(kind, joined=True))
        assert not found.waits
        assert found.joined_bytes == 0


@pytest.mark.parametrize("kind", ["qwen3-8b", "qwen2.5-72b"])
def test_results_of_many_sequences_are_merged_at_once(kind: str) -> None:
    """Each of them brings two kernels of attention and two copies of what is new, and nothing else."""
    one, sixteen = per_layer(kind, 1, 1), per_layer(kind, 1, 16)
    for name in ("sub", "sigmoid", "lerp_", "to"):
        assert one[name] == sixteen[name]
    assert sixteen["_scaled_dot_product_flash_attention"] == sixteen["copy_"] == 32
