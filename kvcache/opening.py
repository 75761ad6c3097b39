"""Open a store from its settings."""

from __future__ import annotations

import torch

from kvcache.config import StoreConfig
from kvcache.store import TieredStore


def open_store(config: StoreConfig, device: torch.device | None = None) -> TieredStore:
    """Open the store that ``config`` describes; its segments are loaded to ``device`` (None: the CPU)."""
    return TieredStore(
        config.folder,
        device=device,
        device_bytes=config.device_bytes,
        host_bytes=config.host_bytes,
        disk_bytes=config.disk_bytes,
        fsync=config.fsync,
        codec=config.codec,
    )
