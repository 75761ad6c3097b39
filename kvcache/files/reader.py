"""Reading segment files: checked, and in steps where that helps."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from kvcache.codecs import CODECS, Codec
from kvcache.copies import Allocate, fresh_memory
from kvcache.errors import FingerprintMismatch, ReadInterrupted, SegmentCorrupt
from kvcache.files.direct import ALIGNMENT, open_direct, read_direct
from kvcache.files.format import (
    Header,
    StoredTensor,
    bytes_of,
    checksum,
    hash_order,
    hasher_of,
    parse_header,
    parts_of,
)
from kvcache.fingerprint import Fingerprint
from kvcache.segment import Part, Segment, chain_key

# What is read at once: large enough for a drive's full speed, small enough for hashing to keep up beside it.
_READ_BYTES = 4 << 20
# So many of these are asked for at once: a drive's latency is hidden.
_AHEAD = 2
_INTERRUPTIBLE_BYTES = 512 << 10


def read_segment(
    path: Path,
    fingerprint: Fingerprint | None = None,
    *,
    allocate: Allocate = fresh_memory,
    stop: Callable[[], bool] | None = None,
) -> Segment:
    """Read, check and decode a segment file into host memory from ``allocate``. With ``stop``, in small steps on this
    thread alone, and given up once it says so (decoding, where there is a codec, is one step).

    Raises ``SegmentCorrupt``; ``FingerprintMismatch`` when it is of another model than ``fingerprint``;
    ``FileNotFoundError``; ``ReadInterrupted``.
    """
    with SegmentReader(path, fingerprint, stop) as reader:
        plain = reader.header.codec == "none"
        reader.fill((allocate if plain else fresh_memory)(reader.buffer_bytes))
        return reader.finish(allocate)


def read_parts(path: Path, header: Header) -> tuple[Part, ...]:
    """Return the parts of a standalone segment, from its tokens alone. Raises ``SegmentCorrupt``."""
    stored = header.tensors["token_ids"]
    buffer = torch.empty(stored.end - stored.begin, dtype=torch.uint8)
    with path.open("rb", buffering=0) as stream:
        _read_exactly(stream, bytes_of(buffer), path, header.data_begin + stored.begin)
    return parts_of(header, tuple(buffer.view(torch.int32).tolist()))


class SegmentReader:
    """Reads one segment file in steps, so that its first layers can be used while the last ones are being read.

    ``header`` is checked as far as that goes without the data. Nothing may be made of what :meth:`arrived` hands out
    that cannot be taken back, until :meth:`finish` has found the data to be sound. ``stop`` and what is raised: as
    ``read_segment``.
    """

    def __init__(
        self, path: Path, fingerprint: Fingerprint | None = None, stop: Callable[[], bool] | None = None
    ) -> None:
        self._path = path
        self._stop = stop
        self._stream = path.open("rb", buffering=0)
        self._direct: int | None = None
        self.data = torch.empty(0, dtype=torch.uint8)
        """The file's data, as far as they were read: where in the buffer they lie."""
        self._tensors: dict[str, torch.Tensor] = {}
        self._checksum: str | None = None
        try:
            self.header = parse_header(self._stream, path)
            if fingerprint is not None:
                _check_model(self.header, fingerprint, path)
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    @property
    def buffer_bytes(self) -> int:
        """Bytes of memory to read into. ``header.data_bytes`` are enough, but then the data may have to come through
        the page cache (see ``kvcache.files.direct``)."""
        return self.header.data_bytes + ALIGNMENT

    def fill(self, buffer: torch.Tensor) -> None:
        """Read everything into ``buffer``, uint8 [buffer_bytes]."""
        for _ in self.arrived(buffer):
            pass

    def arrived(self, buffer: torch.Tensor) -> Generator[int, None, None]:
        """Do as :meth:`fill`, handing out how many bytes of the data are there, again and again."""
        data_begin, data_bytes = self.header.data_begin, self.header.data_bytes
        aside = (data_begin - buffer.data_ptr()) % ALIGNMENT
        fits = aside % 8 == 0 and aside + data_bytes <= buffer.numel()  # numbers lie at multiples of their size
        begin = aside if fits else 0
        self.data = buffer[begin : begin + data_bytes]
        self._tensors = {name: _view(self.data, tensor) for name, tensor in self.header.tensors.items()}
        if fits:
            self._direct = open_direct(self._stream.fileno())
        yield from self._read(bytes_of(self.data))

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor of the file, as far as it was read."""
        return self._tensors[name]

    def front(self) -> bytes:
        """Return the file's bytes before its data."""
        buffer = bytearray(self.header.data_begin)
        _read_exactly(self._stream, memoryview(buffer), self._path, 0)
        return bytes(buffer)

    def _read(self, view: memoryview) -> Iterator[int]:
        """Hash bytes while further ones are read; where the tensors lie in another order than they are hashed in,
        afterwards."""
        laid_out = sorted(self.header.tensors, key=lambda name: self.header.tensors[name].begin)
        in_order = laid_out == hash_order({name: tensor.dtype for name, tensor in self.header.tensors.items()})
        hasher = hasher_of(self.header.metadata, threads=self._stop is None)
        if self._direct is None:
            _read_ahead(self._stream)
        if in_order and (self._stop is not None or len(view) <= _READ_BYTES):
            yield from self._read_alone(view, hasher)
            return
        with ThreadPoolExecutor(1, "segment-hash") as pool:
            hashing_part = None
            for part, begin in self._parts(view):
                if in_order:
                    hashing_part = pool.submit(hasher.update, part)
                yield begin + len(part)
            if hashing_part is not None:
                hashing_part.result()
        self._checksum = str(hasher.hexdigest()) if in_order else None

    def _parts(self, view: memoryview) -> Iterator[tuple[memoryview, int]]:
        """Read parts of the data, read in order, and where each begins; from a drive some at once."""
        parts = [(view[begin : begin + _READ_BYTES], begin) for begin in range(0, len(view), _READ_BYTES)]
        if self._direct is None:
            for part in parts:
                self._read_part(*part)
                yield part
            return
        with ThreadPoolExecutor(_AHEAD, "segment-read") as readers:
            reading = [readers.submit(self._read_part, *part) for part in parts[:_AHEAD]]
            for i, part in enumerate(parts):
                reading[i].result()
                if i + _AHEAD < len(parts):
                    reading.append(readers.submit(self._read_part, *parts[i + _AHEAD]))
                yield part

    def _read_alone(self, view: memoryview, hasher: Any) -> Iterator[int]:
        """Read with this thread only, asking ``stop`` before each step."""
        step = len(view) if self._stop is None else _INTERRUPTIBLE_BYTES
        for begin in range(0, len(view), step):
            if self._stop is not None and self._stop():
                raise ReadInterrupted(f"{self._path.name}: given up after {begin} bytes")
            part = view[begin : begin + step]
            self._read_part(part, begin)
            hasher.update(part)
            yield begin + len(part)
        self._checksum = str(hasher.hexdigest())

    def _read_part(self, part: memoryview, begin: int) -> None:
        """Read the data from ``begin`` on. In any thread."""
        offset = self.header.data_begin + begin
        first, last = len(part), 0
        if self._direct is not None:
            first, last = read_direct(self._direct, part, self.data.data_ptr() + begin, offset)
        _read_exactly(self._stream, part[:first], self._path, offset)
        _read_exactly(self._stream, part[len(part) - last :], self._path, offset + len(part) - last)

    def finish(self, allocate: Allocate = fresh_memory) -> Segment:
        """Return the segment, when all was read and is sound. What has to be decoded goes to memory from
        ``allocate``."""
        header, tensors = self.header, dict(self._tensors)
        if (self._checksum or checksum(header.metadata, tensors)) != header.checksum:
            raise SegmentCorrupt(f"{self._path.name}: the checksum does not match")
        tokens = tuple(tensors.pop("token_ids").tolist())
        if chain_key(header.parent, tokens) != header.key:
            raise SegmentCorrupt(f"{self._path.name}: the key does not follow from parent and tokens")
        keys, values = _decoded(header, tensors, self._path, allocate)
        return Segment(
            key=header.key,
            parent=header.parent,
            fingerprint=header.fingerprint,
            start=header.start,
            token_ids=tokens,
            keys=keys,
            values=values,
            labels=header.labels,
            root=header.root,
            parts=parts_of(header, tokens),
            certificate=header.certificate,
            shard=header.shard,
        )


