"""Define all settings, a dataclass per section.

A default and its range stand in the dataclass that owns them: another package's (``owned``), or the section itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.base import Fidelity
from engine.config import BatchingConfig, CompositionConfig, EngineConfig, EngineName, TransformersConfig, VllmConfig
from kvcache import CodecName, Repair, StoreConfig, StrategyName
from memory.domain.discretion import Discretion, SecretsPolicy
from memory.domain.erasing import DAY_S
from memory.judge.model import JudgeLimits
from scheduler import Ask, ForesightConfig, Mode, PredictorName, PreloadConfig, StandingLimits
from server.config.owned import composed, owned
from server.lock import default_data_dir
from server.logs import LogFormat

DEMO = "demo"
_GB = 10**9
# vLLM's flag for its own server: the parsing is done in ours.
_TOOL_PARSER = "tool-call-parser="


def _secret() -> Any:
    return field(default=None, metadata={"secret": True})


def _range(default: Any, low: float, high: float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class ServerSettings:
    """Configure the HTTP edge."""

    host: str = "127.0.0.1"
    port: int = _range(8000, 0, 65535)
    api_keys: Literal["auto", "required", "off"] = "auto"
    """auto: needed as soon as the address is not loopback."""
    max_body_bytes: int = _range(16 << 20, 1024, 1 << 30)
    max_bundle_bytes: int = _range(1 << 30, 1024, 1 << 40)
    """Of a cube that is loaded, segments included; without them ``max_body_bytes``."""
    body_timeout_s: float = _range(30.0, 0.05, 3600)
    keep_alive_s: float = _range(120.0, 1, 86_400)
    """An idle connection is kept this long: longer than clients and load balancers keep theirs."""
    drain_s: float = _range(10.0, 0, 3600)
    drain_min_s: float = _range(0.0, 0, 3600)
    """At SIGTERM, go on listening for at least this long, and answer 503: for load balancers to notice."""
    sse_ping_s: float = _range(15.0, 0.05, 3600)
    default_max_tokens: int = _range(256, 1, 1 << 20)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: LogFormat = "auto"
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineSettings:
    """Choose the model and the engine that runs it, and configure its batching."""

    model: str = DEMO
    kind: EngineName = "transformers"
    served_name: str | None = None
    device: str = owned(TransformersConfig, "device")
    dtype: str = owned(EngineConfig, "dtype")
    context: int | None = owned(EngineConfig, "context")
    threads: int | None = owned(TransformersConfig, "threads")
    adapt_threads: bool = owned(TransformersConfig, "adapt_threads")
    """On a CPU, use fewer threads while fewer are quicker, as beside another process that computes. False: always the
    same number, so that the same passes agree to the last bit."""
    native: bool = owned(TransformersConfig, "native")
    """Compile attention: on a CPU where there is a C++ compiler, on a GPU by Triton where that is."""
    max_running: int = owned(BatchingConfig, "max_running")
    max_waiting: int = owned(BatchingConfig, "max_waiting")
    prefill_chunk: int | None = owned(BatchingConfig, "prefill_chunk")
    busy_prefill_chunk: int | None = owned(BatchingConfig, "busy_prefill_chunk")
    kv_gb: float | None = owned(BatchingConfig, "kv_bytes", _GB)
    """For the keys and values of running requests and of the device tier together, in GB: requests wait until theirs
    fit. None: on a GPU nine tenths of what is free beside the model; on a CPU no bound."""


@dataclass(frozen=True)
class CacheSettings:
    """Configure the segment store and its use. Budgets are in GB (1e9 bytes)."""

    device_gb: float = owned(StoreConfig, "device_bytes", _GB)
    host_gb: float = owned(StoreConfig, "host_bytes", _GB)
    disk_gb: float = owned(StoreConfig, "disk_bytes", _GB)
    fsync: bool = owned(StoreConfig, "fsync")
    weigh_loading: bool = owned(TransformersConfig, "weigh_loading")
    """Load a segment only where that is quicker than computing its tokens, as measured at start."""
    codec: CodecName = owned(StoreConfig, "codec")
    """The codec of pages on disk; chained segments stay exact, whatever it is."""
    sessions: bool = True
    """Keep a conversation's turns and answers behind its memories, and its memories in their places, so that its next
    request computes only what is new."""
    max_kl: float = owned(CompositionConfig, "max_kl")
    """Nats: a page whose certificate says more is never composed."""
    high_repair: StrategyName = owned(CompositionConfig, "high.strategy")
    high_share: float = owned(CompositionConfig, "high.share")
    fast_repair: StrategyName = owned(CompositionConfig, "fast.strategy")
    fast_share: float = owned(CompositionConfig, "fast.share")
    """At each fidelity, the strategy that chooses which composed tokens are recomputed, and the share of them that it
    may choose."""

    def store(self, folder: Path) -> StoreConfig:
        """Compose the settings of the store in ``folder``."""
        return composed(StoreConfig, self, folder=folder)

    def composing(self) -> CompositionConfig:
        """Compose the settings of composition."""
        high, fast = Repair(self.high_repair, self.high_share), Repair(self.fast_repair, self.fast_share)
        return composed(CompositionConfig, self, high=high, fast=fast)


@dataclass(frozen=True)
class MemorySettings:
    """Configure retrieval and the way memories enter the prompt."""

    mode: Mode = owned(Ask, "mode")
    fidelity: Fidelity = "high"
    top_k: int = owned(Ask, "top_k")
    max_instructions: int = owned(StandingLimits, "instructions")
    max_instruction_tokens: int = owned(StandingLimits, "tokens")
    """Of the standing instructions of a cube, the newest ones are in every prompt: so many, with so many tokens."""
    embedder: str = "bundled"
    """bundled, multilingual, hash, a folder or Hugging Face id, or the URL of an OpenAI-style endpoint."""
    embedder_model: str | None = None
    embedder_api_key: str | None = _secret()
    reranker: str | None = None
    """The URL of a /rerank endpoint that puts search results in their final order."""
    reranker_model: str | None = None
    reranker_api_key: str | None = _secret()
    extractor: Literal["local", "model"] = "local"
    """The extractor that finds memories in messages, unless the request names one."""
    extractor_url: str | None = None
    """An OpenAI-style endpoint for the extractor ``model``; None: the served model."""
    extractor_model: str | None = None
    extractor_api_key: str | None = _secret()
    judge: Literal["auto", "local", "model"] = "auto"
    """The judge of what new statements mean for older ones. auto: the model, where an endpoint is named for it or the
    served model is large enough; else the local one."""
    judge_url: str | None = None
    """An OpenAI-style endpoint for the judge ``model``; None: the served model."""
    judge_model: str | None = None
    judge_api_key: str | None = _secret()
    judge_timeout_s: float = owned(JudgeLimits, "within_s")
    secrets: SecretsPolicy = owned(Discretion, "secrets")
    """Of keys, card numbers and passwords in what is to be remembered: kept, masked, or the sentence refused."""
    undelete_hours: float = _range(DAY_S / 3600, 0, 24 * 365)
    """A deleted memory can be brought back for this long; 0: it is forgotten."""
    bundle_key_file: Path | None = None
    """32 secret bytes that segments in bundles are signed with, for servers that take each other's; None: bundle.key in
    the data folder, made when it is needed."""


@dataclass(frozen=True)
class SchedulerSettings:
    """Configure next-scene prediction, which brings segments up before they are asked for."""

    predictor: Literal[PredictorName, "off"] = owned(ForesightConfig, "predictor")
    min_probability: float = owned(PreloadConfig, "min_probability")
    """Less likely segments are left where they are."""
    horizon_s: float = owned(ForesightConfig, "horizon_s")
    """Predictions reach this far ahead."""
    preload_mb_s: float = owned(PreloadConfig, "bytes_s", 1e6)
    """At most this many MB (1e6 bytes) per second are brought up; 0: as many as there is time for."""
    unused_share: float = _range(0.5, 0, 1)
    """At most this share of the memory tier may be taken up by segments that were brought up and not used yet."""

    def foresight(self, tier_bytes: int) -> ForesightConfig:
        """Compose the settings of prediction, above a memory tier of ``tier_bytes``."""
        preload = composed(PreloadConfig, self, unused_bytes=int(self.unused_share * tier_bytes))
        return composed(ForesightConfig, self, preload=preload)


@dataclass(frozen=True)
class Config:
    """Hold everything that the server is told."""

    data_dir: Path = field(default_factory=default_data_dir)
    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    cache: CacheSettings = CacheSettings()
    memory: MemorySettings = MemorySettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    vllm: tuple[str, ...] = ()
    """vLLM's own flags, as name=value. In a file also a section, on the command line --vllm.NAME VALUE."""

    def engine_config(self, model: str | Path, threads: int) -> EngineConfig:
        """Compose the settings of the engine that runs ``model`` with ``threads`` CPU threads."""
        own = {"threads": threads, "weigh_loading": self.cache.weigh_loading}
        return composed(
            EngineConfig,
            self.engine,
            model=model,
            model_id=self.engine.model,
            batching=composed(BatchingConfig, self.engine),
            composing=self.cache.composing(),
            transformers=composed(TransformersConfig, self.engine, **own),
            vllm=self._vllm_config(),
        )

    def _vllm_config(self) -> VllmConfig:
        parser = next((item.partition("=")[2] for item in self.vllm if item.startswith(_TOOL_PARSER)), None)
        flags = tuple(_vllm_flag(item) for item in self.vllm if not item.startswith(_TOOL_PARSER))
        return VllmConfig(flags, parser)


def _vllm_flag(item: str) -> str:
    """Format a setting ``name=value`` as vLLM's command line takes it."""
    name, _, value = item.partition("=")
    if value.lower() in ("", "true"):
        return f"--{name}"
    return f"--no-{name}" if value.lower() == "false" else f"--{name}={value}"
