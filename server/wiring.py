"""The composition root: the one place where the server's parts are made and put together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import torch

from engine.base import Engine
from engine.errors import ModelNotLoaded
from engine.transformers import CompositionConfig, TransformersEngine, leave_to_engine, load_engine, usable_threads
from kvcache import Repair, SegmentStore
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
from server.config import CacheConfig, Config, EngineConfig, MemoryConfig
from server.config_values import ConfigError
from server.core.bundles import Bundles
from server.core.chat import ChatDefaults, ChatService
from server.core.completing import Completions
from server.core.extraction import ServedCompleter
from server.core.generation import Followers
from server.core.invalidation import Invalidation
from server.core.memories import Extractors, MemoryService
from server.core.signing import BundleKey
from server.http.deps import Services
from server.http.metrics import Metrics
from server.lock import DataDirLock

log = logging.getLogger(__name__)

DEMO = "demo"
# vLLM's flag for its own server: the parsing is done in ours.
_TOOL_PARSER = "tool-call-parser="


class OwningEngine(Engine, Protocol):
    """An engine with the store it owns."""

    @property
    def store(self) -> SegmentStore: ...


def assemble(
    config: Config,
    engine: Engine,
    store: SegmentStore,
    memories: MemoryStore,
    embedder: WholeEmbedder,
    lock: DataDirLock | None = None,
) -> Services:
    """Put finished parts together."""
    upkeep = Upkeep(engine, memories)
    foresight = _foresight(config, engine, store, memories, upkeep)
    served = ServedCompleter(engine)
    by_name: dict[str, Extractor] = {"local": LocalExtractor(), "model": _model_extractor(config.memory, served)}
    extractors = Extractors(by_name, config.memory.extractor)
    door = MemoryService(memories, Invalidation(engine, upkeep, foresight), extractors)
    metrics = Metrics(store.stats, engine.capacity, upkeep.stats, engine.metrics)
    metrics.watch_memories(door.stats)
    if foresight is not None:
        metrics.watch_foresight(foresight.stats, foresight.report)
    planner = Planner(engine, memories, sessions=config.cache.sessions)
    chat = ChatService(engine, door, planner, Followers(metrics, upkeep, foresight), _chat_defaults(config))
    return Services(
        config=config,
        engine=engine,
        store=store,
        memories=door,
        embedder=embedder,
        chat=chat,
        completions=Completions(chat, engine),
        bundles=Bundles(memories, engine, store, upkeep, _bundle_key(config), config.server.max_body_bytes),
        upkeep=upkeep,
        metrics=metrics,
        served=served,
        keys=memories.keys,
        keyed=memories.keyed,
        foresight=foresight,
        lock=lock,
    )


def _chat_defaults(config: Config) -> ChatDefaults:
    return ChatDefaults(
        served_name=config.engine.served_name or config.engine.model,
        max_tokens=config.server.default_max_tokens,
        mode=config.memory.mode,
        top_k=config.memory.top_k,
        fidelity=config.memory.fidelity,
        sessions=config.cache.sessions,
    )


def _foresight(
    config: Config, engine: Engine, store: SegmentStore, memories: MemoryStore, upkeep: Upkeep
) -> Foresight | None:
    """Make next-scene prediction, if it is wanted; the memory tiers then keep what it says."""
    scheduler = config.scheduler
    if scheduler.predictor == "off":
        return None
    budgets = store.stats().budgets
    preload = PreloadConfig(
        min_probability=scheduler.min_probability,
        bytes_s=scheduler.preload_mb_s * 1e6,
        unused_bytes=int(scheduler.unused_share * max(budgets["device"], budgets["host"])),
    )
    foresight = Foresight(
        engine,
        memories,
        upkeep,
        lambda: store.stats().preloads,
        ForesightConfig(scheduler.predictor, scheduler.horizon_s, preload=preload),
    )
    store.set_worth(foresight.worth)
    return foresight


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
    swept = engine.store.sweep(memories.active_labels())
    if swept:
        log.info("removed %d segments of memories that are gone", swept)
    return assemble(config, engine, engine.store, memories, embedder, lock)


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
    """Refuse what is no URL, before anything is opened. Raises ``ConfigError``."""
    for key, url in (("memory.reranker", config.reranker), ("memory.extractor_url", config.extractor_url)):
        if url is not None and not url.startswith(("http://", "https://")):
            raise ConfigError(f"{key}: '{url}' is not the URL of an endpoint.")


def _bundle_key(config: Config) -> BundleKey:
    """Return the operator's key, which must exist, or the data folder's own, which is made when it is needed."""
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
