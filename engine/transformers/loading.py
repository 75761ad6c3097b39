"""Load a model and find out whether segments can be injected into it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.config import EngineConfig, TransformersConfig
from engine.dtype import choose_dtype
from engine.errors import ModelNotLoaded, UnsupportedModel, first_line
from engine.transformers.attention.choose import for_cpu, for_device, quick_native, use
from engine.transformers.attention.interface import NAME, register
from engine.transformers.attention.one_by_one import OneByOne
from engine.transformers.layers.fused import fuse_layers
from engine.transformers.layers.joined import join_layers
from engine.transformers.layers.packing import can_pack, pack_linears
from engine.transformers.selftest import check_attention, find_rotation
from kvcache import Fingerprint, Rotation
from kvcache.copies import CPU, indexed, use_device

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checked model. ``context`` is the greatest number of tokens, prompt and answer together; ``rotation`` moves
    its keys (None where that cannot be done: its segments are chained ones only). ``parameters``: how many it has."""

    model: Any
    tokenizer: Any
    fingerprint: Fingerprint
    context: int
    eos_token_ids: frozenset[int]
    rotation: Rotation | None = None
    parameters: int | None = None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device


def choose_device(wanted: str) -> torch.device:
    """Choose a device by name; ``auto`` is the first CUDA device where there is one, else the CPU. Raises
    ``ModelNotLoaded``."""
    if wanted != "auto":
        try:
            return torch.empty(0, device=wanted).device
        except (RuntimeError, AssertionError) as error:  # an assertion: torch was built without that back end
            raise ModelNotLoaded(f"there is no device '{wanted}' here") from error
    return indexed(torch.device("cuda")) if torch.cuda.is_available() else CPU


def load_model(
    model: str | Path,
    *,
    device: str = TransformersConfig.device,
    dtype: str = EngineConfig.dtype,
    context: int | None = None,
    native: bool = TransformersConfig.native,
) -> LoadedModel:
    """Load a Hugging Face id or folder. ``native``: see :func:`prepare`. Raises ``ModelNotLoaded`` or
    ``UnsupportedModel``."""
    register()
    chosen_device = choose_device(device)
    use_device(chosen_device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    log.info("loading %s on %s as %s", model, chosen_device, str(chosen_dtype).removeprefix("torch."))
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForCausalLM.from_pretrained(
            model, dtype=chosen_dtype, attn_implementation=NAME, **_placed(chosen_device)
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelNotLoaded(f"the model '{model}' cannot be loaded: {first_line(error)}") from error
    return prepare(network.eval(), tokenizer, folder=_folder_of(network), context=context, native=native)


def _placed(device: torch.device) -> dict[str, Any]:
    """Have the weights read straight to the device: they may be larger than the host's memory."""
    return {} if device == CPU else {"device_map": {"": device}}


def _folder_of(network: Any) -> Path | None:
    """Find the checkpoint's files: a folder, or a hub download in the cache; None for a model made in memory."""
    name = network.config._name_or_path
    if Path(name).is_dir():
        return Path(name) if name else None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # no such download, or no name of one
        return None


def prepare(
    network: Any,
    tokenizer: Any,
    *,
    folder: Path | None = None,
    context: int | None = None,
    native: bool = TransformersConfig.native,
) -> LoadedModel:
    """Check a model that is loaded already, and make it ready: its attention and its linear layers are replaced.
    ``native``: attention is compiled, on a CPU in float32 where there is a compiler, on a GPU by Triton. Raises
    ``UnsupportedModel``."""
    register()
    network.set_attn_implementation(NAME)
    config = network.config
    _refuse_unsupported(config)
    limit = _context(config)
    if context is not None and context > limit:
        raise UnsupportedModel(f"the model's context is {limit} tokens, {context} were asked for")
    fingerprint = Fingerprint.of_model(network, tokenizer, folder=folder)
    parameters = network.num_parameters()  # before layers are replaced
    if can_pack(network):
        fused = fuse_layers(network)
        log.info("fused %d layers and packed %d more linear ones for the CPU", fused, pack_linears(network))
        use(network, _compiled_for_cpu(native))
    elif network.device.type != "cpu":
        log.info("joined the steps of %d layers", join_layers(network))
        layout = fingerprint.layout
        heads = config.num_attention_heads, layout.kv_heads, layout.head_dim
        use(network, for_device(network.device, layout.torch_dtype, heads, compiled=native))
    loaded = LoadedModel(network, tokenizer, fingerprint, context or limit, _eos_token_ids(network, tokenizer))
    check_attention(network, fingerprint.layout)
    return replace(loaded, rotation=find_rotation(network, fingerprint.layout), parameters=parameters)


def _compiled_for_cpu(native: bool) -> OneByOne:
    found = quick_native() if native else "the compiled one is turned off"
    kernel = None if isinstance(found, str) else found
    log.info("attention was compiled for this CPU" if kernel else f"attention is PyTorch's: {found}")
    return for_cpu(kernel)


def _refuse_unsupported(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds and not _window_covers_context(config):
        raise UnsupportedModel(f"layers of kind {', '.join(sorted(kinds))} cannot take injected segments")


def _window_covers_context(config: Any) -> bool:
    return set(config.layer_types) <= {"full_attention", "sliding_attention"} and bool(
        getattr(config, "sliding_window", None)
    )


def _context(config: Any) -> int:
    """Return the model's context; with sliding windows only as far as they are full attention, with rotary scalings
    that change with the sequence's length (longrope; dynamic does so beyond ``max_position_embeddings`` only) as far as
    they do not."""
    context: int = config.max_position_embeddings
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if kind.get("rope_type") == "longrope":
            context = min(context, kind["original_max_position_embeddings"])
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        context = min(context, window)
    return context


def _eos_token_ids(network: Any, tokenizer: Any) -> frozenset[int]:
    ids = network.generation_config.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(i for i in [*listed, getattr(tokenizer, "eos_token_id", None)] if i is not None)
