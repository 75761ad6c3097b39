"""The segment file.

A segment file is a safetensors file with these tensors and string metadata:

- the tensors of its codec (see ``kvcache.codecs``; without one ``keys`` and ``values``, [layers, kv_heads, tokens,
  head_dim] in the fingerprint's dtype, keys after rotary embedding) and ``token_ids``, int32 [tokens];
- metadata: ``format`` (``recallkv.segment/2``), ``key``, ``parent``, ``fingerprint`` (64 hex digits each), ``start``
  (decimal), ``labels`` (JSON list of strings), ``codec``, ``dtype``, ``shape`` (of the keys, JSON); of a file that
  holds some of the layers and heads only ``shard`` (see ``kvcache.shard``); of a standalone segment also ``root``
  (64 hex digits), ``parts`` (JSON list of [tokens, label or null]) and ``certificate``; ``padding``, spaces that make
  the data begin at a multiple of 4,096 bytes; and ``blake3`` (``blake2b`` where ``kvcache.hashing`` says so): hash over
  the other metadata (JSON, sorted keys) followed by the bytes of all tensors, wider dtypes first, floats before
  integers, then in the order of their names, which is how safetensors lays them out: so a file is hashed while it is
  read.

Reading trusts nothing: the header's size, every offset, shape and dtype, the file's length, the key (recomputed
from parent and tokens) and the checksum are checked before a tensor is handed out. Writing goes to a temporary
file in the same folder, is flushed to disk, renamed, and the folder is flushed, so that a file either is there
whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from kvcache import hashing
from kvcache.codecs import CODECS, Codec, CodecName
from kvcache.config import StoreConfig
from kvcache.copies import CPU, Allocate, fresh_memory
from kvcache.direct import ALIGNMENT, open_direct, read_direct
from kvcache.errors import FingerprintMismatch, ReadInterrupted, SegmentCorrupt
from kvcache.fingerprint import FORMAT, Fingerprint
from kvcache.segment import Certificate, Part, Segment, chain_key, cut_parts
from kvcache.shard import Shard

SUFFIX = ".safetensors"
# The header holds a few tensor entries, the labels and the parts; anything near this is not one of ours.
MAX_HEADER_BYTES = 1 << 20
# What inflates may not take more memory than this, whatever a header claims.
_MAX_SEGMENT_BYTES = 64 << 30
# What is read at once: large enough for a drive's full speed, small enough for hashing to keep up beside it.
_READ_BYTES = 4 << 20
# So many of these are asked for at once: a drive's latency is hidden.
_AHEAD = 2
_INTERRUPTIBLE_BYTES = 512 << 10
_HEX64 = re.compile(r"[0-9a-f]{64}")
_STORED_AS = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn,
    "I32": torch.int32,
}
_NAMES = {dtype: name for name, dtype in _STORED_AS.items()}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file's data, checked against its dtype, shape and the file's size."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a segment file says of itself, checked as far as that goes without its data."""

    key: str
    parent: str
    fingerprint: str
    start: int
    labels: frozenset[str]
    root: str | None
    part_lengths: tuple[tuple[int, str | None], ...]
    certificate: Certificate | None
    codec: CodecName
    checksum: str
    metadata: dict[str, str]
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    tensors: dict[str, StoredTensor]
    data_begin: int
    data_bytes: int
    shard: Shard | None

    @property
    def n_tokens(self) -> int:
        return self.shape[2]


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes, without a copy where it lies in one piece."""
    raw: Any = tensor.contiguous().view(torch.uint8).reshape(-1).numpy()
    return memoryview(raw)


def _hasher(metadata: dict[str, str], *, threads: bool = True) -> Any:
    hasher = hashing.hasher(threads=threads)
    hasher.update(json.dumps(metadata, sort_keys=True).encode())
    return hasher


def _hash_order(dtypes: Mapping[str, torch.dtype]) -> list[str]:
    return sorted(dtypes, key=lambda name: (-dtypes[name].itemsize, not dtypes[name].is_floating_point, name))


def _checksum(metadata: dict[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    hasher = _hasher(metadata)
    for name in _hash_order({name: tensor.dtype for name, tensor in tensors.items()}):
        hasher.update(bytes_of(tensors[name]))
    return str(hasher.hexdigest())


Room = Callable[[int], None]
"""Makes room for a file of so many bytes before it is written. Where there is none, raises for the writer."""


def any_room(nbytes: int) -> None:
    """Take it that there is room."""


def write_segment(
    path: Path,
    segment: Segment,
    *,
    codec: CodecName = StoreConfig.codec,
    fsync: bool = StoreConfig.fsync,
    room: Room = any_room,
) -> int:
    """Write ``segment`` to ``path`` in one step; returns the bytes that its keys and values take there. Raises
    ``OSError`` (disk full, ...), or as ``room`` does, and leaves nothing then."""
    segment = segment.to(CPU)
    tensors = CODECS[codec].encode(segment.keys, segment.values)
    stored_bytes = sum(tensor.nbytes for tensor in tensors.values())
    tensors["token_ids"] = torch.tensor(segment.token_ids, dtype=torch.int32)
    _write(path, tensors, _metadata(segment, codec), fsync=fsync, room=room)
    return stored_bytes


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], *, fsync: bool, room: Room) -> None:
    """Write a segment's file in one step, with the checksum over its metadata and tensors."""
    metadata = _padded(metadata, tensors)
    room(_header_bytes(metadata, tensors) + sum(tensor.nbytes for tensor in tensors.values()))
    metadata = {**metadata, hashing.NAME: _checksum(metadata, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        _save(temporary, tensors, metadata)
        with temporary.open("rb+") as stream:
            os.fchmod(stream.fileno(), 0o600)
            if fsync:
                os.fsync(stream.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    if fsync:
        sync_folder(path.parent)


def rewrite_labels(
    source: Path,
    path: Path,
    fingerprint: Fingerprint,
    labels: Mapping[str, str],
    certificate: Certificate,
    *,
    fsync: bool = StoreConfig.fsync,
    room: Room = any_room,
) -> None:
    """Write the page in ``source`` to ``path``, each label replaced by what ``labels`` has for it, and with this
    certificate. Its tensors are written as they were encoded: what a codec has lost is not lost again. Raises as
    :func:`read_segment` and as ``room``, and ``OSError``."""
    with SegmentReader(source, fingerprint) as reader:
        reader.fill(fresh_memory(reader.buffer_bytes))
        reader.finish()
        header = reader.header
        tensors = {name: reader.tensor(name) for name in header.tensors}
    parts = [[n_tokens, None if label is None else labels[label]] for n_tokens, label in header.part_lengths]
    metadata = {
        **header.metadata,
        "labels": json.dumps(sorted({labels[label] for label in header.labels})),
        "parts": json.dumps(parts),
        "certificate": json.dumps(asdict(certificate), sort_keys=True),
    }
    _write(path, tensors, metadata, fsync=fsync, room=room)


def _padded(metadata: dict[str, str], tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """With as many spaces as it takes for the data to begin at a multiple of ``ALIGNMENT``. (Where the header comes out
    otherwise than it is counted here, the file is as good, and read a little slower.)"""
    length = _header_bytes({**metadata, "padding": ""}, tensors)
    return {**metadata, "padding": " " * (-length % ALIGNMENT)}


def _header_bytes(metadata: dict[str, str], tensors: Mapping[str, torch.Tensor]) -> int:
    """Count the bytes before the data, the checksum in them included."""
    header: dict[str, Any] = {"__metadata__": {**metadata, hashing.NAME: "0" * 64}}
    at = 0
    for name in _hash_order({name: tensor.dtype for name, tensor in tensors.items()}):
        dtype, end = _NAMES[tensors[name].dtype], at + tensors[name].nbytes
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [at, end]}
        at = end
    return 8 + len(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())


def _metadata(segment: Segment, codec: CodecName) -> dict[str, str]:
    metadata = {
        "format": FORMAT,
        "key": segment.key,
        "parent": segment.parent,
        "fingerprint": segment.fingerprint,
        "start": str(segment.start),
        "labels": json.dumps(sorted(segment.labels)),
        "codec": codec,
        "dtype": segment.layout.dtype,
        "shape": json.dumps(list(segment.keys.shape)),
    }
    if segment.shard is not None:
        metadata["shard"] = segment.shard.name
    if segment.root is not None:
        metadata["root"] = segment.root
        metadata["parts"] = json.dumps([[part.n_tokens, part.label] for part in segment.parts])
        if segment.certificate is not None:
            metadata["certificate"] = json.dumps(asdict(segment.certificate), sort_keys=True)
    return metadata


def _save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        # safetensors reports a failed write (disk full, ...) with a type of its own, outside OSError.
        raise OSError(f"could not write {path.name}: {error}") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename or removal in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_header(path: Path) -> Header:
    """The checked header of a segment file. Raises ``SegmentCorrupt``, or ``FileNotFoundError``."""
    with path.open("rb") as stream:
        return _read_header(stream, path)


def read_parts(path: Path, header: Header) -> tuple[Part, ...]:
    """The parts of a standalone segment, from its tokens alone. Raises ``SegmentCorrupt``."""
    stored = header.tensors["token_ids"]
    buffer = torch.empty(stored.end - stored.begin, dtype=torch.uint8)
    with path.open("rb", buffering=0) as stream:
        _read_exactly(stream, bytes_of(buffer), path, header.data_begin + stored.begin)
    return _parts(header, tuple(buffer.view(torch.int32).tolist()))


def _read_header(stream: Any, path: Path) -> Header:
    size = os.fstat(stream.fileno()).st_size
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise SegmentCorrupt(f"{path.name}: {size} bytes are too few for a header")
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > min(MAX_HEADER_BYTES, size - 8):
        raise SegmentCorrupt(f"{path.name}: a header of {header_bytes} bytes in a file of {size}")
    raw = stream.read(header_bytes)
    try:
        header = json.loads(raw)
        return _checked_header(header, 8 + header_bytes, size - 8 - header_bytes)
    except SegmentCorrupt as error:
        raise SegmentCorrupt(f"{path.name}: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SegmentCorrupt(f"{path.name}: the header cannot be read ({type(error).__name__})") from error


def _checked_header(header: dict[str, Any], data_begin: int, data_bytes: int) -> Header:
    metadata: dict[str, str] = header.pop("__metadata__")
    if metadata["format"] != FORMAT:
        raise SegmentCorrupt("not a segment of this format")
    if hashing.NAME not in metadata and any(name in metadata for name in hashing.NAMES):
        raise SegmentCorrupt(f"written with another hash than {hashing.NAME}")
    for name in ("key", "parent", "fingerprint", hashing.NAME):
        if not _HEX64.fullmatch(metadata[name]):
            raise SegmentCorrupt(f"{name} is not a hash")
    codec: Any = metadata["codec"]
    dtype, shape = _DTYPES.get(metadata["dtype"]), tuple(int(n) for n in json.loads(metadata["shape"]))
    if dtype is None or codec not in CODECS:
        raise SegmentCorrupt("an unknown codec or dtype")
    if len(shape) != 4 or min(shape) < 1 or 2 * math.prod(shape) * dtype.itemsize > _MAX_SEGMENT_BYTES:
        raise SegmentCorrupt("an impossible shape")
    spec = {**CODECS[codec].spec(dtype, shape), "token_ids": (torch.int32, (shape[2],))}
    tensors = _checked_tensors(header, spec, data_bytes)
    root, part_lengths = _checked_parts(metadata, shape[2])
    return Header(
        key=metadata["key"],
        parent=metadata["parent"],
        fingerprint=metadata["fingerprint"],
        start=int(metadata["start"]),
        labels=frozenset(str(label) for label in json.loads(metadata["labels"])),
        root=root,
        part_lengths=part_lengths,
        certificate=Certificate(**json.loads(metadata["certificate"])) if "certificate" in metadata else None,
        codec=codec,
        checksum=metadata[hashing.NAME],
        metadata={name: value for name, value in metadata.items() if name != hashing.NAME},
        dtype=dtype,
        shape=(shape[0], shape[1], shape[2], shape[3]),
        tensors=tensors,
        data_begin=data_begin,
        data_bytes=data_bytes,
        shard=_checked_shard(metadata, shape),
    )


def _checked_shard(metadata: dict[str, str], shape: tuple[int, ...]) -> Shard | None:
    if "shard" not in metadata:
        return None
    shard = Shard.parse(metadata["shard"])
    if (shard.layers[1] - shard.layers[0], shard.heads[1] - shard.heads[0]) != shape[:2]:
        raise SegmentCorrupt("the shard's shape is not that of its tensors")
    return shard


def _checked_tensors(
    header: dict[str, Any], spec: dict[str, tuple[torch.dtype, tuple[int, ...]]], data_bytes: int
) -> dict[str, StoredTensor]:
    """The tensors the codec calls for, no others, seamlessly filling the file."""
    if set(header) != set(spec):
        raise SegmentCorrupt("other tensors than the codec writes")
    tensors = {}
    for name, (dtype, shape) in spec.items():
        said = header[name]
        found = tuple(int(n) for n in said["shape"])
        begin, end = (int(n) for n in said["data_offsets"])
        fits = found == shape or (shape == (-1,) and len(found) == 1 and found[0] > 0)
        if _STORED_AS.get(said["dtype"]) != dtype or not fits or end - begin != math.prod(found) * dtype.itemsize:
            raise SegmentCorrupt(f"unexpected dtype, shape or size of {name}")
        tensors[name] = StoredTensor(dtype, found, begin, end)
    runs = sorted((tensor.begin, tensor.end) for tensor in tensors.values())
    if runs[0][0] != 0 or any(a[1] != b[0] for a, b in pairwise(runs)) or runs[-1][1] != data_bytes:
        raise SegmentCorrupt("the tensors do not fill the file")
    return tensors


def _checked_parts(metadata: dict[str, str], n_tokens: int) -> tuple[str | None, tuple[tuple[int, str | None], ...]]:
    if "root" not in metadata:
        return None, ()
    lengths = tuple((int(n), None if label is None else str(label)) for n, label in json.loads(metadata["parts"]))
    if not _HEX64.fullmatch(metadata["root"]) or sum(n for n, _ in lengths) != n_tokens:
        raise SegmentCorrupt("the parts do not fill the segment")
    return metadata["root"], lengths


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
            self.header = _read_header(self._stream, path)
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
        """How much memory to read into. ``header.data_bytes`` are enough, but then the data may have to come through
        the page cache (see ``kvcache.direct``)."""
        return self.header.data_bytes + ALIGNMENT

    def fill(self, buffer: torch.Tensor) -> None:
        """Read everything into ``buffer``, uint8 [buffer_bytes]."""
        for _ in self.arrived(buffer):
            pass

    def arrived(self, buffer: torch.Tensor) -> Generator[int, None, None]:
        """As :meth:`fill`, handing out how many bytes of the data are there, again and again."""
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
        """A tensor of the file, as far as it was read."""
        return self._tensors[name]

    def front(self) -> bytes:
        """The file's bytes before its data."""
        buffer = bytearray(self.header.data_begin)
        _read_exactly(self._stream, memoryview(buffer), self._path, 0)
        return bytes(buffer)

    def _read(self, view: memoryview) -> Iterator[int]:
        """Bytes are hashed while further ones are read; where the tensors lie in another order than they are hashed
        in, afterwards."""
        laid_out = sorted(self.header.tensors, key=lambda name: self.header.tensors[name].begin)
        in_order = laid_out == _hash_order({name: tensor.dtype for name, tensor in self.header.tensors.items()})
        hasher = _hasher(self.header.metadata, threads=self._stop is None)
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
        """Parts of the data, read in order, and where each begins; from a drive some at once."""
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
        """With this thread only, asking ``stop`` before each step."""
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
        """The data from ``begin`` on. In any thread."""
        offset = self.header.data_begin + begin
        first, last = len(part), 0
        if self._direct is not None:
            first, last = read_direct(self._direct, part, self.data.data_ptr() + begin, offset)
        _read_exactly(self._stream, part[:first], self._path, offset)
        _read_exactly(self._stream, part[len(part) - last :], self._path, offset + len(part) - last)

    def finish(self, allocate: Allocate = fresh_memory) -> Segment:
        """The segment, when all was read and is sound. What has to be decoded goes to memory from ``allocate``."""
        header, tensors = self.header, dict(self._tensors)
        if (self._checksum or _checksum(header.metadata, tensors)) != header.checksum:
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
            parts=_parts(header, tokens),
            certificate=header.certificate,
            shard=header.shard,
        )


def _parts(header: Header, tokens: tuple[int, ...]) -> tuple[Part, ...]:
    if header.root is None:
        return ()
    try:
        return cut_parts(header.root, tokens, header.part_lengths)
    except ValueError as error:
        raise SegmentCorrupt(str(error)) from error


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
