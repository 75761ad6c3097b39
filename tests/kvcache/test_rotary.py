"""Moving keys: the maths by properties, the models by their own keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, PhiConfig
from transformers.cache_utils import DynamicCache
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from kvcache import Rotation, UnsupportedRotation, rotation_of
from tests.tiny import tiny_config, tiny_network

distances = st.integers(-5000, 5000)


def keys_of(seed: int, tokens: int = 5) -> torch.Tensor:
    return torch.randn(3, 2, tokens, 8, generator=torch.Generator().manual_seed(seed))


def rotations() -> st.SearchStrategy[Rotation]:
    def make(rotary_dim: int, layers: int, interleaved: bool, base: float) -> Rotation:
        steps = torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim
        return Rotation((base**-steps).expand(layers, -1), interleaved)

    return st.builds(make, st.sampled_from([4, 8]), st.sampled_from([1, 3]), st.booleans(), st.floats(10, 1e6))


@given(rotations(), distances, distances, st.integers(0, 100))
def test_two_moves_are_one(rotation: Rotation, a: int, b: int, seed: int) -> None:
    keys = keys_of(seed)
    twice = rotation.turned(rotation.turned(keys, a), b)
    torch.testing.assert_close(twice, rotation.turned(keys, a + b), atol=1e-5, rtol=1e-5)


@given(rotations(), distances, st.integers(0, 100))
def test_there_and_back_is_where_it_was(rotation: Rotation, a: int, seed: int) -> None:
    keys = keys_of(seed)
    torch.testing.assert_close(rotation.turned(rotation.turned(keys, a), -a), keys, atol=1e-5, rtol=1e-5)
    assert torch.equal(rotation.turned(keys, 0), keys)


@given(rotations(), st.permutations(range(4)), st.integers(0, 100))
def test_segments_in_another_order_and_back_are_as_they_were(rotation: Rotation, order: list[int], seed: int) -> None:
    segments = [keys_of(seed + i, tokens=3 + i) for i in range(4)]
    home = [sum(s.shape[2] for s in segments[:i]) for i in range(4)]
    begin = 0
    for i in order:
        moved = rotation.turned(segments[i], begin - home[i])
        back = rotation.turned(moved, home[i] - begin)
        torch.testing.assert_close(back, segments[i], atol=1e-5, rtol=1e-5)
        begin += segments[i].shape[2]


@given(rotations(), st.lists(distances, min_size=5, max_size=5), st.integers(0, 100))
def test_a_distance_for_each_token(rotation: Rotation, offsets: list[int], seed: int) -> None:
    keys = keys_of(seed)
    together = rotation.turned(keys, torch.tensor(offsets))
    for token, offset in enumerate(offsets):
        one = rotation.turned(keys[:, :, token : token + 1], offset)
        torch.testing.assert_close(together[:, :, token : token + 1], one)


@given(rotations(), distances)
def test_length_is_kept_and_a_destination_is_filled(rotation: Rotation, offset: int) -> None:
    keys = keys_of(0)
    out = torch.full((3, 2, 9, 8), -1.0)
    rotation.turned(keys, offset, out=out[:, :, 2:7])
    torch.testing.assert_close(out[:, :, 2:7].norm(dim=-1), keys.norm(dim=-1))
    assert (out[:, :, :2] == -1).all()
    assert (out[:, :, 7:] == -1).all()


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 512},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "rope_theta": 5e5,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def _from(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def _sizes() -> dict[str, Any]:
    config = tiny_config()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    return {name: getattr(config, name) for name in names}


NETWORKS = {
    **{f"llama, {name}": lambda rope=rope: tiny_network(rope_parameters=rope) for name, rope in ROPES.items()},  # type: ignore[misc]
    "qwen2": lambda: tiny_network("qwen2"),
    "qwen3": lambda: tiny_network("qwen3"),
    "mistral": lambda: tiny_network("mistral"),
    "gemma": lambda: tiny_network("gemma"),
    "phi, partial": lambda: _from(PhiConfig(**{**_sizes(), "num_attention_heads": 2, "partial_rotary_factor": 0.5})),
    "gemma3, two kinds of layers": lambda: _from(
        Gemma3TextConfig(
            **_sizes(),
            num_key_value_heads=2,
            rope_parameters=GEMMA3_ROPE,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=512,
        )
    ),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", NETWORKS)
def test_turned_keys_are_those_the_model_computes_there(name: str) -> None:
    """Against plain transformers: the same tokens at other positions, nothing before them."""
    network: Any = NETWORKS[name]()
    rotation = rotation_of(network)
    tokens = torch.tensor([[5, 17, 42, 99, 3]])

    def keys_at(position: int) -> torch.Tensor:
        cache = DynamicCache()
        positions = torch.arange(position, position + 5)[None]
        network(tokens, position_ids=positions, past_key_values=cache, use_cache=True)
        return torch.stack([layer.keys[0] for layer in cache.layers])

    here = keys_at(3)
    for position in (0, 4, 250):
        torch.testing.assert_close(rotation.turned(here, position - 3), keys_at(position), atol=2e-4, rtol=2e-4)


def test_a_model_without_rotary_embedding_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedRotation, match="Linear"):
        rotation_of(torch.nn.Linear(2, 2))
