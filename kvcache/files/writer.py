"""Writing segment files: in one step, so that a file either is there whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from kvcache import hashing
from kvcache.codecs import CODECS, CodecName
from kvcache.config import StoreConfig
from kvcache.copies import CPU, fresh_memory
from kvcache.files.format import checksum, header_bytes_of, metadata_of, padded
from kvcache.files.reader import SegmentReader
from kvcache.fingerprint import Fingerprint
from kvcache.segment import Certificate, Segment

Room = Callable[[int], None]
"""Makes room for a file of ``nbytes`` before it is written. Where there is none, raises for the writer."""


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
    _write(path, tensors, metadata_of(segment, codec), fsync=fsync, room=room)
    return stored_bytes


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], *, fsync: bool, room: Room) -> None:
    """Write a segment's file in one step, with the checksum over its metadata and tensors."""
    metadata = padded(metadata, tensors)
    room(header_bytes_of(metadata, tensors) + sum(tensor.nbytes for tensor in tensors.values()))
    metadata = {**metadata, hashing.NAME: checksum(metadata, tensors)}
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
