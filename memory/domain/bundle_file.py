"""The file that a cube is dumped to, and all that is checked before a word of one is believed.

A bundle is a zip (members stored or deflated) of exactly these members:

- ``manifest.json``: ``format`` (``recallkv.cube/1``), ``created`` (Unix seconds), ``embedder`` (the name of what made
  the vectors), ``fingerprint`` (of the model that was served, or null), ``fidelity`` (of the cube, or null), ``counts``
  of the lines of each of the following;
- ``memories.jsonl``: a line for each memory that is not deleted, in order of creation, with the ids of the messages
  that it is from (``sources``) and whether keys and values of it were stored (``computed``);
- ``messages.jsonl``, ``changes.jsonl`` (histories), ``documents.jsonl``;
- ``vectors.safetensors``, stored: ``vectors``, float16 [memories, dim], a row for each line; zeros for what is not
  active;
- where keys and values come along: ``segments/NAME.safetensors`` (64 hex digits), stored, and ``segments.jsonl``, a
  line for each of them with the ids of the memories that it depends on, and a ``note`` for whoever makes use of it.
  Here they are bytes: what they mean, and whether they are to be believed, is for the server to say.

Ids are those of the store that wrote it. They only say which line means which; what loads them gives new ones.

A bundle may come from anyone. No name in it is used as a path, nothing is unpacked to disk, every member has a bound on
its size, every line on its length, and each field is checked by type and range.
"""

from __future__ import annotations

import json
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from memory.errors import InvalidMemory
from memory.language.dates import EARLIEST, LATEST
from memory.types import MAX_TEXT_CHARS, MemoryKind, Role, unstorable

MAX_LINES = 500_000
MAX_MEMBER_BYTES = 512 << 20
# A text of the greatest length, each character escaped, and its metadata.
_MAX_LINE_BYTES = 2 << 20
_MAX_MANIFEST_BYTES = 1 << 16
_MAX_DIM = 16_384
# Lines of random ids do not shrink more than this; what does, and is large, was made to.
_MAX_RATIO = 50
_ALWAYS_FINE_BYTES = 64 << 20
_BATCH = 10_000
_VECTORS = "vectors.safetensors"
_SEGMENTS = "segments.jsonl"
_SEGMENT = re.compile(r"segments/([0-9a-f]{64})\.safetensors")
# Of a zip's directory, which is read as a whole before anything of it can be checked.
_MAX_DIRECTORY_BYTES = 16 << 20
MAX_ATTACHED = 100_000
# Of one attached file.
_MAX_MEMORIES = 4096
_COPIED_BYTES = 1 << 20

Half = npt.NDArray[np.float16]


def _storable(text: str) -> str:
    if unstorable(text):
        raise ValueError("holds NUL or lone surrogates")
    return text


Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_storable)]
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_storable)]
Time = Annotated[float, Field(ge=EARLIEST, le=LATEST)]
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

    @property
    def label(self) -> str:
        """The memory's ``Memory.label`` where the bundle comes from."""
        return f"{self.id}@{self.version}"


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


class SegmentLine(_Record):
    name: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    memories: Annotated[tuple[Id, ...], Field(max_length=_MAX_MEMORIES)]
    note: dict[str, Any]


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
    segments: list[SegmentLine] = field(default_factory=list)


@dataclass(frozen=True)
class Attachment:
    """A file that goes into a bundle. ``content`` is its bytes, ``line`` what is said of it."""

    line: SegmentLine
    content: Iterable[bytes | memoryview]


Line = TypeVar("Line", bound=_Record)


def write_bundle(contents: Contents, into: BinaryIO, attached: Iterable[Attachment] = ()) -> None:
    """Write a bundle. What is ``attached`` is asked for one by one and written at once; ``contents.segments`` is not
    looked at."""
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", contents.manifest.model_dump_json(indent=1))
        for name in Counts.model_fields:
            with archive.open(f"{name}.jsonl", "w", force_zip64=True) as member:
                for line in getattr(contents, name):
                    member.write(_dumped(line))
        packed = save({"vectors": np.ascontiguousarray(contents.vectors)})
        archive.writestr(_VECTORS, packed, zipfile.ZIP_STORED)
        lines = [_attach(archive, attachment) for attachment in attached]
        if lines:
            archive.writestr(_SEGMENTS, b"".join(_dumped(line) for line in lines))


def _attach(archive: zipfile.ZipFile, attachment: Attachment) -> SegmentLine:
    # What is opened by name is packed as the archive is by default; numbers do not shrink.
    member = zipfile.ZipInfo(_member(attachment.line.name), time.localtime()[:6])
    with archive.open(member, "w", force_zip64=True) as stream:
        for part in attachment.content:
            stream.write(part)
    return attachment.line


def _member(name: str) -> str:
    return f"segments/{name}.safetensors"


