"""Everything that a segment's numbers depend on, as a hash.

Two models whose fingerprints are equal give the same keys and values for the same tokens; segments of one are
refused, not loaded, under any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kvcache import hashing

FORMAT = "recallkv.segment/2"
# Settings that say how a model is run or where it came from, not what it computes.
_VOLATILE_CONFIG = frozenset(
    {
        "_name_or_path",
        "_attn_implementation",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "id2label",
        "label2id",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "problem_type",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
    }
)
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Layout:
    """Shape of one token's keys and values. ``dtype`` is torch's name without the prefix (``float32``)."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.torch_dtype.itemsize

    def shape(self, n_tokens: int) -> tuple[int, int, int, int]:
        """Return the shape of the keys (and of the values) of ``n_tokens`` tokens."""
        return (self.layers, self.kv_heads, n_tokens, self.head_dim)


@dataclass(frozen=True)
class Fingerprint:
    """Everything a segment's numbers depend on; each field but ``layout`` is a hex digest or a short name."""

    weights: str
    config: str
    tokenizer: str
    chat_template: str
    attention: str
    layout: Layout
    codec: str = "none"
    format: str = FORMAT

    @cached_property
    def digest(self) -> str:
        """64 hex digits that stand for all fields."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "layout"}
        layout = {name: getattr(self.layout, name) for name in self.layout.__dataclass_fields__}
        return _hash_json({**fields, "layout": layout})

    @classmethod
    def of_model(
        cls, model: torch.nn.Module, tokenizer: Any = None, *, folder: str | Path | None = None
    ) -> Fingerprint:
        """Make the fingerprint of a transformers causal language model.

        ``folder`` is the checkpoint's folder where there is one: its safetensors files are then sampled, so
        that every engine that runs the same checkpoint gets the same digest. Otherwise the parameters are.
        """
        config: Any = model.config
        weights = _weights_of_folder(Path(folder)) if folder is not None else None
        weights = weights or _weights_of_parameters(model.named_parameters())
        return cls._of(weights, config, tokenizer, next(model.parameters()).dtype)

    @classmethod
    def of_checkpoint(cls, folder: str | Path, config: Any, tokenizer: Any, dtype: torch.dtype) -> Fingerprint:
        """Make the fingerprint that :meth:`of_model` gives for the model in ``folder``, without loading its weights.

        ``config`` and ``tokenizer`` are transformers'. Raises ``FileNotFoundError`` where the folder holds no
        safetensors files.
        """
        weights = _weights_of_folder(Path(folder))
        if weights is None:
            raise FileNotFoundError(f"{folder} holds no safetensors files")
        return cls._of(weights, config, tokenizer, dtype)

    @classmethod
    def _of(cls, weights: str, config: Any, tokenizer: Any, dtype: torch.dtype) -> Fingerprint:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return cls(
            weights=weights,
            config=_hash_json({k: v for k, v in config.to_dict().items() if k not in _VOLATILE_CONFIG}),
            tokenizer=_hash_text(backend.to_str() if backend is not None else repr(tokenizer)),
            chat_template=_hash_text(str(getattr(tokenizer, "chat_template", None))),
            attention="full-causal",
            layout=layout_of(config, dtype),
        )


def layout_of(config: Any, dtype: torch.dtype) -> Layout:
    """Return the layout of the keys and values of a model with this transformers config."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Layout(config.num_hidden_layers, kv_heads, head_dim, str(dtype).removeprefix("torch."))


def _hash_text(text: str) -> str:
    return hashing.digest(text.encode())


def _hash_json(value: Mapping[str, Any]) -> str:
    return _hash_text(json.dumps(value, sort_keys=True, default=str))


def _weights_of_parameters(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> str:
    """Hash of names, shapes and an even sample of each tensor: fine-tuning moves nearly all of them."""
    hasher = hashing.hasher()
    for name, parameter in parameters:
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // 1024)
        sample = flat[::step][:1024].to("cpu", torch.float32).contiguous()
        hasher.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        hasher.update(np.ascontiguousarray(sample.numpy()).tobytes())
    return str(hasher.hexdigest())


def _weights_of_folder(folder: Path) -> str | None:
    """Hash of every safetensors header and of the first and middle bytes of each tensor; None without files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    hasher = hashing.hasher()
    for file in files:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = stream.read(header_bytes)
            hasher.update(header)
            for name, entry in sorted(json.loads(header).items()):
                if name == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                for offset in (begin, begin + (end - begin) // 2):
                    stream.seek(8 + header_bytes + offset)
                    hasher.update(stream.read(min(_SAMPLE_BYTES, end - offset)))
    return str(hasher.hexdigest())
