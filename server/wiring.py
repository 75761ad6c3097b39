"""The composition root: the one place where the server's parts are made and put together."""

from __future__ import annotations

import logging
from functools import partial

from engine.base import Engine
from engine.registry import COMPUTES_HERE, ENGINES, OwningEngine
from engine.transformers import usable_threads, use_one_thread
from kvcache import Catalogue, ModelView
from memory import (
    EndpointCompleter,
    EndpointRerank,
    Extractor,
    JudgeLimits,
    LocalExtractor,
    MemoryStore,
    ModelExtractor,
    ModelJudge,
    WholeEmbedder,
)
from memory.domain.discretion import Discretion
from memory.judge.model import MAX_TOKENS as JUDGE_TOKENS
from memory.language.completion import Complete
from scheduler import Foresight, Planner, StandingLimits, Upkeep
from server.assets import demo_model_folder
from server.config import Config, MemorySettings
from server.config.owned import composed
from server.config.sections import DEMO
from server.config.values import ConfigError
from server.core.bundles import Bundles
from server.core.chat import ChatDefaults, ChatService
from server.core.completing import Completions
from server.core.extraction import ServedCompleter
from server.core.generation import Followers
from server.core.invalidation import Invalidation
from server.core.memories import MemoryService
from server.core.messages import Extractors
from server.core.signing import BundleKey
from server.embedders import open_embedder
from server.http.deps import Services
from server.http.metrics import Metrics
from server.lock import DataDirLock

log = logging.getLogger(__name__)
JUDGES_FROM = 2_000_000_000
"""Served models with more parameters than this judge by default."""


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
    served = ServedCompleter(engine)
    by_name: dict[str, Extractor] = {"local": LocalExtractor(), "model": _model_extractor(config.memory, served)}
    extractors = Extractors(by_name, config.memory.extractor)
    memories.judging.given = judge = _judge(config.memory, engine, served, memories)
    door = MemoryService(memories, Invalidation(engine, upkeep, foresight), extractors)
    metrics = Metrics(catalogue.stats, engine.capacity, upkeep.stats, engine.metrics)
    metrics.watch_memories(door.stats)
    if judge is not None:
        metrics.watch_judge(judge)
    if foresight is not None:
        metrics.watch_foresight(foresight.stats, foresight.report)
    limits = composed(StandingLimits, config.memory)
    planner = Planner(engine, stored, memories, sessions=config.cache.sessions, limits=limits)
    chat = ChatService(engine, door, planner, Followers(metrics, upkeep, foresight), _chat_defaults(config))
    return Services(
        config=config,
        engine=engine,
        catalogue=catalogue,
        memories=door,
        embedder=embedder,
        chat=chat,
        completions=Completions(chat, engine),
        bundles=Bundles(memories, engine, catalogue, upkeep, _bundle_key(config), config.server.max_body_bytes),
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
    config: Config, engine: Engine, stored: ModelView, memories: MemoryStore, upkeep: Upkeep
) -> Foresight | None:
    """Make next-scene prediction, if it is wanted; the memory tiers then keep what it says."""
    if config.scheduler.predictor == "off":
        return None
    budgets = stored.catalogue.stats().budgets
    return Foresight(
        engine,
        stored,
        memories,
        upkeep,
        config.scheduler.foresight(max(budgets["device"], budgets["host"])),
    )


def open_services(config: Config) -> Services:
    """Open the data folder and load the models. Raises the parts' named errors; what was opened is closed then."""
    _check_urls(config.memory)
    _bundle_key(config).check()
    threads = config.engine.threads or usable_threads()
    if config.engine.kind in COMPUTES_HERE:  # before anything else computes
        use_one_thread()
    lock = DataDirLock(config.data_dir)
    try:
        embedder = open_embedder(config.memory.embedder, config.memory.embedder_model, config.memory.embedder_api_key)
        undelete_s = config.memory.undelete_hours * 3600
        rerank = _rerank(config.memory)
        memories = MemoryStore(
            config.data_dir / "memories.sqlite",
            embedder,
            undelete_s=undelete_s,
            rerank=rerank,
            discretion=composed(Discretion, config.memory),
        )
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


def _model_extractor(config: MemorySettings, served: ServedCompleter) -> ModelExtractor:
    if config.extractor_url is None:
        return ModelExtractor(served, window_chars=served.window_chars)
    model = config.extractor_model or "default"
    return ModelExtractor(EndpointCompleter(config.extractor_url, model, config.extractor_api_key))


def _judge(config: MemorySettings, engine: Engine, served: ServedCompleter, memories: MemoryStore) -> ModelJudge | None:
    """Make the judge that asks a model, if that is to judge."""
    if config.judge == "local" or (config.judge == "auto" and config.judge_url is None and not _is_large(engine)):
        return None
    limits = composed(JudgeLimits, config)
    complete: Complete
    if config.judge_url is None:
        complete = partial(served, max_tokens=JUDGE_TOKENS, timeout_s=limits.within_s)
    else:
        complete = EndpointCompleter(
            config.judge_url,
            config.judge_model or "default",
            config.judge_api_key,
            max_tokens=JUDGE_TOKENS,
            timeout_s=limits.within_s,
        )
    log.info(
        "statements are judged by %s", "the served model" if config.judge_url is None else "the model of an endpoint"
    )
    return ModelJudge(complete, lambda: memories.judging.local, limits)


def _is_large(engine: Engine) -> bool:
    parameters = engine.capacity().parameters
    return parameters is not None and parameters > JUDGES_FROM


def _rerank(config: MemorySettings) -> EndpointRerank | None:
    if config.reranker is None:
        return None
    return EndpointRerank(config.reranker, config.reranker_model or "default", config.reranker_api_key)


def _check_urls(config: MemorySettings) -> None:
    """Refuse what is no URL, before anything is opened. Raises ``ConfigError``."""
    urls = {
        "memory.reranker": config.reranker,
        "memory.extractor_url": config.extractor_url,
        "memory.judge_url": config.judge_url,
    }
    for key, url in urls.items():
        if url is not None and not url.startswith(("http://", "https://")):
            raise ConfigError(f"{key}: '{url}' is not the URL of an endpoint.")


def _bundle_key(config: Config) -> BundleKey:
    """Return the operator's key, which must exist, or the data folder's own, which is made when it is needed."""
    given = config.memory.bundle_key_file
    return BundleKey(given or config.data_dir / "bundle.key", made=given is None)


def _engine(config: Config, threads: int) -> OwningEngine:
    model = demo_model_folder() if config.engine.model == DEMO else config.engine.model
    store = config.cache.store(config.data_dir / "segments")
    return ENGINES[config.engine.kind](config.engine_config(model, threads), store)
