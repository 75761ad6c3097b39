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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from kvcache import hashing
from kvcache.codecs import CODECS, CodecName
from kvcache.errors import SegmentCorrupt
from kvcache.files.direct import ALIGNMENT
from kvcache.fingerprint import FORMAT
from kvcache.segment import Certificate, Part, Segment, cut_parts
from kvcache.shard import Shard

SUFFIX = ".safetensors"
# The header holds a few tensor entries, the labels and the parts; anything near this is not one of ours.
MAX_HEADER_BYTES = 1 << 20
# What inflates may not take more memory than this, whatever a header claims.
_MAX_SEGMENT_BYTES = 64 << 30
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
    """A tensor's place in the file's data, checked against its dtype, shape and the file's size."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The header of a segment file, checked as far as that goes without its data."""

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
    """Return a tensor's bytes, without a copy where it lies in one piece."""
    raw: Any = tensor.contiguous().view(torch.uint8).reshape(-1).numpy()
    return memoryview(raw)


def hasher_of(metadata: dict[str, str], *, threads: bool = True) -> Any:
    hasher = hashing.hasher(threads=threads)
    hasher.update(json.dumps(metadata, sort_keys=True).encode())
    return hasher


def hash_order(dtypes: Mapping[str, torch.dtype]) -> list[str]:
    return sorted(dtypes, key=lambda name: (-dtypes[name].itemsize, not dtypes[name].is_floating_point, name))


def checksum(metadata: dict[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    hasher = hasher_of(metadata)
    for name in hash_order({name: tensor.dtype for name, tensor in tensors.items()}):
        hasher.update(bytes_of(tensors[name]))
    return str(hasher.hexdigest())


def padded(metadata: dict[str, str], tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the metadata with as many spaces as it takes for the data to begin at a multiple of ``ALIGNMENT``. (Where
    the header comes out otherwise than it is counted here, the file is as good, and read a little slower.)"""
    length = header_bytes_of({**metadata, "padding": ""}, tensors)
    return {**metadata, "padding": " " * (-length % ALIGNMENT)}


def header_bytes_of(metadata: dict[str, str], tensors: Mapping[str, torch.Tensor]) -> int:
    """Count the bytes before the data, the checksum in them included."""
    header: dict[str, Any] = {"__metadata__": {**metadata, hashing.NAME: "0" * 64}}
    at = 0
    for name in hash_order({name: tensor.dtype for name, tensor in tensors.items()}):
        dtype, end = _NAMES[tensors[name].dtype], at + tensors[name].nbytes
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [at, end]}
        at = end
    return 8 + len(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())


def metadata_of(segment: Segment, codec: CodecName) -> dict[str, str]:
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


def read_header(path: Path) -> Header:
    """Return the checked header of a segment file. Raises ``SegmentCorrupt``, or ``FileNotFoundError``."""
    with path.open("rb") as stream:
        return parse_header(stream, path)


def parse_header(stream: Any, path: Path) -> Header:
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
    """Return the tensors the codec calls for, no others, seamlessly filling the file."""
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


def parts_of(header: Header, tokens: tuple[int, ...]) -> tuple[Part, ...]:
    if header.root is None:
        return ()
    try:
        return cut_parts(header.root, tokens, header.part_lengths)
    except ValueError as error:
        raise SegmentCorrupt(str(error)) from error