def _decoded(
    header: Header, tensors: Mapping[str, torch.Tensor], path: Path, allocate: Allocate
) -> tuple[torch.Tensor, torch.Tensor]:
    if header.codec == "none":  # as they lie in the buffer: no copy
        return tensors["keys"], tensors["values"]
    size = math.prod(header.shape) * header.dtype.itemsize
    keys = allocate(size).view(header.dtype).reshape(header.shape)
    values = allocate(size).view(header.dtype).reshape(header.shape)
    codec: Codec = CODECS[header.codec]
    try:
        codec.decode(tensors, keys, values)
    except SegmentCorrupt as error:
        raise SegmentCorrupt(f"{path.name}: {error}") from error
    return keys, values


def _check_model(header: Header, fingerprint: Fingerprint, path: Path) -> None:
    if header.fingerprint != fingerprint.digest:
        raise FingerprintMismatch(f"{path.name} was computed by another model")
    layout = fingerprint.layout
    whole = layout.shape(header.n_tokens)
    shape = header.shape if header.shard is None else (*header.shard.of, *header.shape[2:])
    if shape != whole or header.dtype != layout.torch_dtype:
        raise SegmentCorrupt(f"{path.name}: {header.shape} {header.dtype} does not fit the model")


def _read_ahead(stream: Any) -> None:
    """Let the system read further ahead, so that the drive does not wait while we use what is there. (Asking for the
    whole file at once was slower.)"""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)


def _read_exactly(stream: Any, view: memoryview, path: Path, offset: int) -> None:
    done = 0
    while done < len(view):
        got = os.preadv(stream.fileno(), [view[done:]], offset + done)
        if not got:
            raise SegmentCorrupt(f"{path.name}: the file ends early")
        done += got


def _view(buffer: torch.Tensor, tensor: StoredTensor) -> torch.Tensor:
    return buffer[tensor.begin : tensor.end].view(tensor.dtype).reshape(tensor.shape)
