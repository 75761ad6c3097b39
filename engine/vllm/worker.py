"""The connector inside a model worker: loads segments into the paged cache and saves them from it.

One instance a rank, each with its own layers and heads. Reading, checking, moving and writing files happens in
threads of its own; only the copy out of the paged cache (and repair) happens in the model's thread, because only
there is it known what the blocks hold.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from engine.vllm.paged import Half, PagedCache, Run
from engine.vllm.plan import LoadOrder, LoadReport, Orders, RepairOrder, SaveOrder, SaveSpan, StoredRun, WorkerReport
from engine.vllm.repair import Repairer
from engine.vllm.streams import Event, Staging, Streams, streams_of
from kvcache import (
    CODECS,
    CodecName,
    Fingerprint,
    FingerprintMismatch,
    Lead,
    Rotation,
    Segment,
    SegmentCorrupt,
    TierName,
)
from kvcache.arena import HostTier
from kvcache.codecs import codec_for
from kvcache.files.folder import SegmentFolder
from kvcache.files.reader import SegmentReader
from kvcache.files.writer import write_segment
from kvcache.shard import Shard

log = logging.getLogger(__name__)

_READERS = 4
_MAX_QUEUED_BYTES = 2 << 30
# While it waits for its next step, vLLM's thread holds the interpreter for a whole interval at a time; a reader that
# comes back from the drive would wait for it after every chunk, many times as long as the chunk takes.
_BUSY_SWITCH_S = 0.0001
# A step without tokens has nothing to do but to wait for loads; longer would delay requests that arrive. On a CPU steps
# without a pause would take the interpreter from the readers; on a GPU vLLM's own pause of a millisecond is enough.
_IDLE_WAIT_S = 0.01
_LOADED_AT_ONCE = 16 << 20
_SAVED_AT_ONCE = 64 << 20
"""Bytes of one copy from the host and to it, where there is more to copy; device memory is needed for them aside from
the cache's."""


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


@dataclass(eq=False)
class _Repair:
    """One request's passes under way."""

    order: RepairOrder
    steps: Generator[None, None, int]
    seconds: float = 0.0


