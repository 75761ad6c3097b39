"""The connector inside a model worker: loads segments into the paged cache and saves them from it.

One instance a rank, each with its own layers and heads. Reading, checking, moving and writing files happens in
threads of its own; only the copy out of the paged cache (and repair) happens in the model's thread, because only
there is it known what the blocks hold.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from engine.vllm.paged import PagedCache
from engine.vllm.plan import Keep, LoadOrder, LoadReport, Orders, RepairOrder, SaveOrder, Source, WorkerReport
from engine.vllm.repair import Repairer
from kvcache import CODECS, CodecName, Fingerprint, FingerprintMismatch, Rotation, Segment, SegmentCorrupt, TierName
from kvcache.arena import HostTier
from kvcache.codecs import codec_for
from kvcache.file import SegmentReader, write_segment
from kvcache.paths import segment_path
from kvcache.read import file_of_shard, read_shard
from kvcache.shard import Shard

log = logging.getLogger(__name__)

_READERS = 4
_MAX_QUEUED_BYTES = 2 << 30
# While it waits for its next step, vLLM's thread holds the interpreter for a whole interval at a time; a reader that
# comes back from the drive would wait for it after every chunk, many times as long as the chunk takes.
_BUSY_SWITCH_S = 0.0001
# A step without tokens has nothing to do but to wait for loads; longer would delay requests that arrive.
_IDLE_WAIT_S = 0.01


@dataclass(eq=False)
class _Job:
    """One request's load under way."""

    order: LoadOrder
    left: int
    ready: Any = None
    """Device event after which the blocks may be written to."""


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
    ) -> None:
        self._folder = folder
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
        on_gpu = cache.device.type == "cuda"
        self._stream: torch.cuda.Stream | None = torch.cuda.Stream() if on_gpu else None  # type: ignore[no-untyped-call]
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="segment-reader", initializer=_use_all_cores)
        self._placer = ThreadPoolExecutor(1, thread_name_prefix="segment-placer", initializer=_use_all_cores)
        self._writes: queue.Queue[Segment | None] = queue.Queue()
        self._writer = threading.Thread(target=self._write_loop, name="segment-writer", daemon=True)
        self._writer.start()

    # -- one step, in the model's thread ---------------------------------------------------------------------

    def start(self, orders: Orders) -> None:
        """Begin this step's loads. They write to blocks that no running request reads."""
        for order in orders.loads:
            job = _Job(order, len(order.sources))
            if self._stream is not None:  # the blocks may be zeroed by work that is queued already
                job.ready = torch.cuda.current_stream().record_event()
            with self._lock:
                self._loading += 1
                sys.setswitchinterval(_BUSY_SWITCH_S)
                if not order.sources:
                    self._finish(job)
            for source in order.sources:
                self._readers.submit(self._load, job, source)

    def save(self, orders: Orders) -> None:
        """Copy this step's finished segments out of their blocks and hand them to the writer."""
        for order in orders.saves:
            segment = self._segment(order)  # held in the host tier until it is written
            with self._lock:
                full = self._queued_bytes > 0 and self._queued_bytes + segment.nbytes > _MAX_QUEUED_BYTES
                if full:  # the disk is slower than the model: keep serving, from memory
                    self._outbox.report.saved.append((segment.key, 0))
                else:
                    self._queued_bytes += segment.nbytes
            if full:
                self._host.release(segment)
            else:
                self._writes.put(segment)

    def received(self, *, idle: bool) -> set[str]:
        """Requests whose load has ended since the last call, well or not. ``idle``: wait a little for one."""
        with self._arrived:
            if idle and (self._loading or self._queued_bytes) and not self._repairs and self._outbox.is_empty:
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
        path = file_of_shard(self._folder, key, self._shard)
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
        else:
            current.seconds += time.perf_counter() - begin

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

    def _load(self, job: _Job, source: Source) -> None:
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
            segment = self._kept(read_shard(self._folder, key, self._fingerprint, self._shard))
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

    def _bring(self, job: _Job, source: Source) -> tuple[Segment, TierName]:
        """Place the source, from the host tier or while it is read from disk."""
        segment = self._host.acquire(source.key)
        if segment is not None:
            self._place(job, source, segment)
            return segment, "host"
        path = file_of_shard(self._folder, source.key, self._shard)
        segment = self._read(job, source, path) if path is not None else None
        if segment is None:
            segment = self._kept(read_shard(self._folder, source.key, self._fingerprint, self._shard))
            self._place(job, source, segment)
        return segment, "disk"

    def _read(self, job: _Job, source: Source, path: Path) -> Segment | None:
        """Place each layer as soon as it was read: the blocks are the request's own and count for nothing before the
        file was found to be sound. None where the file must be decoded first."""
        with SegmentReader(path, self._fingerprint) as reader:
            if reader.header.codec != "none":
                return None
            buffer = self._host.allocate(reader.buffer_bytes)
            placed = {"keys": 0, "values": 0}
            placing: Future[None] | None = None
            try:
                with closing(reader.arrived(buffer)) as arrived:  # nothing is being read any more when the block ends
                    for filled in arrived:  # one placer: what was submitted first is placed first
                        placing = self._placer.submit(self._place_arrived, job, source, reader, placed, filled)
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

    def _place_arrived(
        self, job: _Job, source: Source, reader: SegmentReader, placed: dict[str, int], filled: int
    ) -> None:
        """Place the layers that are there whole; ``placed`` says how many are in place already."""
        with self._on_stream(job):
            for name, done in placed.items():
                stored, tensor = reader.header.tensors[name], reader.tensor(name)
                there = max(0, filled - stored.begin) * tensor.shape[0] // (stored.end - stored.begin)
                for layer in range(done, min(there, tensor.shape[0])):
                    self._place_layer(job, source, name, layer, tensor[layer])
                placed[name] = max(done, min(there, tensor.shape[0]))

    def _place(self, job: _Job, source: Source, segment: Segment) -> None:
        """Place a segment of the host tier, and end this use of it."""
        try:
            with self._on_stream(job):
                for name, tensor in (("keys", segment.keys), ("values", segment.values)):
                    for layer in range(tensor.shape[0]):
                        self._place_layer(job, source, name, layer, tensor[layer])
        finally:
            self._host.release(segment)

    def _place_layer(self, job: _Job, source: Source, name: str, layer: int, run: torch.Tensor) -> None:
        run = run[:, source.begin : source.begin + source.n_tokens]
        if name == "values":
            self._cache.write_values(layer, job.order.block_ids, source.position, run)
            return
        if source.shift:
            if self._rotation is None:
                raise SegmentCorrupt("this model's keys cannot be moved")
            run = self._rotation.turned(run.to(self._cache.device)[None], source.shift)[0]
        self._cache.write_keys(layer, job.order.block_ids, source.position, run)

    @contextmanager
    def _on_stream(self, job: _Job) -> Iterator[None]:
        """On a GPU: on a stream of the loads' own, behind what may still clear the blocks, until all is there."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(job.ready)
            yield
            self._stream.record_event().synchronize()

    def _kept(self, segment: Segment) -> Segment:
        """The segment in the host tier's memory, and one use of it."""
        buffer = self._host.allocate(2 * segment.keys.nbytes)
        keys, values = _halves(buffer, segment.keys.shape, segment.keys.dtype)
        kept = replace(segment, keys=keys.copy_(segment.keys), values=values.copy_(segment.values))
        self._host.put(kept, buffer)
        return kept

    def _end(
        self, job: _Job, source: Source, report: LoadReport | None, *, missing: bool = False, bad: bool = False
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

    def _segment(self, order: SaveOrder) -> Segment:
        keep: Keep = order.keep
        shape = self._cache.shape(keep.end - keep.start)
        buffer = self._host.allocate(2 * math.prod(shape) * self._cache.dtype.itemsize)
        keys, values = self._cache.read(
            order.block_ids, keep.start, keep.end, out=_halves(buffer, shape, self._cache.dtype)
        )
        if self._stream is not None:
            torch.cuda.current_stream().synchronize()
        segment = self._made(order, keys, values)
        self._host.put(segment, buffer)
        return segment

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
            lead=order.lead_ids,
            lead_labels=labels,
            shard=self._shard,
        )

    def _write_loop(self) -> None:
        _use_all_cores()
        while (segment := self._writes.get()) is not None:
            nbytes = 0
            try:
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

    def _write_file(self, segment: Segment) -> int:
        codec = codec_for(self._codec, standalone=segment.root is not None)
        path = segment_path(self._folder, segment.key, segment.shard)
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
