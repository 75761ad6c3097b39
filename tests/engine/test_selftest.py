"""The self-tests at load, in bfloat16 at the depths of real models: noise passes, a key at the wrong place does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine.errors import UnsupportedModel
from engine.transformers import selftest
from engine.transformers.attention.interface import NAME, register
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.selftest import check_attention, find_rotation
from kvcache import Layout, Rotation, UnsupportedRotation, layout_of, rotation_of

WIDTH, HEADS, KV_HEADS, HEAD_DIM = 128, 4, 2, 32
# Kind, layers and width of Qwen3 8B, Qwen3 32B and Qwen2.5 72B. Weights are drawn with the gains that 0.02 has there.
DEEP = [("qwen3", 36, 4096), ("qwen3", 64, 5120), ("qwen2", 80, 8192)]


def deep_network(kind: str, layers: int, width: int, *, tame: bool, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A narrow network of true depth. ``tame``: embeddings of deviation 1, and layers that add little each."""
    settings: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "tie_word_embeddings": False,
        **({"head_dim": HEAD_DIM} if kind == "qwen3" else {}),
    }
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        deviation = 0.02 * math.sqrt(width / parameter.shape[1])
        if "embed" in name:
            deviation = 1.0 if tame else 0.02
        elif tame and name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= 8.0 * math.sqrt(2 * layers)
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    register()
    network.set_attn_implementation(NAME)
    return network


def layout(network: Any) -> Layout:
    return layout_of(network.config, network.dtype)


def keys_shifted(layer: int) -> Any:
    """Have a layer's injected keys lie one position off."""
    fork = SequenceKV.fork

    def shifted(kv: SequenceKV, expected_tokens: int) -> SequenceKV:
        keys = kv.layer(layer)[0][:, : kv.tail_tokens]
        keys.copy_(keys.roll(1, 1))
        return fork(kv, expected_tokens)

    return patch.object(SequenceKV, "fork", shifted)


@pytest.mark.parametrize(("kind", "layers", "width"), DEEP)
def test_depth_alone_is_no_fault(kind: str, layers: int, width: int) -> None:
    network = deep_network(kind, layers, width, tame=True)
    check_attention(network, layout(network))
    assert find_rotation(network, layout(network)) is not None
    for layer in (0, layers // 2, layers - 1):
        with keys_shifted(layer), pytest.raises(UnsupportedModel, match=f"layer {layer}'s keys"):
            check_attention(network, layout(network))


@pytest.mark.parametrize(("kind", "layers", "width"), DEEP)
def test_a_network_that_multiplies_noise_is_held_against_its_own(kind: str, layers: int, width: int) -> None:
    network = deep_network(kind, layers, width, tame=False)
    check_attention(network, layout(network))
    assert find_rotation(network, layout(network)) is not None


def test_float32_is_held_against_a_bound() -> None:
    """Its noise is next to nothing, and not measured."""
    network = deep_network("qwen3", 8, 4096, tame=True, dtype=torch.float32)
    with patch.object(selftest, "_plain", side_effect=AssertionError("measured")):
        check_attention(network, layout(network))
        with keys_shifted(5), pytest.raises(UnsupportedModel):
            check_attention(network, layout(network))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_turn_otherwise_are_not_moved(dtype: torch.dtype) -> None:
    network = deep_network("qwen2", 4, 8192, tame=True, dtype=dtype)
    found = rotation_of(network)
    slower = replace(found, inv_freq=found.inv_freq * 0.99)
    for wrong, works in ((found, True), (slower, False)):
        with patch.object(selftest, "rotation_of", lambda network, wrong=wrong: wrong):
            assert (find_rotation(network, layout(network)) is not None) == works


def test_a_large_bias_hides_no_wrong_rotation() -> None:
    """Biases of keys (Qwen2.5) are larger than what differs; a later layer's must not set the scale."""
    network = deep_network("qwen2", 4, 8192, tame=True)
    network.model.layers[3].self_attn.k_proj.bias.data.fill_(300.0)
    found = rotation_of(network)
    slower = replace(found, inv_freq=found.inv_freq * 0.99)
    assert find_rotation(network, layout(network)) is not None
    with patch.object(selftest, "rotation_of", lambda network: slower):
        assert find_rotation(network, layout(network)) is None


def test_layers_of_several_kinds_are_tested_each() -> None:
    rows = torch.tensor([[1.0, 0.5], [1.0, 0.5], [0.3, 0.1], [1.0, 0.5]])
    assert selftest._first_layers(Rotation(rows)) == [0, 2]
    assert selftest._first_layers(Rotation(rows[:1])) == [0]


def test_without_a_rotary_module_nothing_is_moved() -> None:
    network = deep_network("qwen3", 2, 4096, tame=True)
    refused = patch.object(selftest, "rotation_of", side_effect=UnsupportedRotation("none"))
    with refused:
        assert find_rotation(network, layout(network)) is None


def test_what_is_not_a_number_is_refused() -> None:
    network = deep_network("qwen3", 2, 4096, tame=True)
    network.model.layers[1].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(UnsupportedModel):
        check_attention(network, layout(network))
