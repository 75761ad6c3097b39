"""How many parameters a model has: counted where it is loaded, and from its configuration alone."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, Wav2Vec2Config

from engine.parameters import parameters_of
from engine.transformers import LoadedModel
from tests.tiny import CONFIGS, tiny_config, tiny_model


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_configuration_alone_says_it(kind: str) -> None:
    assert parameters_of(tiny_config(kind)) == tiny_model(kind).parameters


def test_it_is_the_demo_models_number(demo_model: LoadedModel) -> None:
    assert demo_model.parameters == 134_515_008
    assert parameters_of(demo_model.model.config) == 134_515_008


def test_of_a_large_model_nothing_is_made() -> None:
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    assert parameters_of(config) == 70_553_706_496


def test_of_other_networks_it_is_not_known() -> None:
    assert parameters_of(Wav2Vec2Config()) is None
    assert parameters_of(object()) is None
