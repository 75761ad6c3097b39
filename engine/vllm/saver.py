"""Saves of a worker: segments out of the blocks of requests, into the host tier and files."""

from __future__ import annotations

import logging
import queue
import threading

import torch

from engine.vllm.hosted import halves, use_all_cores
from engine.vllm.plan import Orders, SaveOrder, SaveSpan
from engine.vllm.rank import Rank
from engine.vllm.streams import Event, Staging
from kvcache import CODECS, CodecName, Lead, Segment
from kvcache.codecs import codec_for
from kvcache.files.writer import write_segment

log = logging.getLogger(__name__)

_MAX_QUEUED_BYTES = 2 << 30
_SAVED_AT_ONCE = 64 << 20
"""Bytes of one copy to the host, where there is more to copy; device memory is needed for them aside from the
cache's."""


class Saver:
    """Copies out of the paged cache in the model's thread, because only there is it known what the blocks hold, and
    writes files in a thread of its own."""

    def __init__(self, rank: Rank, codec: CodecName, *, fsync: bool) -> None:
        self._folder = rank.folder
        self._fingerprint = rank.fingerprint
        self._cache = rank.cache
        self._shard = rank.shard
        self._hosted = rank.hosted
        self._host = rank.hosted.tier
        self._outbox = rank.outbox
        self._streams = rank.streams
        self._codec: CodecName = codec
        self._fsync = fsync
        self._staging = Staging(rank.streams, rank.cache.device, 2 * _SAVED_AT_ONCE)
        self._writes: queue.Queue[tuple[Segment, Event] | None] = queue.Queue()
        self._writer = threading.Thread(target=self._write_loop, name="segment-writer", daemon=True)
        self._writer.start()

    def save(self, orders: Orders) -> None:
        """Copy this step's finished segments out of their blocks, or begin to, and hand them to the writer."""
        for order in orders.saves:
            nbytes = self._cache.nbytes(len(order.token_ids))
            with self._outbox.lock:
                full = self._outbox.queued_bytes > 0 and self._outbox.queued_bytes + nbytes > _MAX_QUEUED_BYTES
                if full:  # the disk is slower than the model: keep serving
                    self._outbox.report.saved.append((order.key, 0))
                    continue
                self._outbox.queued_bytes += nbytes
            try:
                self._writes.put(self._segment(order))  # held in the host tier until it is written
            except Exception:
                # The worker's edge: a segment that is not saved is computed again.
                log.exception("segment %s could not be copied out of its blocks", order.key[:12])
                with self._outbox.lock:
                    self._outbox.queued_bytes -= nbytes
                    self._outbox.report.saved.append((order.key, 0))

    def join(self) -> None:
        """Wait until all is written."""
        self._writes.join()

    def close(self) -> None:
        """Finish what is being written."""
        self._writes.put(None)
        self._writer.join()

    def _segment(self, order: SaveOrder) -> tuple[Segment, Event]:
        """Begin to copy the segment to the host tier, and count one use of it; returns also the point at which its
        bytes are there."""
        keep: SaveSpan = order.keep
        shape = self._cache.shape(keep.end - keep.start)
        buffer = self._host.allocate(self._cache.nbytes(keep.end - keep.start))
        try:
            segment = self._made(order, *halves(buffer, shape, self._cache.dtype))
            copied = self._copy_out(order, segment.keys, segment.values)
        except BaseException:
            self._host.discard(buffer)
            raise
        if self._streams.is_late:
            self._hosted.expect(segment.key, copied)
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
        use_all_cores()
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
                with self._outbox.arrived:
                    self._outbox.queued_bytes -= segment.nbytes
                    self._outbox.report.saved.append((segment.key, nbytes))
                    self._outbox.arrived.notify_all()
                self._writes.task_done()
        self._writes.task_done()

    def _wait_for(self, key: str, copied: Event) -> None:
        self._hosted.settle(key, copied)

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
