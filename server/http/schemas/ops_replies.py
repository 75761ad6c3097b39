"""Replies of our own routes about the server: health, segments, and the scheduler."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from engine.base import Source


class HealthReply(TypedDict):
    """The state of the server: `ok` while requests are taken."""

    status: Literal["ok", "draining"]


class VersionReply(TypedDict):
    """Versions, and the fingerprint that this server's segments belong to."""

    version: str
    torch: str
    transformers: str
    fingerprint: str


class TierReply(TypedDict):
    """The contents of a tier, in segments and bytes, and its counters since the start."""

    segments: int
    bytes: int
    budget: int
    hits: int
    evictions: int


class QuarantineReply(TypedDict):
    """Files that were refused and are still on disk."""

    segments: int
    bytes: int


class ModelShareReply(TypedDict):
    """The part of the disk that one model's segments take."""

    fingerprint: str
    segments: int
    bytes: int
    last_used_at: float
    served: bool


class UpkeepReply(TypedDict):
    """Work in idle time since the start; ``waiting`` is what is queued now."""

    pages_built: int
    pages_refused: int
    healed: int
    failures: int
    waiting: int


class CertificateReply(TypedDict):
    """The distance of a page from exact, by fidelity: mean divergence in nats, and share of equal likeliest tokens."""

    kl: dict[str, float]
    top1: dict[str, float]


class SegmentReply(TypedDict):
    """A stored segment, and the memories it was computed from."""

    object: Literal["segment"]
    key: str
    kind: str
    fingerprint: str
    tier: str | None
    start: int
    tokens: int
    bytes: int
    disk_bytes: int
    memories: list[str]
    certificate: CertificateReply | None
    pinned: bool
    uses: int
    created_at: float
    last_used_at: float


class CacheReply(TypedDict):
    """The contents of the tiers, and the segments of the tenant's own memories, last used first."""

    object: Literal["cache"]
    tiers: dict[str, TierReply]
    quarantined: int
    quarantine: QuarantineReply
    models: list[ModelShareReply]
    upkeep: UpkeepReply
    total: int
    data: list[SegmentReply]


class PreloadsReply(TypedDict):
    """The segments that preloading has brought up, and how much of them was used; ``saved_s`` seconds of loading."""

    segments: int
    bytes: int
    used_bytes: int
    wasted_bytes: int
    saved_s: float


class PreloaderReply(TypedDict):
    """Segments that were to be brought up, and what became of them."""

    waiting: int
    offered: int
    moved: int
    moved_bytes: int
    cancelled: int
    expired: int
    refused: int
    failures: int


class SchedulerReply(TypedDict):
    """Queues, the predictor's report card (null where nothing is predicted), and the last events, newest first."""

    object: Literal["scheduler"]
    predictor: dict[str, Any] | None
    upkeep: UpkeepReply
    jobs: dict[str, int]
    preloads: PreloadsReply
    events: list[dict[str, Any]]
    preloader: NotRequired[PreloaderReply]
    sources: NotRequired[dict[Source, int]]


class AdviceReply(TypedDict):
    """Advice if it pays to keep one memory's keys and values. Seconds and bytes; ``expected_uses`` per 100 turns of the
    cube; ``break_even_uses`` null: it never pays."""

    memory_id: str
    tokens: int
    bytes: int
    build_s: float
    compute_s: float
    load_s: float
    saved_s: float
    expected_uses: float
    break_even_uses: float | None
    activated: bool
    verdict: str


class PlanReply(TypedDict):
    """Advice on a cube's memories, what saves most first."""

    object: Literal["plan"]
    cube: str
    summary: str
    data: list[AdviceReply]


class HintReply(TypedDict):
    """The number of segments that are expected because of a hint."""

    object: Literal["scene.hint"]
    cube: str
    segments: int


class PrefetchReply(TypedDict):
    """The number of segments that are expected because of a message that is being typed."""

    object: Literal["prefetch"]
    cube: str
    segments: int
