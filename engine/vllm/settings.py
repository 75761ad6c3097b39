"""The connector's settings: ``kv_connector_extra_config`` of vLLM's ``--kv-transfer-config``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoConfig, AutoTokenizer

from kvcache import CodecName, Fingerprint, Layout, StoreConfig, UnsupportedCache


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "recallkv" / "segments"


class ConnectorSettings(BaseModel):
    """All settings, with their defaults. An unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    folder: Path = Field(default_factory=_default_folder)
    """Where the segment files lie; every rank must reach it."""
    host_gb: float = Field(StoreConfig.host_bytes / 1e9, ge=0)
    """Host memory for segments, per rank, in GB (1e9 bytes)."""
    disk_gb: float = Field(StoreConfig.disk_bytes / 1e9, ge=0)
    fsync: bool = StoreConfig.fsync
    codec: CodecName = StoreConfig.codec
    segment_tokens: int = Field(256, ge=1)
    """Standing alone, prompts are stored in runs of at most this many tokens."""
    min_load_tokens: int = Field(16, ge=1)
    """Fewer tokens than this are computed rather than loaded."""
    long_prefill_tokens: int = Field(0, ge=0)
    """Only one request at a time with more than this left to compute is admitted, so that prompts that are mostly
    stored do not stand behind it. 0: as vLLM schedules."""
    managed: bool = False
    """A RecallKV server keeps the index and sends plans; otherwise the connector does both itself."""
    fingerprint: dict[str, Any] | None = None
    """The server's, so that the ranks need not compute it."""

    def fingerprint_of(self, model_config: Any) -> Fingerprint:
        """Return the fingerprint of vLLM's model: the one the transformers engine gives the same checkpoint."""
        if self.fingerprint is not None:
            return Fingerprint(**{**self.fingerprint, "layout": Layout(**self.fingerprint["layout"])})
        return checkpoint_fingerprint(model_config.model, model_config.tokenizer, model_config.dtype)


def checkpoint_fingerprint(model: str, tokenizer: str, dtype: torch.dtype) -> Fingerprint:
    """Return the fingerprint of a folder or a model in the Hugging Face cache. Raises ``UnsupportedCache`` where the
    checkpoint has no safetensors files."""
    folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(model, local_files_only=True))
    try:
        return Fingerprint.of_checkpoint(
            folder, AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(tokenizer), dtype
        )
    except FileNotFoundError as error:
        raise UnsupportedCache(str(error)) from error