def _dumped(line: _Record) -> bytes:
    return json.dumps(line.model_dump(), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_bundle(source: BinaryIO, max_packed_bytes: int | None = None) -> Contents:
    """Read a bundle's contents, checked as far as they can be without a store; what is attached is not read yet (see
    :class:`AttachedFiles`) and does not count against ``max_packed_bytes``. Raises ``InvalidMemory``."""
    with _damage_named(), _opened(source) as archive:
        _check_members(archive, source.seek(0, 2), max_packed_bytes)
        contents = _read(archive)
    _check_links(contents)
    return contents


class AttachedFiles:
    """The attached files of a bundle that :func:`read_bundle` has read. Raises ``InvalidMemory``."""

    def __init__(self, source: BinaryIO) -> None:
        with _damage_named():
            self._archive = _opened(source)

    def size(self, name: str) -> int:
        """Return the size in bytes of the file that has this name in its line."""
        return self._archive.getinfo(_member(name)).file_size

    def content(self, name: str) -> Iterator[bytes]:
        """Read the bytes of a file, in parts."""
        with _damage_named(), self._archive.open(_member(name)) as member:
            while part := member.read(_COPIED_BYTES):
                yield part

    def close(self) -> None:
        """Let go of the bundle, which stays open."""
        self._archive.close()


class _Reading:
    """A file that no more is read of at once than ``max_bytes``. Raises ``ValueError``."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file
        self.max_bytes = max_bytes

    def read(self, n: int = -1) -> bytes:
        found = self._file.read(n if 0 <= n <= self.max_bytes else self.max_bytes + 1)
        if len(found) > self.max_bytes:
            raise ValueError("too much of it would be read at once")
        return found


def _opened(source: BinaryIO) -> zipfile.ZipFile:
    reading = _Reading(source, _MAX_DIRECTORY_BYTES)
    archive = zipfile.ZipFile(reading)
    reading.max_bytes = MAX_MEMBER_BYTES
    return archive


@contextmanager
def _damage_named() -> Iterator[None]:
    """Turn what reading a damaged zip may raise into ``InvalidMemory``."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error) as error:
        raise InvalidMemory("The file is not a bundle, or is damaged.") from error
    except (ValueError, RuntimeError, OSError, KeyError, IndexError, OverflowError, SafetensorError) as error:
        raise InvalidMemory(f"The bundle cannot be loaded: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """Say what is wrong, without the values: they may be private."""
    errors = getattr(error, "errors", None)
    if errors is not None:
        first = errors()[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'a line'}: {first['msg']}"
    return str(error) if type(error) is ValueError else "it is damaged"


def _check_members(archive: zipfile.ZipFile, file_bytes: int, max_packed_bytes: int | None) -> None:
    expected = {"manifest.json", _VECTORS, *(f"{name}.jsonl" for name in Counts.model_fields)}
    members = archive.infolist()
    names = {member.filename for member in members}
    attached = _attached(archive)
    if attached:
        expected |= {_SEGMENTS, *attached.values()}
    if len(members) != len(names) or names != expected or len(attached) > MAX_ATTACHED:
        raise ValueError("it does not have the members of a bundle")
    if sum(member.compress_size for member in members) > file_bytes:
        raise ValueError("its members are said to be larger than the file")
    packed = sum(member.compress_size for member in members if member.filename not in attached.values())
    if max_packed_bytes is not None and packed > max_packed_bytes:
        raise ValueError(f"without its segments it has more than {max_packed_bytes} bytes")
    stored = {_VECTORS, *attached.values()}
    for member in members:
        # No more is read of a member than it says it has; so that is what is bounded.
        bound = min(MAX_MEMBER_BYTES, max(_ALWAYS_FINE_BYTES, _MAX_RATIO * member.compress_size))
        if member.file_size > bound or (member.filename in stored and member.file_size != member.compress_size):
            raise ValueError("a member is too large")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ValueError("a member is packed in a way that is not known here")


def _attached(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the attached files: their members by the names that their lines have."""
    found = (_SEGMENT.fullmatch(name) for name in archive.namelist())
    return {match[1]: match[0] for match in found if match is not None}


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
        _segment_lines(archive),
    )


def _segment_lines(archive: zipfile.ZipFile) -> list[SegmentLine]:
    attached = _attached(archive)
    lines = _lines(archive, "segments", SegmentLine, len(attached)) if attached else []
    if {line.name for line in lines} != attached.keys():
        raise ValueError("its segments are not those that it says")
    return lines


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
    for segment in contents.segments:
        if not memories.keys() >= _distinct(segment.memories).keys():
            raise InvalidMemory("The bundle cannot be loaded: a segment is of a memory that is not there.")
    if any(change.memory not in memories for change in contents.changes):
        raise InvalidMemory("The bundle cannot be loaded: a history is of a memory that is not there.")


def _distinct(ids: Iterable[str]) -> dict[str, int]:
    """Return each id and its place."""
    listed = list(ids)
    places = {id: place for place, id in enumerate(listed)}
    if len(places) != len(listed):
        raise InvalidMemory("The bundle cannot be loaded: something is in it twice.")
    return places
