"""Define the settings of engines: each default, and the range that it may be set in, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from engine.base import GenerateRequest
from kvcache import Repair

EngineName = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class BatchingConfig:
    """Limit the batch. Chunks are in prompt tokens per step: a large one when nothing is being decoded, a small one
    otherwise, so that running streams keep moving. None: a size that suits the device."""

    max_running: int = field(default=16, metadata={"range": (1, 4096)})
    prefill_chunk: int | None = field(default=None, metadata={"range": (1, 1 << 20)})
    busy_prefill_chunk: int | None = field(default=None, metadata={"range": (1, 1 << 20)})
    kv_bytes: int | None = field(default=None, metadata={"range": (0, 1e15)})
    """Bytes on the device for the keys and values of requests and of the device tier together: a request waits until
    those of its prompt and all of its answer fit beside those of the others, and the tier gives way. None: no bound
    but the device's memory."""
    max_waiting: int = field(default=256, metadata={"range": (0, 1 << 20)})
    """Requests beyond this number that wait are refused."""

    def chunks(self, device: torch.device) -> tuple[int, int]:
        """Return both chunk sizes. A GPU takes as long to launch a pass as to compute some hundred tokens."""
        alone, busy = (512, 64) if device.type == "cpu" else (8192, 512)
        return self.prefill_chunk or alone, self.busy_prefill_chunk or busy


# benchmarks/results/fidelity-cpu.json has the frontier that these points were taken from.
HIGH = Repair("deviation", 0.15)
FAST = Repair("none", 0.0)


@dataclass(frozen=True)
class CompositionConfig:
    """Configure composition. ``high`` and ``fast`` repair at these fidelities; their range is that of the share.
    ``max_kl`` (nats): pages whose certificate says more are not composed. Composition that saves fewer than
    ``min_saved_tokens`` is not worth its divergence."""

    high: Repair = field(default=HIGH, metadata={"range": (0, 1)})
    fast: Repair = field(default=FAST, metadata={"range": (0, 1)})
    max_kl: float = field(default=0.25, metadata={"range": (0, 1e6)})
    min_saved_tokens: int = 64

    def repair(self, request: GenerateRequest) -> Repair:
        """Return the request's own repair, or that of its fidelity."""
        if request.repair is not None:
            return request.repair
        return self.fast if request.fidelity == "fast" else self.high


@dataclass(frozen=True)
class TransformersConfig:
    """Configure what only the transformers engine takes.

    ``device``: auto, cpu, cuda, ... ``threads``: CPU threads of the model (None: as many as are usable here), and with
    ``adapt_threads`` fewer while fewer are quicker. ``native``: compile attention. ``weigh_loading``: measure this
    machine at start, and load segments only where that beats computing them.
    """

    device: str = "auto"
    threads: int | None = field(default=None, metadata={"range": (1, 1024)})
    adapt_threads: bool = True
    native: bool = True
    weigh_loading: bool = True


@dataclass(frozen=True)
class VllmConfig:
    """Configure what only vLLM takes.

    ``flags`` are vLLM's own, as its command line takes them, and have the last word. ``tool_parser`` names vLLM's
    parser of tool calls. ``composes``: memories may be composed from pages. ``plain``: start vLLM without our
    connector, to compare with.
    """

    flags: tuple[str, ...] = ()
    tool_parser: str | None = None
    composes: bool = True
    plain: bool = False


@dataclass(frozen=True)
class EngineConfig:
    """Configure an engine: ``model`` is a folder or a Hugging Face id, ``model_id`` the name that it is shown by.

    What every engine takes comes first, then what is one engine's own.
    """

    model: str | Path
    model_id: str
    dtype: str = "auto"
    context: int | None = field(default=None, metadata={"range": (16, 1 << 24)})
    """Most tokens of a prompt and its answer together. None: the model's own."""
    batching: BatchingConfig = BatchingConfig()
    composing: CompositionConfig = CompositionConfig()
    transformers: TransformersConfig = TransformersConfig()
    vllm: VllmConfig = VllmConfig()
