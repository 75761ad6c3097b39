"""A tiny seeded model and a byte-level tokenizer, built from a config: fast, and real code all the way."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import (
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from engine.transformers import LoadedModel, prepare
from tests.families import byte_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")
CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
}


@functools.cache
def tiny_tokenizer(template: str = TEMPLATE) -> Any:
    """One token a byte, and the two special tokens of the template."""
    tokenizer = byte_tokenizer(template)
    tokenizer.add_special_tokens({"bos_token": SPECIAL[0], "eos_token": SPECIAL[1]})
    return tokenizer


def tiny_config(kind: str = "llama", **overrides: Any) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": 258,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 2048,
        "eos_token_id": 257,
        "bos_token_id": 256,
        "pad_token_id": None,
        "sliding_window": None,
        "initializer_range": 0.2,
    }
    return CONFIGS[kind](**{**settings, **overrides})


def tiny_network(kind: str = "llama", seed: int = 0, **overrides: Any) -> Any:
    """Weights drawn wide (0.2), so that attention is far from uniform and a wrong key shows."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_config(kind, **overrides)).eval()


def tiny_model(kind: str = "llama", seed: int = 0, **overrides: Any) -> LoadedModel:
    return prepare(tiny_network(kind, seed, **overrides), tiny_tokenizer())
