"""Loads of a worker: segments into the blocks of requests, from the host tier or from files."""

from __future__ import annotations

import logging
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from engine.vllm.hosted import halves, use_all_cores
from engine.vllm.paged import Half, Run
from engine.vllm.plan import LoadOrder, LoadReport, Orders, StoredRun
from engine.vllm.rank import Rank
from engine.vllm.streams import Event
from kvcache import FingerprintMismatch, Rotation, Segment, SegmentCorrupt, TierName
from kvcache.files.reader import SegmentReader

log = logging.getLogger(__name__)

_READERS = 4
# While it waits for its next step, vLLM's thread holds the interpreter for a whole interval at a time; a reader that
# comes back from the drive would wait for it after every chunk, many times as long as the chunk takes.
_BUSY_SWITCH_S = 0.0001
_LOADED_AT_ONCE = 16 << 20
"""Bytes of one copy from the host, where there is more to copy; device memory is needed for them aside from the
cache's."""


@dataclass(eq=False)
class _Job:
    """One request's load under way."""

    order: LoadOrder
    left: int
    ready: Event
    """The point after which the blocks may be written to."""


@dataclass(eq=False)
class _Placing:
    """One source on its way into its blocks: how many layers of each half are in place already."""

    job: _Job
    source: StoredRun
    done: dict[Half, int] = field(default_factory=lambda: {"keys": 0, "values": 0})
    run: Run | None = None
    """Where the tokens lie; made on the stream of the thread that places them."""


