"""What travels between a server, the connector's two sides and back.

A request's plan is JSON, under ``recallkv`` in ``kv_transfer_params``; orders (scheduler to workers) and reports
(workers to scheduler) travel as vLLM's own messages do, once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

from kvcache import StrategyName, TierName, chain_key, standalone_root

PARAMS = "recallkv"
"""Name of our part of ``kv_transfer_params``."""


@dataclass(frozen=True)
class StoredRun:
    """A run of the prompt whose keys and values are stored: ``n_tokens`` from ``position`` on are those of segment
    ``key`` from its token ``begin`` on, moved by ``shift`` positions (0: a chained segment, at its place)."""

    key: str
    position: int
    n_tokens: int
    begin: int = 0
    shift: int = 0

    @property
    def end(self) -> int:
        return self.position + self.n_tokens

    def clipped(self, begin: int, end: int) -> StoredRun | None:
        """The part of it between two positions of the prompt."""
        first, last = max(begin, self.position), min(end, self.end)
        if first >= last:
            return None
        return StoredRun(self.key, first, last - first, self.begin + first - self.position, self.shift)


@dataclass(frozen=True)
class SaveSpan:
    """Tokens ``start`` to ``end`` of the prompt are to be stored: as a chained segment behind ``parent``; or, with
    ``parts`` (number of tokens and label each), as a page behind the header ``parent`` and the ``lead`` tokens that
    end at ``start``."""

    parent: str
    start: int
    end: int
    labels: tuple[str, ...] = ()
    parts: tuple[tuple[int, str | None], ...] = ()
    lead: int = 0

    @property
    def root(self) -> str | None:
        """Of a page, the root of its key and its parts' keys."""
        return standalone_root(self.parent) if self.parts else None

    def parent_key(self, token_ids: Sequence[int]) -> str:
        """The parent of the segment to be; ``token_ids`` are the prompt's."""
        return (
            self.parent if self.root is None else chain_key(self.root, token_ids[self.start - self.lead : self.start])
        )

    def key(self, token_ids: Sequence[int]) -> str:
        """The key of the segment to be; ``token_ids`` are the prompt's."""
        return chain_key(self.parent_key(token_ids), token_ids[self.start : self.end])


@dataclass(frozen=True)
class Composition:
    """Sources that were computed elsewhere than where they are used, and how they are repaired.

    ``parts``: begin and end of each in the prompt, and whether it starts a run (see ``kvcache.Composed``).
    """

    parts: tuple[tuple[int, int, bool], ...]
    strategy: StrategyName
    share: float

    def before(self, end: int) -> Composition | None:
        """What of it lies before a position; None where nothing does."""
        parts = tuple((a, min(b, end), starts) for a, b, starts in self.parts if a < end)
        return Composition(parts, self.strategy, self.share) if parts else None

    def reaches(self, position: int) -> bool:
        """Whether it has tokens at the position or behind it."""
        return any(end > position for _, end, _ in self.parts)


@dataclass(frozen=True)
class RequestPlan:
    """Where a prompt's keys and values come from, and what is stored of it.

    ``sources`` are in prompt order, without a gap, from position 0; ``id`` is the name that reports are made under.
    """

    sources: tuple[StoredRun, ...] = ()
    keeps: tuple[SaveSpan, ...] = ()
    composition: Composition | None = None
    id: str = ""
    score: int = 0
    """Keep the next-token distributions of so many last tokens of the prompt, under ``id``, in the worker. The whole
    prompt is then computed by passes of ours, but for what the sources hold, which may have gaps between them."""

    @property
    def end(self) -> int:
        """Position after the last stored token."""
        return self.sources[-1].end if self.sources else 0

    def as_params(self) -> dict[str, Any]:
        """The value of ``kv_transfer_params``."""
        return {PARAMS: _PLAN.dump_python(self, mode="json")}

    @classmethod
    def from_params(cls, params: dict[str, Any] | None) -> RequestPlan | None:
        """The plan in ``kv_transfer_params``, where there is one. Raises ``ValueError`` when it is malformed."""
        if not params or PARAMS not in params:
            return None
        return _PLAN.validate_python(params[PARAMS])


_PLAN: TypeAdapter[RequestPlan] = TypeAdapter(RequestPlan)


@dataclass(frozen=True)
class LoadOrder:
    """Fill a request's blocks: ``block_ids`` are those of the whole sequence so far."""

    request_id: str
    block_ids: tuple[int, ...]
    sources: tuple[StoredRun, ...]
    name: str = ""
    """The plan's id."""
    report_when_done: bool = True
    """False: the request goes on to be repaired first."""


@dataclass(frozen=True)
class RepairOrder:
    """Passes over a request's blocks before vLLM goes on with it. All ranks begin with them in the same step.

    ``token_ids`` are those of the prompt from position 0 on; ``before`` and ``after`` are ranges of positions to
    compute before and after the composition is repaired. Without any of these there is nothing to do.
    """

    request_id: str
    name: str = ""
    block_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    composition: Composition | None = None
    before: tuple[tuple[int, int], ...] = ()
    after: tuple[tuple[int, int], ...] = ()
    begin: int = 0
    """What lies before this position was repaired for an earlier request and is left as it is."""
    score: int = 0

    @property
    def first_written(self) -> int:
        """The first position that passes write to."""
        parts = self.composition.parts if self.composition is not None else ()
        written = [
            *(max(begin, self.begin) for begin, _, _ in parts),
            *(begin for begin, _ in self.before + self.after),
        ]
        return min(written, default=len(self.token_ids))


@dataclass(frozen=True)
class SaveOrder:
    """Copy a run of tokens out of a request's blocks and write it."""

    keep: SaveSpan
    token_ids: tuple[int, ...]
    """Those of the segment."""
    lead_ids: tuple[int, ...]
    block_ids: tuple[int, ...]

    @property
    def key(self) -> str:
        """The key of the segment to be."""
        root = self.keep.root
        return chain_key(self.keep.parent if root is None else chain_key(root, self.lead_ids), self.token_ids)


@dataclass
class Orders(KVConnectorMetadata):
    """One step's work for the workers. ``idle``: nothing is computed in this step."""

    loads: list[LoadOrder] = field(default_factory=list)
    repairs: list[RepairOrder] = field(default_factory=list)
    saves: list[SaveOrder] = field(default_factory=list)
    idle: bool = False


@dataclass(frozen=True)
class LoadReport:
    """One source was brought in."""

    name: str
    key: str
    tier: TierName
    n_tokens: int
    nbytes: int
    seconds: float


@dataclass
class WorkerReport(KVConnectorWorkerMetadata):
    """What the workers did since the last step: every list has entries of all ranks."""

    loads: list[LoadReport] = field(default_factory=list)
    placed: list[str] = field(default_factory=list)
    """Requests whose sources are in place and that wait for their repair."""
    repaired: list[tuple[str, int, float]] = field(default_factory=list)
    """Plan, tokens computed anew, seconds."""
    saved: list[tuple[str, int]] = field(default_factory=list)
    """Key, bytes of keys and values in the file; 0 when it could not be written."""
    failed: list[tuple[str, int]] = field(default_factory=list)
    """Plan, and the position of a source that could not be brought in."""
    unrepaired: list[tuple[str, str, int]] = field(default_factory=list)
    """Request, plan, and the position from which on its tokens are to be computed, because a pass failed."""
    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    host_bytes: list[int] = field(default_factory=list)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> WorkerReport:
        """Both reports as one."""
        assert isinstance(other, WorkerReport)
        for name in self.__dataclass_fields__:
            getattr(self, name).extend(getattr(other, name))
        return self
