"""Start vLLM's processes with our connector in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from engine.config import EngineConfig
from engine.dtype import choose_dtype
from engine.errors import ModelNotLoaded, first_line
from engine.vllm.engine import VllmEngine
from engine.vllm.reports import Reports
from engine.vllm.settings import checkpoint_fingerprint
from kvcache import Catalogue, Fingerprint, StoreConfig

# What a missing or damaged model, flags that do not fit it, and processes that do not come up end in (vLLM's own errors
# and pydantic's are ValueErrors). Anything else is a bug, and keeps its traceback.
_NOT_LOADED = (OSError, ValueError, RuntimeError, SafetensorError)


def load_vllm_engine(config: EngineConfig, store: StoreConfig) -> VllmEngine:
    """Start vLLM, and return the engine that runs it and owns the store. Raises ``ModelNotLoaded``."""
    _set_environment(store)
    # What the transformers engine takes, so that the two share segments.
    dtype = choose_dtype(config.dtype, torch.device("cpu" if current_platform.is_cpu() else "cuda"))
    with _named_errors(config):
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        fingerprint = checkpoint_fingerprint(str(config.model), str(config.model), dtype)
    arguments = _arguments(config, dtype)
    if not config.vllm.plain:
        arguments.kv_transfer_config = KVTransferConfig(**_connector(store, fingerprint))
    # The memory tiers are vLLM's and its workers'; here is the catalogue.
    opened = Catalogue(store.folder, disk_bytes=store.disk_bytes, fsync=store.fsync)
    reports = Reports(opened)
    try:
        with _named_errors(config):
            llm = _start(arguments, reports, plain=config.vllm.plain)
    except BaseException:
        opened.close()
        raise
    return VllmEngine(llm, opened, reports, fingerprint, tokenizer, config)


@contextmanager
def _named_errors(config: EngineConfig) -> Iterator[None]:
    """Turn what a model that cannot be loaded ends in into ``ModelNotLoaded``."""
    try:
        yield
    except _NOT_LOADED as error:
        raise ModelNotLoaded(f"vLLM does not start with '{config.model}': {first_line(error)}") from error


def _set_environment(store: StoreConfig) -> None:
    """Have vLLM send nothing anywhere, and tell its CPU back end, which learns it from the environment only, the size
    of its cache."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(store.device_bytes / (1 << 30)))))


def _connector(store: StoreConfig, fingerprint: Fingerprint) -> dict[str, Any]:
    """Return vLLM's ``--kv-transfer-config``; what is in the extra one, ``ConnectorSettings`` describes."""
    return {
        "kv_connector": "RecallKVConnector",
        "kv_connector_module_path": "engine.vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "folder": str(store.folder),
            "host_gb": store.host_bytes / 1e9,
            "codec": store.codec,
            "fsync": store.fsync,
            "managed": True,
            "fingerprint": asdict(fingerprint),
        },
    }


def _start(arguments: Any, reports: Reports, *, plain: bool) -> AsyncLLM:
    config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
    if not plain:
        _share_steps(config)
    return AsyncLLM.from_vllm_config(config, stat_loggers=[reports.logger()])


def _arguments(config: EngineConfig, dtype: torch.dtype) -> Any:
    """Parse our defaults, then the user's flags, with vLLM's own parser."""
    own = ["--model", str(config.model), "--dtype", str(dtype).removeprefix("torch.")]
    own += ["--max-num-seqs", str(config.batching.max_running)]
    own += ["--scheduling-policy", "priority", "--worker-extension-cls", "engine.vllm.extension.WorkerExtension"]
    if config.context is not None:
        own += ["--max-model-len", str(config.context)]
    if current_platform.is_cpu():
        # Compiling takes minutes and buys little on a CPU; long steps would keep short requests waiting.
        own += ["--enforce-eager", "--max-num-batched-tokens", "512"]
    parser = FlexibleArgumentParser()
    AsyncEngineArgs.add_cli_args(parser)
    return parser.parse_args([*own, *config.vllm.flags])


def _share_steps(config: Any) -> None:
    """Leave a quarter of every step's tokens to requests with little to compute, by taking long prompts one at a time
    and in pieces: whoever's prompt is mostly stored does not stand behind whoever's is not."""
    scheduling = config.scheduler_config
    if scheduling.long_prefill_token_threshold == 0:
        share = scheduling.max_num_batched_tokens * 3 // 4
        scheduling.long_prefill_token_threshold = min(share, config.model_config.max_model_len)
    extra = config.kv_transfer_config.kv_connector_extra_config
    extra["long_prefill_tokens"] = scheduling.long_prefill_token_threshold
