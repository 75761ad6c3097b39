"""Models with random weights, made where they run: no download, and never a second copy in host memory.

Times do not depend on the weights' values. Where a model does not fit in its dtype, its linear layers can hold 8-bit
floating-point weights (``fp8``), which changes times: results say so.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from benchmarks.lab.architectures import Architecture, Size

Kind = Literal["full", "fp8"]
_DEVIATION = 0.02
# Of a GPU's memory: keys, values, activations and the allocator's own share have to fit beside the weights.
_WEIGHTS_SHARE = 0.93


class Fp8Linear(nn.Module):
    """A linear layer whose weights are 8-bit floats with one scale; inputs are scaled by row, as they come.

    Products are made by ``torch._scaled_mm`` in the device's 8-bit matrix units.
    """

    def __init__(self, linear: nn.Linear, device: torch.device) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        drawn = torch.randint(-8, 9, (self.out_features, self.in_features), dtype=torch.int8, device=device)
        # Small steps around zero: as bits these are subnormal and smallest normal numbers, which take no special path.
        self.weight = nn.Parameter(drawn.abs_().view(torch.float8_e4m3fn), requires_grad=False)
        self.scale = nn.Parameter(torch.full((1, 1), _DEVIATION, device=device), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(torch.zeros(self.out_features, device=device))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features], in the inputs' dtype."""
        flat = inputs.reshape(-1, self.in_features)
        scale = (flat.abs().amax(-1, keepdim=True).float() / 448.0).clamp(min=1e-12)
        small = (flat / scale).to(torch.float8_e4m3fn)
        columns = self.scale.expand(1, self.out_features).contiguous()
        out = torch._scaled_mm(small, self.weight.t(), scale, columns, out_dtype=inputs.dtype)
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out.view(*inputs.shape[:-1], self.out_features)


def choose_kind(size: Size, dtype: torch.dtype, device: torch.device) -> Kind:
    """``full`` where the weights fit on the device beside what else has to be there."""
    if device.type != "cuda":
        return "full"
    fits = size.parameters * dtype.itemsize <= _WEIGHTS_SHARE * torch.cuda.get_device_properties(device).total_memory
    return "full" if fits else "fp8"


@torch.no_grad()
def random_network(
    architecture: Architecture,
    context: int,
    device: torch.device,
    dtype: torch.dtype,
    kind: Kind = "full",
    seed: int = 0,
) -> Any:
    """A transformers model with normally distributed weights; norms are one, biases zero."""
    config = architecture.config(context)
    with torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "inv_freq"):  # its frequencies are computed when it is made
                with device:
                    setattr(parent, name, type(child)(config=config))
            elif kind == "fp8" and isinstance(child, nn.Linear) and name != "lm_head":
                setattr(parent, name, Fp8Linear(child, device))
        for name, parameter in list(parent.named_parameters(recurse=False)):
            if parameter.is_meta:
                setattr(parent, name, _drawn(name, parameter, device, generator))
    network.tie_weights()
    return network.eval()


def _drawn(name: str, parameter: torch.Tensor, device: torch.device, generator: torch.Generator) -> nn.Parameter:
    made = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    if parameter.dim() > 1:
        made.normal_(0.0, _DEVIATION, generator=generator)
    else:
        made.fill_(0.0 if name.endswith("bias") else 1.0)
    return nn.Parameter(made, requires_grad=False)


def word_tokenizer(n_words: int) -> Any:
    """A tokenizer with as many words as the model has logits; the lab deals in token ids."""
    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(n_words)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer
