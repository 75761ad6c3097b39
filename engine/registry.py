"""Register the engines by name. To add one, write a function here, add its name to ``EngineName``, and put what only it
takes into ``EngineConfig``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.base import Engine
from engine.config import EngineConfig, EngineName
from engine.errors import ModelNotLoaded
from kvcache import Catalogue, StoreConfig


class OwningEngine(Engine, Protocol):
    """Describe an engine together with the catalogue it owns."""

    @property
    def catalogue(self) -> Catalogue: ...


Open = Callable[[EngineConfig, StoreConfig], OwningEngine]


def _transformers(config: EngineConfig, store: StoreConfig) -> OwningEngine:
    from engine.transformers import load_engine, use_one_thread

    engine = load_engine(config, store)
    use_one_thread()
    return engine


def _vllm(config: EngineConfig, store: StoreConfig) -> OwningEngine:
    try:
        from engine.vllm.loading import load_vllm_engine
    except ImportError as error:
        raise ModelNotLoaded(f"vLLM is not installed here ({error}); see docs/vllm.md") from error
    return load_vllm_engine(config, store)


ENGINES: dict[EngineName, Open] = {"transformers": _transformers, "vllm": _vllm}
"""Each loads its model and starts. Raises ``ModelNotLoaded`` and ``UnsupportedModel``."""

COMPUTES_HERE: frozenset[EngineName] = frozenset({"transformers"})
"""Engines that compute in this process: nothing else in it should have a pool of CPU threads."""
