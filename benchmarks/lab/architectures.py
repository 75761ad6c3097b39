"""Published architectures by name, to be measured without their weights.

Sizes are those of the models' own ``config.json`` on the Hugging Face hub (Qwen/Qwen3-8B and so on).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig


@dataclass(frozen=True)
class Architecture:
    """The settings that ``transformers`` needs to build a model of ``kind`` (its ``model_type``)."""

    kind: str
    settings: Mapping[str, Any]

    def config(self, context: int) -> Any:
        """Its config, with room for ``context`` tokens: a longer context changes no layer's time."""
        settings = dict(self.settings)
        settings["max_position_embeddings"] = max(context, settings["max_position_embeddings"])
        return AutoConfig.for_model(self.kind, **settings)


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, *, tied: bool = False) -> Architecture:
    settings = {
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": tied,
    }
    return Architecture("qwen3", settings)


ARCHITECTURES: dict[str, Architecture] = {
    "smollm2-135m": Architecture(
        "llama",
        {
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tied=True),
    "qwen3-8b": _qwen3(4096, 12_288, 36, 32),
    "qwen3-32b": _qwen3(5120, 25_600, 64, 64),
    "qwen2.5-72b": Architecture(
        "qwen2",
        {
            "vocab_size": 152_064,
            "hidden_size": 8192,
            "intermediate_size": 29_568,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "tie_word_embeddings": False,
            "use_sliding_window": False,
        },
    ),
    # For the tests of the lab itself.
    "tiny": Architecture(
        "qwen3",
        {
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "tie_word_embeddings": False,
        },
    ),
}


@dataclass(frozen=True)
class Operation:
    """One step of a pass: floating-point operations, weights read, and numbers of keys and values read."""

    flops: float
    weights: int = 0
    cached: float = 0.0


@dataclass(frozen=True)
class Size:
    """The work of a model, from its config: what it computes and moves. Counts, not bytes."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    head: int
    """Weights of the last layer (logits): the last token of a prompt goes through it."""
    embedding: int
    """Weights of the embedding that are not the last layer's."""

    @classmethod
    def of(cls, config: Any) -> Size:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        words = config.vocab_size * config.hidden_size
        return cls(
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=head_dim,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            head=words,
            embedding=0 if config.tie_word_embeddings else words,
        )

    @property
    def linear(self) -> int:
        """Weights of all linear layers but the last: each token goes through them."""
        return self.layers * sum(self._matrices)

    @property
    def _matrices(self) -> tuple[int, int, int, int]:
        """Weights of a layer's products: queries, keys and values; what comes out of attention; gate and up; down."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            self.hidden * (wide + 2 * narrow),
            wide * self.hidden,
            2 * self.hidden * self.intermediate,
            self.intermediate * self.hidden,
        )

    @property
    def parameters(self) -> int:
        """All weights but the norms' and biases."""
        return self.linear + self.head + self.embedding

    def layer(self, new: int, behind: int) -> list[Operation]:
        """The operations of one layer on ``new`` tokens behind ``behind`` others, as joined as they can be."""
        seen = new * behind + new * (new + 1) / 2
        attention = Operation(
            4.0 * self.heads * self.head_dim * seen, cached=2.0 * self.kv_heads * self.head_dim * behind
        )
        return [*(Operation(2.0 * weights * new, weights) for weights in self._matrices), attention]

    def last(self) -> Operation:
        """The logits of one token."""
        return Operation(2.0 * self.head, self.head)

    def flops(self, new: int, behind: int) -> float:
        """Floating-point operations of computing ``new`` tokens behind ``behind`` others, logits of the last one.

        Two a weight and token; four a head, channel, token and token that it sees (Kaplan et al., arXiv 2001.08361).
        """
        return self.layers * sum(one.flops for one in self.layer(new, behind)) + self.last().flops
