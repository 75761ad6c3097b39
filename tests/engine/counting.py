"""Counting what a pass would launch on a GPU, on the meta device: same operators, no numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from benchmarks.lab.architectures import ARCHITECTURES, Architecture
from engine.transformers import ModelRunner, SequenceKV, Work
from engine.transformers.attention import interface
from engine.transformers.attention.choose import use
from engine.transformers.attention.ragged import Attention
from engine.transformers.attention.sequence_kv import Span
from engine.transformers.layers.fused import can_fuse
from engine.transformers.layers.joined import JoinedLayer
from kvcache import layout_of

META = torch.device("meta")
# They make views, or nothing at all.
_VIEWS = {
    "alias", "as_strided", "chunk", "detach", "empty", "empty_like", "expand", "permute", "reshape", "select", "slice",
    "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view",
    "_reshape_alias",
}  # fmt: skip
_WAITS = {"_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero"}
# So many tokens lie before the new ones: what is as long is joined keys or values.
RESIDENT = 6064


class Launches(TorchDispatchMode):
    """Counts operators within the block. ``waits``: those for which the host waits for ``device``, by name, copies to
    it included."""

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self._device = device
        self.names: Counter[str] = Counter()
        self.waits: list[str] = []
        self.joined_bytes = 0

    @property
    def kernels(self) -> int:
        """How many operators launch something."""
        return sum(n for name, n in self.names.items() if name not in _VIEWS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names[name] += 1
        result = func(*args, **(kwargs or {}))
        of_device = isinstance(args[0] if args else None, torch.Tensor) and args[0].device.type == self._device
        to_host = name == "_to_copy" and of_device and result.device.type == "cpu"
        if to_host or (name in _WAITS and of_device):
            self.waits.append(name)
        if name in {"cat", "stack", "clone", "_to_copy"} and result.ndim > 1 and result.shape[-2] >= RESIDENT:
            self.joined_bytes += result.numel() * result.element_size()
        return result


def meta_network(kind: str, layers: int = 2, *, joined: bool = False, attention: Attention | None = None) -> Any:
    """A network of a published architecture without numbers, in bfloat16; ``joined``: with a GPU's layers;
    ``attention``: its attention, by default what fits by its kind."""
    shape = ARCHITECTURES[kind]
    config = Architecture(shape.kind, {**shape.settings, "num_hidden_layers": layers}).config(8192)
    with META:
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    interface.register()
    network.set_attn_implementation(interface.NAME)
    use(network, attention)
    if joined:
        stack = network.model.layers
        for i, layer in enumerate(stack):
            assert can_fuse(layer)
            stack[i] = JoinedLayer(layer, is_last=i == layers - 1)
    return network


def per_layer(
    kind: str, new: int, sequences: int, *, joined: bool = True, attention: Attention | None = None
) -> Counter[str]:
    """Operators that launch something, of one layer in the middle of the network."""
    three, two = (
        meta_pass(kind, new, sequences, network=meta_network(kind, layers, joined=joined, attention=attention))
        for layers in (3, 2)
    )
    found = three.names.copy()
    found.subtract(two.names)
    return Counter({name: n for name, n in found.items() if n and name not in _VIEWS})


def meta_pass(
    kind: str,
    new: int,
    sequences: int,
    *,
    network: Any = None,
    positions: Sequence[int] | None = None,
) -> Launches:
    """What is launched for ``new`` tokens of so many sequences, each behind a resident span of its own. With
    ``positions`` they are computed in a region of 256 slots behind the span."""
    network = meta_network(kind) if network is None else network
    layout = layout_of(network.config, torch.bfloat16)
    runner = ModelRunner(network)
    work = []
    for _ in range(sequences):
        kv = SequenceKV(layout, META, 1024)
        shape = layout.shape(RESIDENT)
        keys, values = (torch.empty(shape, dtype=torch.bfloat16, device=META) for _ in range(2))
        kv.spans.append(Span(keys, values))
        kv.reserve(new)
        if positions is not None:
            kv.open_region(256)
        work.append(Work(kv, range(new), positions=positions))
    with Launches() as found:
        runner.forward(work)
    return found