class Loader:
    """Reads, checks and moves in threads of its own. ``rotation`` is None until sources may be moved."""

    def __init__(self, rank: Rank) -> None:
        self._folder = rank.folder
        self._fingerprint = rank.fingerprint
        self._cache = rank.cache
        self._shard = rank.shard
        self._hosted = rank.hosted
        self._host = rank.hosted.tier
        self._outbox = rank.outbox
        self._streams = rank.streams
        self._switch_s = sys.getswitchinterval()
        self.rotation: Rotation | None = None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="segment-reader", initializer=use_all_cores)
        self._placer = ThreadPoolExecutor(1, thread_name_prefix="segment-placer", initializer=use_all_cores)

    # -- in the model's thread -------------------------------------------------------------------------------

    def start(self, orders: Orders) -> None:
        """Begin this step's loads. They write to blocks that no running request reads."""
        for order in orders.loads:
            # The blocks may be cleared, or even written to, by work that is queued already.
            job = _Job(order, len(order.sources), self._streams.mark())
            with self._outbox.lock:
                self._outbox.loading += 1
                if not order.sources:
                    self._finish(job)
            for source in order.sources:
                self._readers.submit(self._load, job, source)
        with self._outbox.lock:
            self._share_interpreter(idle=orders.idle)

    def _share_interpreter(self, *, idle: bool) -> None:
        """Have this thread hand over the interpreter more often while there are loads; on a GPU only in steps that
        compute nothing, because in others it is this thread that keeps the device busy. Under the lock."""
        busy = self._outbox.loading > 0 and (idle or not self._streams.is_late)
        sys.setswitchinterval(_BUSY_SWITCH_S if busy else self._switch_s)

    def preload(self, key: str) -> int:
        """Begin to read a segment into the host tier, before it is asked for; its bytes, 0 where it is there already
        or has no file."""
        held = self._host.acquire(key)
        if held is not None:
            self._host.release(held)
            return 0
        path = self._folder.file_of(key, self._shard)
        if path is None:
            return 0
        self._readers.submit(self._preload, key)
        return path.stat().st_size

    def close(self) -> None:
        """Finish what is being read."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._placer.shutdown(wait=True)

    # -- in a reader's thread --------------------------------------------------------------------------------

    def _load(self, job: _Job, source: StoredRun) -> None:
        begin = time.perf_counter()
        try:
            segment, tier = self._bring(job, source)
        except FileNotFoundError:
            log.warning("segment %s has vanished from the disk", source.key[:12])
            self._end(job, source, None, missing=True)
        except (SegmentCorrupt, FingerprintMismatch) as error:
            log.warning("segment %s is refused: %s", source.key[:12], error)
            self._end(job, source, None, bad=True)
        except Exception:
            # The worker's edge: whatever went wrong, the tokens are computed instead.
            log.exception("segment %s could not be loaded", source.key[:12])
            self._end(job, source, None, missing=True)
        else:
            nbytes = segment.nbytes * source.n_tokens // segment.n_tokens
            seconds = time.perf_counter() - begin
            report = LoadReport(job.order.name, source.key, tier, source.n_tokens, nbytes, seconds)
            self._end(job, source, report)

    def _preload(self, key: str) -> None:
        try:
            segment = self._kept(self._folder.read(key, self._fingerprint, self._shard))
        except FileNotFoundError:
            log.info("segment %s was gone before it was preloaded", key[:12])
        except (SegmentCorrupt, FingerprintMismatch) as error:
            log.warning("segment %s is refused: %s", key[:12], error)
            with self._outbox.arrived:
                self._outbox.report.bad.append(key)
                self._outbox.arrived.notify_all()
        except Exception:
            # The worker's edge: a segment that is not preloaded is loaded when it is asked for.
            log.exception("segment %s could not be preloaded", key[:12])
        else:
            self._host.release(segment)

    def _bring(self, job: _Job, source: StoredRun) -> tuple[Segment, TierName]:
        """Place the source, from the host tier or while it is read from disk."""
        segment = self._hosted.acquire(source.key)
        if segment is not None:
            self._place(job, source, segment)
            return segment, "host"
        path = self._folder.file_of(source.key, self._shard)
        segment = self._read(job, source, path) if path is not None else None
        if segment is None:
            segment = self._kept(self._folder.read(source.key, self._fingerprint, self._shard))
            self._place(job, source, segment)
        return segment, "disk"

    def _read(self, job: _Job, source: StoredRun, path: Path) -> Segment | None:
        """Place each layer as soon as it was read: the blocks are the request's own and count for nothing before the
        file was found to be sound. None where the file must be decoded first."""
        with SegmentReader(path, self._fingerprint) as reader:
            if reader.header.codec != "none":
                return None
            buffer = self._host.allocate(reader.buffer_bytes)
            progress = _Placing(job, source)
            placing: Future[None] | None = None
            try:
                with closing(reader.arrived(buffer)) as arrived:  # nothing is being read any more when the block ends
                    for filled in arrived:  # one placer: what was submitted first is placed first
                        placing = self._placer.submit(self._place_arrived, progress, reader, filled)
                if placing is not None:
                    placing.result()
                segment = reader.finish()
                if segment.key != source.key:
                    raise SegmentCorrupt(f"the file of {source.key[:12]} holds another segment")
            except BaseException:
                if placing is not None:  # until then memory and blocks are in use
                    wait([placing])
                self._host.discard(buffer)
                raise
        self._host.put(segment, buffer)
        self._host.release(segment)
        return segment

    def _place_arrived(self, placing: _Placing, reader: SegmentReader, filled: int) -> None:
        """Place the layers that are there whole and are not in place yet."""
        with self._streams.own(placing.job.ready):
            for name in placing.done:
                stored, tensor = reader.header.tensors[name], reader.tensor(name)
                there = max(0, filled - stored.begin) * tensor.shape[0] // (stored.end - stored.begin)
                self._place_layers(placing, name, tensor[: min(there, tensor.shape[0])])

    def _place(self, job: _Job, source: StoredRun, segment: Segment) -> None:
        """Place a segment of the host tier, and end this use of it."""
        placing = _Placing(job, source)
        try:
            with self._streams.own(job.ready):
                self._place_layers(placing, "keys", segment.keys)
                self._place_layers(placing, "values", segment.values)
        finally:
            self._host.release(segment)

    def _place_layers(self, placing: _Placing, half: Half, stored: torch.Tensor) -> None:
        """Place the layers of ``stored`` that are not in place yet: as many at once as there are on a GPU, one by one
        on a CPU, whose caches hold no more."""
        source, cache = placing.source, self._cache
        if placing.run is None:
            placing.run = cache.run(placing.job.order.block_ids, source.position, source.end)
        step = max(1, _LOADED_AT_ONCE // stored[:1].nbytes) if len(stored) and cache.is_joined else 1
        for first in range(placing.done[half], len(stored), step):
            some = cache.uploaded(stored[first : first + step], source.begin, source.begin + source.n_tokens)
            if half == "keys" and source.shift:
                if self.rotation is None:
                    raise SegmentCorrupt("this model's keys cannot be moved")
                some = self.rotation.turned(some, source.shift)
            cache.write_layers(placing.run, half, first, some)
        placing.done[half] = max(placing.done[half], len(stored))

    def _kept(self, segment: Segment) -> Segment:
        """Copy the segment to the host tier's memory, and count one use of it."""
        buffer = self._host.allocate(2 * segment.keys.nbytes)
        keys, values = halves(buffer, segment.keys.shape, segment.keys.dtype)
        kept = replace(segment, keys=keys.copy_(segment.keys), values=values.copy_(segment.values))
        self._host.put(kept, buffer)
        return kept

    def _end(
        self, job: _Job, source: StoredRun, report: LoadReport | None, *, missing: bool = False, bad: bool = False
    ) -> None:
        size = self._cache.block_size
        with self._outbox.arrived:
            out = self._outbox
            if report is not None:
                out.report.loads.append(report)
            else:
                first, last = source.position // size, (source.end - 1) // size
                out.invalid_blocks.update(job.order.block_ids[first : last + 1])
                out.report.failed.append((job.order.name, source.position))
            if missing:
                out.report.missing.append(source.key)
            if bad:
                out.report.bad.append(source.key)
            job.left -= 1
            if job.left == 0:
                self._finish(job)

    def _finish(self, job: _Job) -> None:
        """End a job all of whose sources are in place, or could not be brought. Under the lock."""
        self._outbox.loading -= 1
        if not self._outbox.loading:
            sys.setswitchinterval(self._switch_s)
        if job.order.report_when_done:
            self._outbox.received.add(job.order.request_id)
        else:
            self._outbox.report.placed.append(job.order.request_id)
        self._outbox.arrived.notify_all()