@dataclass
class _Outbox:
    """What has happened and was not reported yet."""

    report: WorkerReport = field(default_factory=WorkerReport)
    received: set[str] = field(default_factory=set)
    invalid_blocks: set[int] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        return not (self.received or self.report != WorkerReport())


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
        codec: CodecName = "none",
        fsync: bool = True,
        streams: Streams | None = None,
    ) -> None:
        self._folder = SegmentFolder(folder)
        self._fingerprint = fingerprint
        self._cache = cache
        self._shard = shard
        self._codec: CodecName = codec
        self._fsync = fsync
        self._rotation: Rotation | None = None
        self._repairer: Repairer | None = None
        self._repairs: deque[_Repair] = deque()
        self._host = HostTier(host_bytes, pin=cache.device.type == "cuda")
        if cache.device.type == "cpu":
            self._host.touch()
        self._host_reported = 0
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._outbox = _Outbox()
        self._loading = 0
        self._switch_s = sys.getswitchinterval()
        self._queued_bytes = 0
        self._copying: dict[str, Event] = {}
        """Segments of the host tier whose bytes may still be on their way there."""
        self._streams = streams or streams_of(cache.device)
        self._staging = Staging(self._streams, cache.device, 2 * _SAVED_AT_ONCE)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="segment-reader", initializer=_use_all_cores)
        self._placer = ThreadPoolExecutor(1, thread_name_prefix="segment-placer", initializer=_use_all_cores)
        self._writes: queue.Queue[tuple[Segment, Event] | None] = queue.Queue()
        self._writer = threading.Thread(target=self._write_loop, name="segment-writer", daemon=True)
        self._writer.start()

    # -- one step, in the model's thread ---------------------------------------------------------------------

    def start(self, orders: Orders) -> None:
        """Begin this step's loads. They write to blocks that no running request reads."""
        for order in orders.loads:
            # The blocks may be cleared, or even written to, by work that is queued already.
            job = _Job(order, len(order.sources), self._streams.mark())
            with self._lock:
                self._loading += 1
                if not order.sources:
                    self._finish(job)
            for source in order.sources:
                self._readers.submit(self._load, job, source)
        with self._lock:
            self._share_interpreter(idle=orders.idle)

    def _share_interpreter(self, *, idle: bool) -> None:
        """Have this thread hand over the interpreter more often while there are loads; on a GPU only in steps that
        compute nothing, because in others it is this thread that keeps the device busy. Under the lock."""
        busy = self._loading > 0 and (idle or not self._streams.is_late)
        sys.setswitchinterval(_BUSY_SWITCH_S if busy else self._switch_s)

    def save(self, orders: Orders) -> None:
        """Copy this step's finished segments out of their blocks, or begin to, and hand them to the writer."""
        for order in orders.saves:
            nbytes = self._cache.nbytes(len(order.token_ids))
            with self._lock:
                full = self._queued_bytes > 0 and self._queued_bytes + nbytes > _MAX_QUEUED_BYTES
                if full:  # the disk is slower than the model: keep serving
                    self._outbox.report.saved.append((order.key, 0))
                    continue
                self._queued_bytes += nbytes
            try:
                self._writes.put(self._segment(order))  # held in the host tier until it is written
            except Exception:
                # The worker's edge: a segment that is not saved is computed again.
                log.exception("segment %s could not be copied out of its blocks", order.key[:12])
                with self._lock:
                    self._queued_bytes -= nbytes
                    self._outbox.report.saved.append((order.key, 0))

    def received(self, *, idle: bool) -> set[str]:
        """Requests whose load has ended since the last call, well or not. ``idle``: on a CPU, wait a little for one."""
        with self._arrived:
            waits = idle and not self._streams.is_late
            if waits and (self._loading or self._queued_bytes) and not self._repairs and self._outbox.is_empty:
                self._arrived.wait(_IDLE_WAIT_S)
            done, self._outbox.received = self._outbox.received, set()
            return done

    def invalid_blocks(self) -> set[int]:
        """Blocks that could not be filled, since the last call."""
        with self._lock:
            blocks, self._outbox.invalid_blocks = self._outbox.invalid_blocks, set()
            return blocks

    def report(self) -> WorkerReport | None:
        """What happened since the last call; None when nothing did."""
        with self._lock:
            report, self._outbox.report = self._outbox.report, WorkerReport()
            if self._host.nbytes != self._host_reported:
                self._host_reported = self._host.nbytes
                report.host_bytes.append(self._host.nbytes)
        return None if report == WorkerReport() else report

    def forget(self, keys: list[str]) -> None:
        """Drop these segments from the host tier."""
        for key in keys:
            self._host.drop(key)

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

    def drop_host_tier(self) -> None:
        """Empty the host tier (benchmarks measure the disk so)."""
        self._writes.join()
        self._host.clear()

    def can_compose(self, rotation: Rotation, repairer: Repairer) -> None:
        """From now on sources may be moved and repaired."""
        self._rotation, self._repairer = rotation, repairer

    def repair(self, orders: Orders) -> None:
        """One pass for the request whose turn it is; in the model's thread, and the same one on every rank."""
        self._repairs.extend(_Repair(order, self._steps(order)) for order in orders.repairs)
        if not self._repairs:
            return
        begin = time.perf_counter()
        current = self._repairs[0]
        try:
            next(current.steps)
        except StopIteration as end:
            self._repairs.popleft()
            with self._lock:
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
        with self._lock:
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
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._placer.shutdown(wait=True)
        self._writes.put(None)
        self._writer.join()

    # -- loading, in a reader's thread -----------------------------------------------------------------------

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
            with self._arrived:
                self._outbox.report.bad.append(key)
                self._arrived.notify_all()
        except Exception:
            # The worker's edge: a segment that is not preloaded is loaded when it is asked for.
            log.exception("segment %s could not be preloaded", key[:12])
        else:
            self._host.release(segment)

    def _bring(self, job: _Job, source: StoredRun) -> tuple[Segment, TierName]:
        """Place the source, from the host tier or while it is read from disk."""
        segment = self._acquire(source.key)
        if segment is not None:
            self._place(job, source, segment)
            return segment, "host"
        path = self._folder.file_of(source.key, self._shard)
        segment = self._read(job, source, path) if path is not None else None
        if segment is None:
            segment = self._kept(self._folder.read(source.key, self._fingerprint, self._shard))
            self._place(job, source, segment)
        return segment, "disk"

    def _acquire(self, key: str) -> Segment | None:
        """A segment of the host tier whose bytes are there, to be released after use."""
        segment = self._host.acquire(key)
        with self._lock:
            copied = self._copying.get(key)
        if segment is not None and copied is not None:
            copied.synchronize()
        return segment

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
                if self._rotation is None:
                    raise SegmentCorrupt("this model's keys cannot be moved")
                some = self._rotation.turned(some, source.shift)
            cache.write_layers(placing.run, half, first, some)
        placing.done[half] = max(placing.done[half], len(stored))

    def _kept(self, segment: Segment) -> Segment:
        """The segment in the host tier's memory, and one use of it."""
        buffer = self._host.allocate(2 * segment.keys.nbytes)
        keys, values = _halves(buffer, segment.keys.shape, segment.keys.dtype)
        kept = replace(segment, keys=keys.copy_(segment.keys), values=values.copy_(segment.values))
        self._host.put(kept, buffer)
        return kept

    def _end(
        self, job: _Job, source: StoredRun, report: LoadReport | None, *, missing: bool = False, bad: bool = False
    ) -> None:
        size = self._cache.block_size
        with self._arrived:
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
        """All of a job's sources are in place (or could not be brought). Under the lock."""
        self._loading -= 1
        if not self._loading:
            sys.setswitchinterval(self._switch_s)
        if job.order.report_when_done:
            self._outbox.received.add(job.order.request_id)
        else:
            self._outbox.report.placed.append(job.order.request_id)
        self._arrived.notify_all()

    # -- saving ----------------------------------------------------------------------------------------------

    def _segment(self, order: SaveOrder) -> tuple[Segment, Event]:
        """The segment in the host tier, one use of it, and the point at which its bytes are there."""
        keep: SaveSpan = order.keep
        shape = self._cache.shape(keep.end - keep.start)
        buffer = self._host.allocate(self._cache.nbytes(keep.end - keep.start))
        try:
            segment = self._made(order, *_halves(buffer, shape, self._cache.dtype))
            copied = self._copy_out(order, segment.keys, segment.values)
        except BaseException:
            self._host.discard(buffer)
            raise
        if self._streams.is_late:
            with self._lock:
                self._copying[segment.key] = copied
        self._host.put(segment, buffer)
        return segment, copied

    def _copy_out(self, order: SaveOrder, keys: torch.Tensor, values: torch.Tensor) -> Event:
        """Copy a segment out of its blocks; returns the point at which it is there. On a GPU nothing here waits: what
        the blocks hold now is gathered in the model's own stream, before anything that comes later can change it."""
        run = self._cache.run(order.block_ids, order.keep.start, order.keep.end)
        if not self._streams.is_late:
            self._cache.read_layers(run, 0, keys, values)
            return self._streams.mark()
        copied: Event | None = None
        step = max(1, _SAVED_AT_ONCE // (2 * keys[0].nbytes))
        try:
            for first in range(0, len(keys), step):
                halves = keys[first : first + step], values[first : first + step]
                staged = self._staging.take((2, *halves[0].shape), keys.dtype)
                self._cache.read_layers(run, first, *staged)
                with self._streams.aside():
                    for half, out in zip(staged, halves, strict=True):
                        out.copy_(half, non_blocking=True)
                    copied = self._streams.mark()
                self._staging.use(staged, copied)
        except BaseException:
            if copied is not None:  # until then earlier layers are on their way into memory that is given back
                copied.synchronize()
            raise
        assert copied is not None, "a segment has layers"
        return copied

    def _made(self, order: SaveOrder, keys: torch.Tensor, values: torch.Tensor) -> Segment:
        keep, labels = order.keep, frozenset(order.keep.labels)
        if not keep.parts:
            return Segment.chained(
                keep.parent, self._fingerprint, keep.start, order.token_ids, keys, values, labels, self._shard
            )
        parts, begin = [], 0
        for n_tokens, label in keep.parts:
            parts.append((order.token_ids[begin : begin + n_tokens], label))
            begin += n_tokens
        return Segment.standalone(
            keep.parent,
            self._fingerprint,
            keep.start,
            parts,
            keys,
            values,
            lead=Lead(order.lead_ids, labels),
            shard=self._shard,
        )

    def _write_loop(self) -> None:
        _use_all_cores()
        while (written := self._writes.get()) is not None:
            segment, copied = written
            nbytes = 0
            try:
                self._wait_for(segment.key, copied)
                nbytes = self._write_file(segment)
            except Exception:
                # The worker's edge: one bad write must not end all writing.
                log.exception("segment %s could not be written", segment.key[:12])
            finally:
                self._host.release(segment)
                with self._arrived:
                    self._queued_bytes -= segment.nbytes
                    self._outbox.report.saved.append((segment.key, nbytes))
                    self._arrived.notify_all()
                self._writes.task_done()
        self._writes.task_done()

    def _wait_for(self, key: str, copied: Event) -> None:
        """Wait until a segment's bytes are there."""
        copied.synchronize()
        with self._lock:
            if self._copying.get(key) is copied:
                del self._copying[key]

    def _write_file(self, segment: Segment) -> int:
        codec = codec_for(self._codec, standalone=segment.root is not None)
        path = self._folder.path_of(segment.key, segment.shard)
        try:
            nbytes = write_segment(path, segment, codec=codec, fsync=self._fsync)
            if not CODECS[codec].lossless:  # what is used and what is certified is what is read back
                self._host.drop(segment.key)
            return nbytes
        except OSError as error:
            log.warning("segment %s is kept in memory only: %s", segment.key[:12], error.strerror or error)
            return 0


def _halves(buffer: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a shape in one run of bytes."""
    keys, values = buffer.view(dtype).view(2, *shape)
    return keys, values


def _use_all_cores() -> None:
    """vLLM binds a CPU worker's threads to the model's cores; threads that wait for a drive may run anywhere."""
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except (AttributeError, OSError):  # not on this system, or not allowed: then they share the model's cores
        log.debug("the connector's threads stay on the model's cores")
