"""The connector's worker side without vLLM: where vLLM is not installed, the few names of it that are needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class _Message:
    """Stands for the base classes of what vLLM carries between its processes."""


@dataclass
class _Batch:
    """``CommonAttentionMetadata`` as far as passes of ours fill it in."""

    query_start_loc: Any
    query_start_loc_cpu: Any
    seq_lens: Any
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    block_table_tensor: Any
    slot_mapping: Any
    positions: Any = None
    is_prefilling: Any = None
    seq_lens_cpu_upper_bound: Any = None


_NAMES: dict[str, dict[str, Any]] = {
    "vllm": {},
    "vllm.distributed": {"tensor_model_parallel_all_reduce": lambda tensor: tensor},
    "vllm.distributed.kv_transfer": {},
    "vllm.distributed.kv_transfer.kv_connector": {},
    "vllm.distributed.kv_transfer.kv_connector.v1": {},
    "vllm.distributed.kv_transfer.kv_connector.v1.base": {
        "KVConnectorMetadata": _Message,
        "KVConnectorWorkerMetadata": _Message,
    },
    "vllm.forward_context": {"set_forward_context": lambda *args, **kwargs: nullcontext()},
    "vllm.v1": {},
    "vllm.v1.attention": {},
    "vllm.v1.attention.backend": {"CommonAttentionMetadata": _Batch},
}


@contextmanager
def vllm_or_stubs() -> Iterator[None]:
    """Import modules of ours in a block of this; nothing of it is left behind that could pass for vLLM."""
    if "vllm" in sys.modules or find_spec("vllm") is not None:
        yield
        return
    for name, names in _NAMES.items():
        module = ModuleType(name)
        module.__dict__.update(names)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in _NAMES:
            del sys.modules[name]
