"""The connector inside a model worker: loads segments into the paged cache and saves them from it.

One instance a rank, each with its own layers and heads. Reading, checking, moving and writing files happens in
threads of its own; only the copy out of the paged cache (and repair) happens in the model's thread, because only
there is it known what the blocks hold.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from engine.vllm.hosted import Hosted
from engine.vllm.loader import Loader
from engine.vllm.paged import PagedCache
from engine.vllm.plan import Orders, RepairOrder, WorkerReport
from engine.vllm.rank import Rank
from engine.vllm.repair import Repairer
from engine.vllm.saver import Saver
from engine.vllm.streams import Streams, streams_of
from kvcache import CodecName, Fingerprint, Rotation
from kvcache.arena import HostTier
from kvcache.config import StoreConfig
from kvcache.files.folder import SegmentFolder
from kvcache.shard import Shard

log = logging.getLogger(__name__)

# A step without tokens has nothing to do but to wait for loads; longer would delay requests that arrive. On a CPU steps
# without a pause would take the interpreter from the readers; on a GPU vLLM's own pause of a millisecond is enough.
_IDLE_WAIT_S = 0.01


@dataclass(eq=False)
class _Repair:
    """One request's passes under way."""

    order: RepairOrder
    steps: Generator[None, None, int]
    seconds: float = 0.0


class WorkerSide:
    """Loads and saves of one rank. ``shard``: its layers and heads; ``host_bytes``: budget of its host tier."""

    def __init__(
        self,
        folder: Path,
        fingerprint: Fingerprint,
        cache: PagedCache,
        shard: Shard,
        *,
        host_bytes: int,
        codec: CodecName = StoreConfig.codec,
        fsync: bool = StoreConfig.fsync,
        streams: Streams | None = None,
    ) -> None:
        host = HostTier(host_bytes, pin=cache.device.type == "cuda")
        if cache.device.type == "cpu":
            host.touch()
        rank = Rank(SegmentFolder(folder), fingerprint, cache, shard, Hosted(host), streams or streams_of(cache.device))
        self._cache = cache
        self._host = host
        self._host_reported = 0
        self._streams = rank.streams
        self._outbox = rank.outbox
        self._loader = Loader(rank)
        self._saver = Saver(rank, codec, fsync=fsync)
        self._repairer: Repairer | None = None
        self._repairs: deque[_Repair] = deque()

    # -- one step, in the model's thread ---------------------------------------------------------------------

    def start(self, orders: Orders) -> None:
        """Begin this step's loads. They write to blocks that no running request reads."""
        self._loader.start(orders)

    def save(self, orders: Orders) -> None:
        """Copy this step's finished segments out of their blocks, or begin to, and hand them to the writer."""
        self._saver.save(orders)

    def received(self, *, idle: bool) -> set[str]:
        """Return the requests whose load has ended since the last call, well or not. ``idle``: on a CPU, wait a little
        for one."""
        waits = idle and not self._streams.is_late and not self._repairs
        return self._outbox.take_received(_IDLE_WAIT_S if waits else None)

    def invalid_blocks(self) -> set[int]:
        """Return the blocks that could not be filled, since the last call."""
        return self._outbox.take_invalid_blocks()

    def report(self) -> WorkerReport | None:
        """Return what happened since the last call; None when nothing did."""
        report = self._outbox.take_report()
        if self._host.nbytes != self._host_reported:
            self._host_reported = self._host.nbytes
            report.host_bytes.append(self._host_reported)
        return None if report == WorkerReport() else report

    def forget(self, keys: list[str]) -> None:
        """Drop these segments from the host tier."""
        for key in keys:
            self._host.drop(key)

    def preload(self, key: str) -> int:
        """Begin to read a segment into the host tier, before it is asked for; its bytes, 0 where it is there already
        or has no file."""
        return self._loader.preload(key)

    def drop_host_tier(self) -> None:
        """Empty the host tier (benchmarks measure the disk so)."""
        self._saver.join()
        self._host.clear()

    def can_compose(self, rotation: Rotation, repairer: Repairer) -> None:
        """Let sources be moved and repaired from now on."""
        self._loader.rotation, self._repairer = rotation, repairer

    def repair(self, orders: Orders) -> None:
        """Run one pass for the request whose turn it is; in the model's thread, and the same one on every rank."""
        self._repairs.extend(_Repair(order, self._steps(order)) for order in orders.repairs)
        if not self._repairs:
            return
        begin = time.perf_counter()
        current = self._repairs[0]
        try:
            next(current.steps)
        except StopIteration as end:
            self._repairs.popleft()
            with self._outbox.lock:
                spent = current.seconds + time.perf_counter() - begin
                self._outbox.report.repaired.append((current.order.name, end.value, spent))
                self._outbox.received.add(current.order.request_id)
        except Exception:
            # The worker's edge: one request's passes must not end the engine. It is computed instead. (With several
            # ranks, only what fails on all of them ends well: the others would wait in a collective operation.)
            log.exception("request %s could not be repaired and is computed", current.order.request_id)
            self._repairs.popleft()
            self._unrepaired(current.order)
        else:
            current.seconds += time.perf_counter() - begin

    def _unrepaired(self, order: RepairOrder) -> None:
        """Have vLLM compute all that the passes may have written to, or should have."""
        if self._repairer is not None:
            self._repairer.forget_score(order.name)
        first = order.first_written
        with self._outbox.lock:
            self._outbox.invalid_blocks.update(order.block_ids[first // self._cache.block_size :])
            self._outbox.report.unrepaired.append((order.request_id, order.name, first))
            self._outbox.received.add(order.request_id)

    def _steps(self, order: RepairOrder) -> Generator[None, None, int]:
        if not (order.composition or order.before or order.after):
            return 0
        return (yield from self.repairer.steps(order))

    @property
    def repairer(self) -> Repairer:
        assert self._repairer is not None, "nothing is composed before can_compose"
        return self._repairer

    def close(self) -> None:
        """Finish what is being read and written."""
        self._loader.close()
        self._saver.close()
