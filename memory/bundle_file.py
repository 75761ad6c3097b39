"""The file that a cube is dumped to, and all that is checked before a word of one is believed.

A bundle is a zip (members stored or deflated) of exactly these members:

- ``manifest.json``: ``format`` (``recallkv.cube/1``), ``created`` (Unix seconds), ``embedder`` (the name of what made
  the vectors), ``fingerprint`` (of the model that was served, or null), ``fidelity`` (of the cube, or null), ``counts``
  of the lines of each of the following;
- ``memories.jsonl``: a line for each memory that is not deleted, in order of creation, with the ids of the messages
  that it is from (``sources``) and whether keys and values of it were stored (``computed``);
- ``messages.jsonl``, ``changes.jsonl`` (histories), ``documents.jsonl``;
- ``vectors.safetensors``, stored: ``vectors``, float16 [memories, dim], a row for each line; zeros for what is not
  active.

Ids are those of the store that wrote it. They only say which line means which; what loads them gives new ones.

A bundle may come from anyone. No name in it is used as a path, nothing is unpacked to disk, every member has a bound on
its size, every line on its length, and each field is checked by type and range.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from memory.checks import unstorable
from memory.errors import InvalidMemory
from memory.types import MAX_TEXT_CHARS, MemoryKind, Role

MAX_LINES = 500_000
_MAX_MEMBER_BYTES = 512 << 20
# A text of the greatest length, each character escaped, and its metadata.
_MAX_LINE_BYTES = 2 << 20
_MAX_MANIFEST_BYTES = 1 << 16
_MAX_DIM = 16_384
# Lines of random ids do not shrink more than this; what does, and is large, was made to.
_MAX_RATIO = 50
_ALWAYS_FINE_BYTES = 64 << 20
_BATCH = 10_000
_VECTORS = "vectors.safetensors"

Half = npt.NDArray[np.float16]


def _storable(text: str) -> str:
    if unstorable(text):
        raise ValueError("holds NUL or lone surrogates")
    return text


Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_storable)]
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_storable)]
Time = Annotated[float, Field(ge=-1e11, le=1e11)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class MemoryLine(_Record):
    id: Id
    owner: Text | None
    kind: MemoryKind
    text: Annotated[Text, Field(min_length=1)]
    status: Literal["active", "merged", "archived"]
    pinned: bool
    version: Annotated[int, Field(ge=1, le=2**53)]
    created_at: Time
    updated_at: Time
    event_at: Time | None
    event_until: Time | None
    metadata: dict[str, Any]
    author: Text | None
    agent: Text | None
    session: Text | None
    tags: tuple[Text, ...]
    importance: Share
    expires_at: Time | None
    slot: Text | None
    value: Text | None
    valid_until: Time | None
    replaced_by: Id | None
    uses: Count
    follows: Id | None
    sources: tuple[Id, ...]
    computed: bool


class MessageLine(_Record):
    id: Id
    conversation: Text | None
    role: Role
    author: Text | None
    text: Text
    sent_at: Time
    utc_offset: Annotated[int, Field(ge=-86_400, le=86_400)]
    metadata: dict[str, Any]


class ChangeLine(_Record):
    memory: Id
    at: Time
    action: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_storable)]
    version: Count
    text: Text | None
    detail: dict[str, Any]


class DocumentLine(_Record):
    id: Id
    name: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_storable)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    n_chunks: Count
    created_at: Time


class Counts(_Record):
    memories: Count
    messages: Count
    changes: Count
    documents: Count


class Manifest(_Record):
    format: Literal["recallkv.cube/1"]
    created: Time
    embedder: Annotated[str, Field(max_length=1000)]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    fidelity: Literal["exact", "high", "fast"] | None
    counts: Counts


@dataclass(frozen=True)
class Contents:
    """Everything in a bundle. ``vectors`` is float16 [memories, dim]."""

    manifest: Manifest
    memories: list[MemoryLine]
    messages: list[MessageLine]
    changes: list[ChangeLine]
    documents: list[DocumentLine]
    vectors: Half


Line = TypeVar("Line", bound=_Record)


def write_bundle(contents: Contents, into: BinaryIO) -> None:
    """Write a bundle."""
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", contents.manifest.model_dump_json(indent=1))
        for name in Counts.model_fields:
            with archive.open(f"{name}.jsonl", "w", force_zip64=True) as member:
                for line in getattr(contents, name):
                    member.write(_dumped(line))
        packed = save({"vectors": np.ascontiguousarray(contents.vectors)})
        archive.writestr(_VECTORS, packed, zipfile.ZIP_STORED)


def _dumped(line: _Record) -> bytes:
    return json.dumps(line.model_dump(), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_bundle(source: BinaryIO) -> Contents:
    """A bundle's contents, checked as far as they can be without a store. Raises ``InvalidMemory``."""
    try:
        with zipfile.ZipFile(source) as archive:
            _check_members(archive, source.seek(0, 2))
            contents = _read(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error) as error:
        raise InvalidMemory("The file is not a bundle, or is damaged.") from error
    except (ValueError, RuntimeError, OSError, KeyError, IndexError, OverflowError, SafetensorError) as error:
        raise InvalidMemory(f"The bundle cannot be loaded: {_reason(error)}.") from error
    _check_links(contents)
    return contents


