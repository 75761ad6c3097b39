"""The segment file.

A segment file is a safetensors file with exactly three tensors and string metadata:

- ``keys``, ``values``: [layers, kv_heads, tokens, head_dim], the fingerprint's dtype, keys after rotary embedding;
- ``token_ids``: int32 [tokens];
- metadata: ``format`` (``recallkv.segment/1``), ``key``, ``parent``, ``fingerprint`` (64 hex digits each), ``start``
  (decimal), ``labels`` (JSON list of strings), ``blake3``: hash over the other metadata (JSON, sorted keys)
  followed by the bytes of keys, values and token_ids.

Reading trusts nothing: the header's size, every offset, shape and dtype, the file's length, the key (recomputed
from parent and tokens) and the checksum are checked before a tensor is handed out. Writing goes to a temporary
file in the same folder, is flushed to disk, renamed, and the folder is flushed, so that a file either is there
whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.torch import save_file

from kvcache.errors import FingerprintMismatch, SegmentCorrupt
from kvcache.fingerprint import FORMAT, Fingerprint
from kvcache.segment import Segment, chain_key

SUFFIX = ".safetensors"
# The header holds three tensor entries and the labels; anything near this is not one of ours.
MAX_HEADER_BYTES = 1 << 20
_HEX64 = re.compile(r"[0-9a-f]{64}")
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Header:
    """What a segment file says of itself, with offsets checked against its size."""

    key: str
    parent: str
    fingerprint: str
    start: int
    labels: frozenset[str]
    checksum: str
    metadata: dict[str, str]
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    offsets: dict[str, tuple[int, int]]
    data_begin: int
    data_bytes: int

    @property
    def n_tokens(self) -> int:
        return self.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(end - begin for name, (begin, end) in self.offsets.items() if name != "token_ids")


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    raw: Any = tensor.contiguous().view(torch.uint8).reshape(-1).numpy()
    return memoryview(raw)


def _checksum(metadata: dict[str, str], keys: torch.Tensor, values: torch.Tensor, token_ids: torch.Tensor) -> str:
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update(json.dumps(metadata, sort_keys=True).encode())
    for tensor in (keys, values, token_ids):
        hasher.update(_bytes_of(tensor))
    return str(hasher.hexdigest())


def write_segment(path: Path, segment: Segment, *, fsync: bool = True) -> None:
    """Write ``segment`` to ``path`` in one step. Raises ``OSError`` (disk full, ...) and leaves nothing then."""
    tensors = {
        "keys": segment.keys.to("cpu").contiguous(),
        "values": segment.values.to("cpu").contiguous(),
        "token_ids": torch.tensor(segment.token_ids, dtype=torch.int32),
    }
    metadata = {
        "format": FORMAT,
        "key": segment.key,
        "parent": segment.parent,
        "fingerprint": segment.fingerprint,
        "start": str(segment.start),
        "labels": json.dumps(sorted(segment.labels)),
    }
    metadata["blake3"] = _checksum(metadata, **tensors)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    metadata: dict[str, str] = header["__metadata__"]
    if metadata["format"] != FORMAT:
        raise SegmentCorrupt("not a segment of this format")
    if set(header) != {"__metadata__", "keys", "values", "token_ids"}:
        raise SegmentCorrupt("other tensors than keys, values and token_ids")
    for name in ("key", "parent", "fingerprint", "blake3"):
        if not _HEX64.fullmatch(metadata[name]):
            raise SegmentCorrupt(f"{name} is not a hash")
    keys, values, token_ids = header["keys"], header["values"], header["token_ids"]
    dtype = _DTYPES.get(keys["dtype"])
    shape = tuple(int(n) for n in keys["shape"])
    if dtype is None or values["dtype"] != keys["dtype"] or token_ids["dtype"] != "I32":
        raise SegmentCorrupt("unexpected dtypes")
    if len(shape) != 4 or min(shape) < 1 or values["shape"] != keys["shape"]:
        raise SegmentCorrupt("unexpected shapes")
    if token_ids["shape"] != [shape[2]]:
        raise SegmentCorrupt("as many token ids as keys are expected")
    kv_bytes = shape[0] * shape[1] * shape[2] * shape[3] * dtype.itemsize
    expected = {"keys": kv_bytes, "values": kv_bytes, "token_ids": shape[2] * 4}
    offsets = {name: (int(a), int(b)) for name in expected for a, b in [header[name]["data_offsets"]]}
    runs = sorted(offsets.values())
    lengths_fit = all(offsets[name][1] - offsets[name][0] == n for name, n in expected.items())
    seamless = runs[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(runs))
    if not lengths_fit or not seamless or runs[-1][1] != data_bytes:
        raise SegmentCorrupt("the tensors do not fill the file")
    return Header(
        key=metadata["key"],
        parent=metadata["parent"],
        fingerprint=metadata["fingerprint"],
        start=int(metadata["start"]),
        labels=frozenset(str(label) for label in json.loads(metadata["labels"])),
        checksum=metadata["blake3"],
        metadata={name: value for name, value in metadata.items() if name != "blake3"},
        dtype=dtype,
        shape=(shape[0], shape[1], shape[2], shape[3]),
        offsets=offsets,
        data_begin=data_begin,
        data_bytes=data_bytes,
    )


def read_segment(path: Path, fingerprint: Fingerprint | None = None, *, pin: bool = False) -> Segment:
    """Read and check a segment file into host memory (pinned where ``pin``).

    Raises ``SegmentCorrupt``; ``FingerprintMismatch`` when it is of another model than ``fingerprint``;
    ``FileNotFoundError``.
    """
    with path.open("rb", buffering=0) as stream:
        header = _read_header(stream, path)
        if fingerprint is not None:
            _check_model(header, fingerprint, path)
        buffer = torch.empty(header.data_bytes, dtype=torch.uint8, pin_memory=pin)
        _read_exactly(stream, _bytes_of(buffer), path)
    keys = _view(buffer, header, "keys")
    values = _view(buffer, header, "values")
    begin, end = header.offsets["token_ids"]
    token_ids = buffer[begin:end].view(torch.int32)
    if _checksum(header.metadata, keys, values, token_ids) != header.checksum:
        raise SegmentCorrupt(f"{path.name}: the checksum does not match")
    tokens = tuple(token_ids.tolist())
    if chain_key(header.parent, tokens) != header.key:
        raise SegmentCorrupt(f"{path.name}: the key does not follow from parent and tokens")
    return Segment(header.key, header.parent, header.fingerprint, header.start, tokens, keys, values, header.labels)


def _check_model(header: Header, fingerprint: Fingerprint, path: Path) -> None:
    if header.fingerprint != fingerprint.digest:
        raise FingerprintMismatch(f"{path.name} was computed by another model")
    layout = fingerprint.layout
    if header.shape != layout.shape(header.n_tokens) or header.dtype != layout.torch_dtype:
        raise SegmentCorrupt(f"{path.name}: {header.shape} {header.dtype} does not fit the model")


def _read_exactly(stream: Any, view: memoryview, path: Path) -> None:
    done = 0
    while done < len(view):
        got = stream.readinto(view[done:])
        if not got:
            raise SegmentCorrupt(f"{path.name}: the file ends early")
        done += got


def _view(buffer: torch.Tensor, header: Header, name: str) -> torch.Tensor:
    begin, end = header.offsets[name]
    return buffer[begin:end].view(header.dtype).reshape(header.shape)
