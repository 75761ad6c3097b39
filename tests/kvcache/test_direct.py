"""Reading past the page cache gives what reading gives, or leaves it to that."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvcache import Layout, SegmentCorrupt, read_segment, write_segment
from kvcache.copies import fresh_memory
from kvcache.files import direct
from kvcache.files.direct import ALIGNMENT, open_direct, read_direct
from kvcache.files.format import read_header
from kvcache.files.reader import _INTERRUPTIBLE_BYTES, SegmentReader
from tests.kvcache.conftest import FINGERPRINT, make_segment

LARGE = replace(FINGERPRINT, layout=Layout(6, 4, 64, "float32"))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("direct") / "noise"
    path.write_bytes(np.random.default_rng(0).bytes(10 * ALIGNMENT + 77))
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return path


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch, noise: Path) -> None:
    """As if no file were in the page cache, where files can be read past it."""
    monkeypatch.setattr(direct, "_share_cached", lambda descriptor: 0.0)
    with noise.open("rb") as stream:
        found = open_direct(stream.fileno())
    if found is None:
        pytest.skip("this file system reads through the page cache only")
    os.close(found)


def drop(path: Path) -> None:
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(offset=st.integers(0, 3 * ALIGNMENT), n=st.integers(0, 11 * ALIGNMENT), aside=st.integers(0, ALIGNMENT - 1))
def test_what_is_read_is_what_is_there(nothing_cached: None, noise: Path, offset: int, n: int, aside: int) -> None:
    content = noise.read_bytes()
    n = min(n, len(content) - offset)
    memory = np.zeros(n + 2 * ALIGNMENT, dtype=np.uint8)
    fitting = (offset - memory.ctypes.data) % ALIGNMENT
    for begin in (fitting, aside):
        view = memory.data[begin : begin + n]
        with noise.open("rb") as stream:
            descriptor = open_direct(stream.fileno())
            assert descriptor is not None
            try:
                first, last = read_direct(descriptor, view, memory.ctypes.data + begin, offset)
            finally:
                os.close(descriptor)
        middle = slice(first, n - last)
        assert bytes(view[middle]) == content[offset : offset + n][middle]
        if begin == fitting:
            assert first + last < 2 * ALIGNMENT or n < 2 * ALIGNMENT


def test_what_is_in_the_page_cache_is_read_from_there(noise: Path) -> None:
    noise.read_bytes()
    with noise.open("rb") as stream:
        assert open_direct(stream.fileno()) is None
        found = 1.0
        for _ in range(100):  # the kernel may be at work on a page just now, and keeps it then
            drop(noise)
            found = direct._share_cached(stream.fileno())
            if not found:
                break
            time.sleep(0.01)
        assert found == 0.0
        stream.read(1)
        assert direct._share_cached(stream.fileno()) > 0


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as stream:
        assert open_direct(stream.fileno()) is None


def test_segments_begin_where_they_can_be_read_directly(tmp_path: Path) -> None:
    for labels in ([], ["b@1", "memory@2 \u00e9\n\"'\\ \x7f"], [f"m{i}@1" for i in range(300)]):
        for codec in ("none", "zstd", "int4"):
            path = tmp_path / "x.safetensors"
            write_segment(path, make_segment(range(17), labels=labels), codec=codec)
            assert read_header(path).data_begin % ALIGNMENT == 0


def _lying_aside(nbytes: int) -> torch.Tensor:
    """Return memory that begins 64 bytes behind a place that can be read to directly."""
    memory = fresh_memory(nbytes + 2 * ALIGNMENT)
    begin = -memory.data_ptr() % ALIGNMENT + 64
    return memory[begin : begin + nbytes]


@pytest.mark.parametrize("stop", [None, lambda: False])
@pytest.mark.parametrize("spare", [0, ALIGNMENT])
def test_a_segment_that_is_not_in_the_page_cache(
    tmp_path: Path, nothing_cached: None, monkeypatch: pytest.MonkeyPatch, stop: object, spare: int
) -> None:
    """In large steps and in small ones, into memory that lies well and memory that does not."""
    segment = make_segment(range(900), fingerprint=LARGE)
    path = tmp_path / "x.safetensors"
    write_segment(path, segment)
    assert read_header(path).data_bytes > 10 * _INTERRUPTIBLE_BYTES
    direct_bytes = []

    def counted(descriptor: int, view: memoryview, *where: int) -> tuple[int, int]:
        first, last = read_direct(descriptor, view, *where)
        direct_bytes.append(len(view) - first - last)
        return first, last

    monkeypatch.setattr("kvcache.files.reader.read_direct", counted)
    with SegmentReader(path, LARGE, stop) as reader:  # type: ignore[arg-type]
        memory = _lying_aside(reader.header.data_bytes + spare)
        reader.fill(memory)
        back = reader.finish()
    assert torch.equal(back.keys, segment.keys)
    assert torch.equal(back.values, segment.values)
    assert sum(direct_bytes) == (0 if not spare else read_header(path).data_bytes // ALIGNMENT * ALIGNMENT)


def test_a_file_without_padding_is_read_as_before(tmp_path: Path, nothing_cached: None) -> None:
    """As earlier versions wrote them."""
    segment = make_segment(range(900), fingerprint=LARGE)
    path = tmp_path / "x.safetensors"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kvcache.files.writer.padded", lambda metadata, tensors: metadata)
        write_segment(path, segment)
    assert read_header(path).data_begin % ALIGNMENT
    assert torch.equal(read_segment(path, LARGE).values, segment.values)


def test_a_header_of_any_length(tmp_path: Path, nothing_cached: None) -> None:
    """As other writers have them: the data need not lie where numbers can be read."""
    segment = make_segment(range(900), fingerprint=LARGE)
    path = tmp_path / "x.safetensors"
    write_segment(path, segment)
    whole = path.read_bytes()
    (n,) = struct.unpack("<Q", whole[:8])
    path.write_bytes(struct.pack("<Q", n + 3) + whole[8 : 8 + n] + b"   " + whole[8 + n :])
    assert torch.equal(read_segment(path, LARGE).values, segment.values)


def test_damage_is_found(tmp_path: Path, nothing_cached: None) -> None:
    path = tmp_path / "x.safetensors"
    write_segment(path, make_segment(range(900), fingerprint=LARGE))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(SegmentCorrupt, match="checksum"):
        read_segment(path, LARGE)


def test_a_drive_that_refuses(tmp_path: Path, nothing_cached: None, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = make_segment(range(900), fingerprint=LARGE)
    path = tmp_path / "x.safetensors"
    write_segment(path, segment)

    before = os.preadv

    def refused(descriptor: int, *arguments: object) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return before(descriptor, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", refused)
    assert torch.equal(read_segment(path, LARGE).keys, segment.keys)