def _reason(error: Exception) -> str:
    """What is wrong, without the values: they may be private."""
    errors = getattr(error, "errors", None)
    if errors is not None:
        first = errors()[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'a line'}: {first['msg']}"
    return str(error) if type(error) is ValueError else "it is damaged"


def _check_members(archive: zipfile.ZipFile, file_bytes: int) -> None:
    expected = {"manifest.json", _VECTORS, *(f"{name}.jsonl" for name in Counts.model_fields)}
    members = archive.infolist()
    if len(members) != len(expected) or {member.filename for member in members} != expected:
        raise ValueError("it does not have the members of a bundle")
    if sum(member.compress_size for member in members) > file_bytes:
        raise ValueError("its members are said to be larger than the file")
    for member in members:
        # No more is read of a member than it says it has; so that is what is bounded.
        bound = min(_MAX_MEMBER_BYTES, max(_ALWAYS_FINE_BYTES, _MAX_RATIO * member.compress_size))
        if member.file_size > bound or (member.filename == _VECTORS and member.file_size != member.compress_size):
            raise ValueError("a member is too large")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ValueError("a member is packed in a way that is not known here")


def _read(archive: zipfile.ZipFile) -> Contents:
    if archive.getinfo("manifest.json").file_size > _MAX_MANIFEST_BYTES:
        raise ValueError("the manifest is too large")
    manifest = Manifest.model_validate_json(archive.read("manifest.json"))
    counts = manifest.counts
    return Contents(
        manifest,
        _lines(archive, "memories", MemoryLine, counts.memories),
        _lines(archive, "messages", MessageLine, counts.messages),
        _lines(archive, "changes", ChangeLine, counts.changes),
        _lines(archive, "documents", DocumentLine, counts.documents),
        _read_vectors(archive, counts.memories),
    )


def _lines(archive: zipfile.ZipFile, name: str, kind: type[Line], count: int) -> list[Line]:
    if count > MAX_LINES:
        raise ValueError(f"it has more than {MAX_LINES} {name}")
    lines: list[Line] = []
    with archive.open(f"{name}.jsonl") as member:
        while line := member.readline(_MAX_LINE_BYTES):
            if not line.endswith(b"\n") or len(lines) == count:
                raise ValueError(f"its {name} are not as many, or as long, as they may be")
            lines.append(kind.model_validate_json(line))
    if len(lines) != count:
        raise ValueError(f"its {name} are fewer than it says")
    return lines


def _read_vectors(archive: zipfile.ZipFile, count: int) -> Half:
    tensors = load(archive.read(_VECTORS))
    vectors = tensors.get("vectors")
    if len(tensors) != 1 or vectors is None or vectors.dtype != np.float16 or vectors.ndim != 2:
        raise ValueError("its vectors are not float16 [memories, dim]")
    if vectors.shape[0] != count or vectors.shape[1] > _MAX_DIM:
        raise ValueError("its vectors have another shape than it says")
    for begin in range(0, count, _BATCH):
        lengths = np.linalg.norm(vectors[begin : begin + _BATCH].astype(np.float32), axis=1)
        if not np.all(lengths <= 1.01):  # also: not a number
            raise ValueError("its vectors are not of length 1")
    return vectors


def _check_links(contents: Contents) -> None:
    memories = _distinct(line.id for line in contents.memories)
    messages = _distinct(line.id for line in contents.messages)
    _distinct(line.id for line in contents.documents)
    _distinct(line.name for line in contents.documents)
    for i, line in enumerate(contents.memories):
        _distinct(line.sources)
        if not messages.keys() >= set(line.sources) or not memories.keys() >= {line.replaced_by, line.follows} - {None}:
            raise InvalidMemory("The bundle cannot be loaded: a memory links to what is not there.")
        if line.follows is not None and memories[line.follows] >= i:
            raise InvalidMemory("The bundle cannot be loaded: a memory follows a later one.")
    if any(change.memory not in memories for change in contents.changes):
        raise InvalidMemory("The bundle cannot be loaded: a history is of a memory that is not there.")


def _distinct(ids: Iterable[str]) -> dict[str, int]:
    """Each id and its place."""
    listed = list(ids)
    places = {id: place for place, id in enumerate(listed)}
    if len(places) != len(listed):
        raise InvalidMemory("The bundle cannot be loaded: something is in it twice.")
    return places
