"""Models with random weights, made where they run: no download, and never a second copy in host memory.

Times hardly depend on the weights' values, but results do: a network of 64 or 80 layers drawn like a new one, all
branches as large as the sum they are added to, blows rounding up until nothing can be compared in bfloat16. So the
branches are drawn small beside the embeddings (*tame*), as training leaves them. Where a model does not fit, ``shared``
has a few layers' weights used in turn, so that each pass still reads and multiplies all that it would; ``fp8`` holds
8-bit floats, which changes times. Results say which.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from benchmarks.lab.architectures import Architecture, Size

Kind = Literal["full", "shared", "fp8"]
KINDS: tuple[Kind, ...] = ("full", "shared", "fp8")
_DEVIATION = 0.02
# At least that makes a linear layer's outputs this much larger than its inputs, as 0.02 does at a width of 4096: in a
# narrow network the branches would vanish beside the embeddings.
_GAIN = 1.28
# How much smaller than the embeddings a tame network's branches are, beside 1 / sqrt(2 layers).
_TAMING = 8.0
# The logit of a token behind itself where the embedding is the last layer too.
_OWN_LOGIT = 8.0
_BRANCH_ENDS = ("o_proj", "down_proj")
# Of a GPU's memory: keys, values, activations and the allocator's own share have to fit beside the weights.
_WEIGHTS_SHARE = 0.8
# Of a GPU's memory, for the layers that others share: the less, the more is left for keys and values.
_SHARED_SHARE = 0.45
# The largest number of the format, less what rounding a scale to bfloat16 can add.
_LARGEST = 440.0


class Fp8Linear(nn.Module):
    """A linear layer whose weights are 8-bit floats with one scale, so that the largest one is the format's largest;
    inputs are scaled by row, as they come.

    Products are made by ``torch._scaled_mm`` in the device's 8-bit matrix units.
    """

    _columns: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = (weight.abs().amax() / _LARGEST).float().clamp(min=1e-12)
        self.weight = nn.Parameter((weight / scale.to(weight.dtype)).to(torch.float8_e4m3fn), requires_grad=False)
        self.scale = nn.Parameter(scale.to(weight.dtype).float().view(1, 1), requires_grad=False)
        self.register_buffer("_columns", self.scale.expand(1, self.out_features).contiguous(), persistent=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features], in the inputs' dtype."""
        small, scale = self.scaled(inputs.reshape(-1, self.in_features))
        out = self.product(small, scale, inputs.dtype)
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out.view(*inputs.shape[:-1], self.out_features)

    def scaled(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows, in_features] as 8-bit floats, and each row's scale, float32 [rows, 1]. Nothing larger than the inputs
        is made: the scales are rounded to their dtype first."""
        scale = (rows.abs().amax(-1, keepdim=True) / _LARGEST).clamp(min=1e-12)
        return (rows / scale).to(torch.float8_e4m3fn), scale.float()

    def product(self, small: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Multiply what :meth:`scaled` gave by the weights."""
        return torch._scaled_mm(
            small, self.weight.t(), scale, self._columns, out_dtype=dtype, use_fast_accum=small.is_cuda
        )


def choose_kind(size: Size, dtype: torch.dtype, device: torch.device) -> Kind:
    """``full`` where the weights fit on the device beside what else has to be there, else ``shared``."""
    if device.type != "cuda":
        return "full"
    memory = torch.cuda.get_device_properties(device).total_memory
    return "full" if size.parameters * dtype.itemsize <= _WEIGHTS_SHARE * memory else "shared"


def distinct_layers(size: Size, dtype: torch.dtype, device: torch.device) -> int:
    """Count the layers with weights of their own in a ``shared`` network: as many as fit in not quite half of the
    device's memory, at least two (of two, each is out of the device's caches when its turn comes)."""
    if device.type != "cuda":
        return max(1, size.layers // 2)
    memory = torch.cuda.get_device_properties(device).total_memory
    room = _SHARED_SHARE * memory / dtype.itemsize - size.head - size.embedding
    return max(2, min(size.layers, int(room / (size.linear / size.layers))))


@torch.no_grad()
def random_network(
    architecture: Architecture,
    context: int,
    device: torch.device,
    dtype: torch.dtype,
    kind: Kind = "full",
    seed: int = 0,
    distinct: int | None = None,
) -> Any:
    """A transformers model with normally distributed, tame weights; norms are one, biases zero. ``distinct``: of the
    kind ``shared``, how many layers have weights of their own (default: :func:`distinct_layers`)."""
    config = architecture.config(context)
    with torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "inv_freq"):  # its frequencies are computed when it is made
                with device:
                    setattr(parent, name, type(child)(config=config))
    layers = network.model.layers
    own = len(layers)
    if kind == "shared":
        own = min(own, distinct or distinct_layers(Size.of(config), dtype, device))
    others = tuple(f"model.layers.{index}." for index in range(own, len(layers)))
    for name in [name for name, _ in network.named_modules()]:  # names alone: what is replaced shall go
        if not f"{name}.".startswith(others):
            _draw(network.get_submodule(name), _scale(name, config), device, generator)
            if kind == "fp8":
                _to_small(network, name)
    for index in range(own, len(layers)):
        _share(layers[index], layers[index % own])
    network.tie_weights()
    return network.eval()


def _scale(name: str, config: Any) -> float:
    """Return how much smaller than others a module's weights are. The linear layers that end a branch are small by
    :data:`_TAMING` and by depth, so that layer after layer adds little to what the embeddings began.

    Where the embedding also gives the logits, a deviation of 1 would make each token's own logit as large as the model
    is wide; there it is small, and so are the branches beside it: norms do not see the difference.
    """
    unit = _OWN_LOGIT / config.hidden_size if config.tie_word_embeddings else 1.0
    kind = name.rpartition(".")[2]
    if kind in _BRANCH_ENDS:
        return unit / (_TAMING * math.sqrt(2 * config.num_hidden_layers))
    return unit if kind == "embed_tokens" or (kind == "lm_head" and config.tie_word_embeddings) else 1.0


def _draw(module: nn.Module, scale: float, device: torch.device, generator: torch.Generator) -> None:
    """Give a module's own parameters that have no numbers yet theirs."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        if not parameter.is_meta:
            continue
        made = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if parameter.dim() > 1:
            is_lookup = isinstance(module, nn.Embedding)
            deviation = 1.0 if is_lookup else max(_DEVIATION, _GAIN / math.sqrt(parameter.shape[1]))
            made.normal_(0.0, scale * deviation, generator=generator)
        else:
            made.fill_(0.0 if name.endswith("bias") else 1.0)
        setattr(module, name, nn.Parameter(made, requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_meta:  # a constant, which the module has as a number too
            constant = torch.tensor(getattr(module, f"scalar_{name}"), dtype=buffer.dtype, device=device)
            module.register_buffer(name, constant, persistent=False)


def _to_small(network: nn.Module, name: str) -> None:
    """Replace the module of this name by one of 8-bit floats, if it is a linear layer and not the last one."""
    parent, _, leaf = name.rpartition(".")
    module = network.get_submodule(name)
    if isinstance(module, nn.Linear) and leaf != "lm_head":
        setattr(network.get_submodule(parent), leaf, Fp8Linear(module))


def _share(layer: nn.Module, source: nn.Module) -> None:
    """Let a layer use another one's parameters."""
    for name, parameter in source.named_parameters():
        parent, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(parent), leaf, parameter)


def word_tokenizer(n_words: int) -> Any:
    """A tokenizer with as many words as the model has logits; the lab deals in token ids."""
    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(n_words)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer
