"""The composition root: the one place where the server's parts are made and put together."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from engine.base import Engine
from engine.errors import ModelNotLoaded
from engine.transformers import CompositionConfig, TransformersEngine, leave_to_engine, load_engine, usable_threads
from kvcache import Catalogue, ModelView, Repair, SegmentStore
from memory import (
    EndpointCompleter,
    EndpointEmbedder,
    EndpointRerank,
    Extractor,
    FolderEmbedder,
    HashEmbedder,
    LocalExtractor,
    MemoryStore,
    ModelExtractor,
    WholeEmbedder,
)
from scheduler import Foresight, ForesightConfig, Planner, PreloadConfig, Upkeep
from server.assets import BUNDLED_EMBEDDER, bundled_embedder_folder, demo_model_folder
from server.bundles import Bundles
from server.chat import ChatService
from server.completing import Completions
from server.config import CacheConfig, Config, EngineConfig, MemoryConfig
from server.config_values import ConfigError
from server.draining import Requests
from server.extracting import ServedCompleter
from server.lock import DataDirLock
from server.metrics import Metrics
from server.remembering import Remembering
from server.signing import BundleKey

log = logging.getLogger(__name__)

DEMO = "demo"
# vLLM's flag for its own server: the parsing is done in ours.
_TOOL_PARSER = "tool-call-parser="


class OwningEngine(Engine, Protocol):
    """An engine with the catalogue it owns."""

    @property
    def catalogue(self) -> Catalogue: ...


@dataclass
class Services:
    """Everything routes work with."""

    config: Config
    engine: Engine
    catalogue: Catalogue
    memories: MemoryStore
    embedder: WholeEmbedder
    chat: ChatService
    completions: Completions
    upkeep: Upkeep
    remembering: Remembering
    bundles: Bundles
    metrics: Metrics
    served: ServedCompleter
    foresight: Foresight | None = None
    lock: DataDirLock | None = None
    draining: bool = False
    requests: Requests = field(default_factory=Requests)
    started_at: float = field(default_factory=time.time)

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self.served.bind(asyncio.get_running_loop())
        self.remembering.jobs.start()
        if self.foresight is not None:
            self.foresight.start(self.config.data_dir / "scheduler.json")

    async def close(self) -> None:
        """Close everything, the data folder's lock last. Requests have ended, or fail; jobs are left for the next
        start."""
        self.draining = True
        self.served.stop()
        self.bundles.close()
        await self.remembering.close()
        if self.foresight is not None:
            await self.foresight.close()
        await self.upkeep.close()
        await self.engine.close()
        await asyncio.to_thread(self.memories.close)
        if self.lock is not None:
            self.lock.release()


def assemble(
    config: Config,
    engine: Engine,
    catalogue: Catalogue,
    memories: MemoryStore,
    embedder: WholeEmbedder,
    lock: DataDirLock | None = None,
) -> Services:
    """Put finished parts together."""
    stored = ModelView(catalogue, engine.fingerprint)
    upkeep = Upkeep(engine, stored, memories)
    foresight = _foresight(config, engine, stored, memories, upkeep)
    metrics = Metrics(catalogue.stats, engine.capacity, upkeep.stats, engine.metrics)
    served = ServedCompleter(engine)
    extractors: dict[str, Extractor] = {"local": LocalExtractor(), "model": _model_extractor(config.memory, served)}
    remembering = Remembering(memories, engine, upkeep, extractors, config.memory.extractor, foresight)
    bundles = Bundles(memories, engine, catalogue, upkeep, _bundle_key(config), config.server.max_body_bytes)
    chat = ChatService(
        engine,
        memories,
        Planner(engine, stored, memories, sessions=config.cache.sessions),
        upkeep,
        metrics,
        served_name=config.engine.served_name or config.engine.model,
        default_max_tokens=config.server.default_max_tokens,
        default_mode=config.memory.mode,
        default_top_k=config.memory.top_k,
        default_fidelity=config.memory.fidelity,
        sessions=config.cache.sessions,
        remember=remembering.remember,
        foresight=foresight,
    )
    metrics.watch_memories(remembering.stats)
    if foresight is not None:
        metrics.watch_foresight(foresight.stats, foresight.report)
    return Services(
        config,
        engine,
        catalogue,
        memories,
        embedder,
        chat,
        Completions(chat, engine),
        upkeep,
        remembering,
        bundles,
        metrics,
        served,
        foresight,
        lock,
    )


def _foresight(
    config: Config, engine: Engine, stored: ModelView, memories: MemoryStore, upkeep: Upkeep
) -> Foresight | None:
    """Next-scene prediction, where it is wanted; the memory tiers then keep what it says."""
    scheduler = config.scheduler
    if scheduler.predictor == "off":
        return None
    budgets = stored.catalogue.stats().budgets
    preload = PreloadConfig(
        min_probability=scheduler.min_probability,
        bytes_s=scheduler.preload_mb_s * 1e6,
        unused_bytes=int(scheduler.unused_share * max(budgets["device"], budgets["host"])),
    )
    return Foresight(
        engine,
        stored,
        memories,
        upkeep,
        ForesightConfig(scheduler.predictor, scheduler.horizon_s, preload=preload),
    )


def open_services(config: Config) -> Services:
    """Open the data folder and load the models. Raises the parts' named errors; what was opened is closed then."""
    _check_urls(config.memory)
    _bundle_key(config).check()
    threads = config.engine.threads or usable_threads()
    if config.engine.kind == "transformers":  # before anything computes here
        leave_to_engine()
    lock = DataDirLock(config.data_dir)
    try:
        embedder = _embedder(config.memory)
        undelete_s = config.memory.undelete_hours * 3600
        rerank = _rerank(config.memory)
        memories = MemoryStore(config.data_dir / "memories.sqlite", embedder, undelete_s=undelete_s, rerank=rerank)
        try:
            engine = _engine(config, threads)
        except BaseException:
            memories.close()
            raise
    except BaseException:
        lock.release()
        raise
    swept = engine.catalogue.sweep(memories.active_labels())
    if swept:
        log.info("removed %d segments of memories that are gone", swept)
    return assemble(config, engine, engine.catalogue, memories, embedder, lock)


def _embedder(config: MemoryConfig) -> WholeEmbedder:
    name = config.embedder
    if name == "hash":
        return HashEmbedder()
    if name.startswith(("http://", "https://")):
        return EndpointEmbedder(name, config.embedder_model or "default", config.embedder_api_key)
    bundled = name == "bundled"
    embedder = FolderEmbedder(bundled_embedder_folder(), BUNDLED_EMBEDDER) if bundled else FolderEmbedder(name)
    embedder.load()
    return embedder


def _model_extractor(config: MemoryConfig, served: ServedCompleter) -> ModelExtractor:
    if config.extractor_url is None:
        return ModelExtractor(served, window_chars=served.window_chars)
    model = config.extractor_model or "default"
    return ModelExtractor(EndpointCompleter(config.extractor_url, model, config.extractor_api_key))


def _rerank(config: MemoryConfig) -> EndpointRerank | None:
    if config.reranker is None:
        return None
    return EndpointRerank(config.reranker, config.reranker_model or "default", config.reranker_api_key)


def _check_urls(config: MemoryConfig) -> None:
    """Raises ``ConfigError``, before anything is opened."""
    for key, url in (("memory.reranker", config.reranker), ("memory.extractor_url", config.extractor_url)):
        if url is not None and not url.startswith(("http://", "https://")):
            raise ConfigError(f"{key}: '{url}' is not the URL of an endpoint.")


def _bundle_key(config: Config) -> BundleKey:
    """The operator's, which is there, or the data folder's own, which is made when it is needed."""
    given = config.memory.bundle_key_file
    return BundleKey(given or config.data_dir / "bundle.key", made=given is None)


def _engine(config: Config, threads: int) -> OwningEngine:
    folder = config.data_dir / "segments"
    if config.engine.kind == "vllm":
        return _vllm_engine(config, folder)
    engine = _transformers_engine(config.engine, config.cache, folder, threads)
    leave_to_engine()
    return engine


def _composing(cache: CacheConfig) -> CompositionConfig:
    return CompositionConfig(
        high=Repair(cache.high_repair, cache.high_share),
        fast=Repair(cache.fast_repair, cache.fast_share),
        max_kl=cache.max_kl,
    )


def _vllm_engine(config: Config, folder: Path) -> OwningEngine:
    try:
        from engine.vllm.engine import load_vllm_engine
    except ImportError as error:
        raise ModelNotLoaded(f"vLLM is not installed here ({error}); see README, 'vLLM'") from error
    engine, cache = config.engine, config.cache
    return load_vllm_engine(
        demo_model_folder() if engine.model == DEMO else engine.model,
        model_id=engine.model,
        folder=folder,
        dtype=engine.dtype,
        context=engine.context,
        max_running=engine.max_running,
        max_waiting=engine.max_waiting,
        device_bytes=int(cache.device_gb * 1e9),
        host_gb=cache.host_gb,
        codec=cache.codec,
        fsync=cache.fsync,
        disk_bytes=int(cache.disk_gb * 1e9),
        composing=_composing(cache),
        flags=[vllm_flag(item) for item in config.vllm if not item.startswith(_TOOL_PARSER)],
        tool_parser=next((item.partition("=")[2] for item in config.vllm if item.startswith(_TOOL_PARSER)), None),
    )


def vllm_flag(item: str) -> str:
    """A setting ``name=value`` as vLLM's command line takes it."""
    name, _, value = item.partition("=")
    if value.lower() in ("", "true"):
        return f"--{name}"
    return f"--no-{name}" if value.lower() == "false" else f"--{name}={value}"


def _transformers_engine(config: EngineConfig, cache: CacheConfig, folder: Path, threads: int) -> TransformersEngine:
    def open_store(device: torch.device) -> SegmentStore:
        return SegmentStore(
            folder,
            device=device,
            device_bytes=int(cache.device_gb * 1e9),
            host_bytes=int(cache.host_gb * 1e9),
            disk_bytes=int(cache.disk_gb * 1e9),
            fsync=cache.fsync,
            codec=cache.codec,
        )

    return load_engine(
        demo_model_folder() if config.model == DEMO else config.model,
        model_id=config.model,
        open_store=open_store,
        device=config.device,
        dtype=config.dtype,
        max_running=config.max_running,
        max_waiting=config.max_waiting,
        prefill_chunk=config.prefill_chunk,
        busy_prefill_chunk=config.busy_prefill_chunk,
        native=config.native,
        kv_bytes=None if config.kv_gb is None else int(config.kv_gb * 1e9),
        context=config.context,
        threads=threads,
        adapt_threads=config.adapt_threads,
        weigh_loading=cache.weigh_loading,
        composing=_composing(cache),
    )
